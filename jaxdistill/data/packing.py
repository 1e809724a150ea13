"""Packing: several examples in one sequence of fixed length."""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from jaxdistill.data.examples import Example, TeacherExample
from jaxdistill.types import Batch, TokenAlignment


def best_fit_decreasing(sizes: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack items into bins, the largest first, each into the fullest bin that has room.

    Returns the indices of the items in each bin. No item is larger than `capacity`.
    """
    bins: list[list[int]] = []
    bins_by_room: dict[int, list[int]] = defaultdict(list)  # room left -> indices of bins
    rooms: list[int] = []  # sorted keys of `bins_by_room` that have bins
    for item in sorted(range(len(sizes)), key=lambda item: -sizes[item]):
        size = sizes[item]
        index = bisect_left(rooms, size)
        if index < len(rooms):
            room = rooms[index]
            chosen = bins_by_room[room].pop()
            if not bins_by_room[room]:
                rooms.pop(index)
        else:
            room, chosen = capacity, len(bins)
            bins.append([])
        bins[chosen].append(item)
        if not bins_by_room[room - size]:
            insort(rooms, room - size)
        bins_by_room[room - size].append(chosen)
    return bins


def pack_sequence(
    examples: Sequence[Example], length: int, *, has_teacher_view: bool = False
) -> Batch:
    """Concatenate examples into a sequence of `length` positions: a Batch without batch axis.

    Each example is a segment, numbered from 1; the rest is padding, segment 0. Labels are shifted
    here: the position of token t of an example has token t + 1 as its label. With a teacher view,
    which every example then has, the teacher's tokens get as many positions.
    """
    batch = _concatenate(examples, [example.row_id for example in examples], length)
    return replace(batch, alignment=_align(examples, length)) if has_teacher_view else batch


def _concatenate(
    examples: Sequence[Example | TeacherExample], row_ids: Sequence[int], length: int
) -> Batch:
    tokens, labels, positions, segment_ids = np.zeros((4, length), dtype=np.int32)
    example_ids = np.full(length, -1, dtype=np.int32)
    loss_mask = np.zeros(length, dtype=np.float32)
    segments = zip(examples, row_ids, _segment_slices(examples), strict=True)
    for segment, (example, row_id, where) in enumerate(segments, start=1):
        tokens[where] = example.tokens[:-1]
        labels[where] = example.tokens[1:]
        loss_mask[where] = example.loss_mask[1:]
        positions[where] = np.arange(len(example.tokens) - 1)
        segment_ids[where] = segment
        example_ids[where] = row_id
    return Batch(
        tokens=tokens,
        labels=labels,
        loss_mask=loss_mask,
        positions=positions,
        segment_ids=segment_ids,
        example_ids=example_ids,
    )


def _align(examples: Sequence[Example], length: int) -> TokenAlignment:
    teacher_examples = [e.teacher_example for e in examples if e.teacher_example is not None]
    student_span_ids, teacher_span_ids = np.full((2, length), -1, dtype=np.int32)
    span_weight = np.zeros(length, dtype=np.float32)
    slices = _segment_slices(examples), _segment_slices(teacher_examples)
    for example, student, teacher in zip(teacher_examples, *slices, strict=True):
        span_weight[student] = example.weight[1:]
        # The id of a span becomes a position: the one before its last token, which predicts it.
        for packed, ids, where in (
            (student_span_ids, example.student_span_ids, student),
            (teacher_span_ids, example.teacher_span_ids, teacher),
        ):
            packed[where] = np.where(ids[1:] >= 0, student.start + ids[1:] - 1, -1)
    return TokenAlignment(
        teacher=_concatenate(teacher_examples, [example.row_id for example in examples], length),
        span_weight=span_weight,
        student_span_ids=student_span_ids,
        teacher_span_ids=teacher_span_ids,
    )


def _segment_slices(examples: Sequence[Example | TeacherExample]) -> list[slice]:
    """Return the positions of each example: one fewer than its tokens, as the last is a label."""
    ends = np.cumsum([len(example.tokens) - 1 for example in examples], dtype=np.int64).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def bucket_length(length: int) -> int:
    """Round up to 32, 64, 96, 128, 192, 256, 384, ... (two per octave): few programs to compile."""
    step = max(32, 1 << max(0, length.bit_length() - 2))
    return -(-length // step) * step
