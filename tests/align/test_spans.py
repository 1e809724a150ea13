"""Spans cover every byte between two shared edges once, in order, and are as small as possible."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill.align.spans import ByteRanges, align_positions, align_spans

GOLDEN = json.loads((Path(__file__).parent / "golden_trl_spans.json").read_text())


def byte_ranges(*ends, start=0):
    """Return tokens that follow each other and end at these bytes."""
    ends = np.array(ends, dtype=int)
    return ByteRanges(np.concatenate([[start], ends[:-1]])[: len(ends)].astype(int), ends)


@st.composite
def tokenizations(draw):
    """Draw two tokenizations of a text: empty tokens, truncated at both ends, one left out."""
    size = draw(st.integers(1, 40))
    sides = []
    for _ in range(2):
        cuts = draw(st.lists(st.integers(0, size), max_size=30))
        tokens = byte_ranges(*sorted([*cuts, size]))
        first = draw(st.integers(0, len(tokens.ends)))
        last = draw(st.integers(first, len(tokens.ends)))
        kept = np.arange(first, last)
        if draw(st.booleans()) and len(kept):
            kept = np.delete(kept, draw(st.integers(0, len(kept) - 1)))
        sides.append(ByteRanges(tokens.starts[kept], tokens.ends[kept]))
    return sides


def covered_bytes(side, span_ids, span_id):
    is_in_span = span_ids == span_id
    return sorted(
        byte
        for start, end in zip(side.starts[is_in_span], side.ends[is_in_span], strict=True)
        for byte in range(start, end)
    )


@given(tokenizations())
def test_spans_cover_the_same_bytes(sides):
    spans = [
        [covered_bytes(side, span_ids, n) for n in range(span_ids.max(initial=-1) + 1)]
        for side, span_ids in zip(sides, align_spans(*sides), strict=True)
    ]
    assert spans[0] == spans[1]
    covered = [byte for span in spans[0] for byte in span]
    assert covered == sorted(set(covered))  # in order, each byte once
    for span in spans[0]:
        assert span == list(range(span[0], span[-1] + 1))  # at least one byte, without a gap
        # No smaller spans: the sides share no edge inside a span.
        inside = set(span[1:])
        assert not inside & set(sides[0].starts.tolist()) & set(sides[1].starts.tolist())
    # Bytes that both sides cover, from one shared edge to the next, are in a span.
    side_bytes = [set(covered_bytes(side, np.zeros(len(side.ends)), 0)) for side in sides]
    edges = [{*side.starts.tolist(), *side.ends.tolist()} for side in sides]
    for start, end in pairwise(sorted(edges[0] & edges[1])):
        if all(set(range(start, end)) <= both for both in side_bytes):
            assert set(range(start, end)) <= set(covered)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: str(case["ends"]))
def test_spans_are_those_of_trl_except_for_tails_without_a_shared_end(case):
    spans = align_spans(*(byte_ranges(*ends) for ends in case["ends"]))
    expected = list(zip(*case["groups"], strict=True))
    student, teacher = expected[-1]
    # TRL makes one more span of what is left on both sides, whatever text that is.
    if not student or not teacher or case["ends"][0][-1] != case["ends"][1][-1]:
        expected.pop()
    actual = [
        tuple(np.flatnonzero(span_ids == n).tolist() for span_ids in spans)
        for n in range(spans.student.max() + 1)
    ]
    assert actual == [(list(student), list(teacher)) for student, teacher in expected]


def test_parts_of_a_character_stay_together():
    # "é🙂!" as [é, 🙂, !] and as [é, two parts of 🙂, !].
    spans = align_spans(byte_ranges(2, 6, 7), byte_ranges(2, 6, 6, 7))
    assert spans.student.tolist() == [0, 1, 2]
    assert spans.teacher.tolist() == [0, 1, 1, 2]


def test_digits_of_a_number_form_spans():
    # "1234 " as [12, 34, space] and as [1, 2, 3, 4, space].
    spans = align_spans(byte_ranges(2, 4, 5), byte_ranges(1, 2, 3, 4, 5))
    assert spans.student.tolist() == [0, 1, 2]
    assert spans.teacher.tolist() == [0, 0, 1, 1, 2]


def test_truncated_text_is_in_no_span():
    # The student lacks the first two bytes of "abcdef", the teacher the first and the last two.
    spans = align_spans(byte_ranges(4, 5, 6, start=2), byte_ranges(2, 3, 4, start=1))
    assert spans.student.tolist() == [0, -1, -1]
    assert spans.teacher.tolist() == [-1, 0, 0]


def test_a_missing_token_removes_only_its_own_span():
    student = ByteRanges(np.array([0, 4, 6]), np.array([2, 6, 7]))  # nothing from 2 to 4
    spans = align_spans(student, byte_ranges(2, 3, 6, 7))
    assert spans.student.tolist() == [0, -1, 1]
    assert spans.teacher.tolist() == [0, -1, -1, 1]


def test_positions_pair_tokens_of_equal_rank():
    spans = align_positions(np.array([-1, 1, 2, 3, -1]), np.array([0, -1, 2, 3, 4]))
    assert spans.student.tolist() == [-1, -1, 0, 1, -1]
    assert spans.teacher.tolist() == [-1, -1, 0, 1, -1]
    assert align_positions(np.array([0]), np.array([-1])).student.tolist() == [-1]


def test_select_keeps_the_compared_tokens():
    student = byte_ranges(1, 2, 4, 6, 7)
    teacher = byte_ranges(1, 3, 4, 5, 6, 7, 8)
    spans = align_spans(student, teacher)
    assert spans.student.tolist() == [0, 1, 1, 2, 3]
    assert spans.teacher.tolist() == [0, 1, 1, 2, 2, 3, -1]
    assert spans.select("last_token") is spans
    first = spans.select("first_token")
    assert first.student.tolist() == [0, 1, -1, 2, 3]
    assert first.teacher.tolist() == [0, 1, -1, 2, -1, 3, -1]
    single = spans.select("single_tokens")
    assert single.student.tolist() == [0, -1, -1, -1, 1]
    assert single.teacher.tolist() == [0, -1, -1, -1, -1, 1, -1]
