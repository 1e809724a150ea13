"""Alignment of released tokenizers: spans cover the completion once and in order, in any script.

Slow. The first run downloads; a tokenizer that cannot be downloaded fails the tests.
"""

import itertools
import time
import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from real_tokenizers import TOKENIZERS

from jaxdistill import align
from jaxdistill.data.examples import TeacherExample
from jaxdistill.data.renderer import Renderer
from jaxdistill.data.row_formats import parse_row
from jaxdistill.data.teacher_view import TeacherView
from jaxdistill.data.tokenization import tokenize_rows, tokenize_untruncated
from tests.align.single_tokens import single_tokens

pytestmark = pytest.mark.slow

SPANS = align.AlignmentRule("spans")
PAIRS = list(itertools.permutations(TOKENIZERS, 2))

HARD = (
    "Janet has 16 eggs; 3 + 4 = 7, so 16 - 7 = 9. She earns 9 * $2 = $18.\n#### 18",
    "1234567890 3.14159 1,000,000 ٣٤٥ ¹²³ Ⅷ",
    "  two before, three between   and one after ",
    "\n\n\t\tdef f(x):\r\n    return x ** 2\n\n\n",
    "東京タワーは高い。北京欢迎你！한국어 ภาษาไทย हिन्दी עברית العربية",
    "👩‍🔬👍🏽🇩🇰🏴󠁧󠁢󠁥󠁮󠁧󠁿 ☃️🙂",
    "naïve café Zürich, cafe\u0301 Zu\u0308rich, a\u0323\u0307 q\u0307\u0323",
    "한글 \u1112\u1161\u11ab\u1100\u1173\u11af, ｶﾞｷﾞ, ﬁ ﬃ ½ ㎏ … ™ Å",
    "zero\u200bwidth\u200d\ufeff, soft\u00adhyphen, \u00a0\u2003\u3000spaces\u2028lines\u0085",
    "\x00\x01\x7f\U0010ffff\ufffd\ue000",
    "a\u0301" * 8 + "\u0301" * 4,
    "e",
    " ",
)

PIECES = (
    *"abc 129\n\t.,é東🙂👩\u200d🔬ﬁ½¼é가",
    *(
        "e\u0301",
        "\u0327",
        "\u1100\u1161",
        "the",
        " cat",
        "  ",
        "1234",
        "\r\n",
        "def f(x):",
        "👍🏽",
    ),
)
TEXTS = st.lists(
    st.characters(codec="utf-8", exclude_categories=["Cs"]) | st.sampled_from(PIECES),
    min_size=1,
    max_size=30,
).map("".join)
PROMPTS = ["", "Q: ", "東", "What is it?\n"]


class Encoding(NamedTuple):
    """Tokens of a text, computed from the tokenizer's own bytes and offsets.

    Attributes:
        tokens: Token ids.
        token_bytes: Bytes of each token; None for special tokens.
        ends: UTF-8 byte of the text where each token ends.
        is_whole: True if the bytes make up the text or its normal form. SmolLM2 has no token for
            some bytes, and leaves them out silently.
    """

    tokens: list[int]
    token_bytes: list[bytes | None]
    ends: list[int]
    is_whole: bool

    @property
    def starts(self):
        return [0, *self.ends[:-1]]

    @classmethod
    def encode(cls, name, text):
        renderer = make_renderer(name)
        encoded = renderer.tokenizer(text, return_offsets_mapping=True)
        token_bytes = [renderer.token_bytes[token] for token in encoded.input_ids]
        joined = b"".join(part or b"" for part in token_bytes)
        if joined == b" " + text.encode():  # Mistral's first space is not part of the text
            first = next(index for index, part in enumerate(token_bytes) if part is not None)
            token_bytes[first] = token_bytes[first].removeprefix(b" ")
            joined = joined[1:]
        if joined == text.encode():
            ends = list(itertools.accumulate(len(part or b"") for part in token_bytes))
        else:
            ends = [
                len(text[:end].encode()) for end in character_ends(encoded.offset_mapping, text)
            ]
        normal = unicodedata.normalize("NFKC", text).encode()
        return cls(encoded.input_ids, token_bytes, ends, joined in (text.encode(), normal))


def character_ends(offsets, text):
    """Return the first character after each token where a token starts and none continues."""
    starts = {start for start, end in offsets if end > start}
    cuts = [
        cut
        for cut in sorted({*starts, len(text)})
        if not any(start < cut < end for start, end in offsets)
    ]
    return [min(cut for cut in cuts if cut >= end) if end else 0 for _, end in offsets]


@cache
def make_renderer(name):
    return Renderer(TOKENIZERS[name]())


def make_examples(rows, student, teacher):
    return tokenize_rows(
        rows,
        make_renderer(student),
        teacher_view=TeacherView(make_renderer(teacher), SPANS, "refuse"),
        loss_on="completion",
        length=100_000,
        truncation="drop",
    ).examples


def make_row(prompt, completion):
    fields = {"prompt": prompt, "completion": completion}
    return parse_row(fields, source="rows:1", row_id=0, as_chat=False)


def spans_of(example):
    """Return the tokens of each span on both sides, without the last span of the end tokens."""
    view = example.teacher_example
    spans = [
        [
            np.flatnonzero(ids == n).tolist()
            for ids in (view.student_span_ids, view.teacher_span_ids)
        ]
        for n in np.flatnonzero(view.weight)
    ]
    assert spans.pop() == [[len(example.tokens) - 1], [len(view.tokens) - 1]]
    assert sum(len(student) for student, _ in spans) == (view.student_span_ids >= 0).sum() - 1
    return spans


def check_alignment(prompt, completion, student, teacher):
    (example,) = make_examples([make_row(prompt, completion)], student, teacher)
    sides = [Encoding.encode(name, prompt + completion) for name in (student, teacher)]
    for side, tokens in zip(sides, (example.tokens, example.teacher_example.tokens), strict=True):
        assert tokens[:-1].tolist() == side.tokens
    spans = spans_of(example)
    start = first_common_start(sides, len(prompt.encode()))
    check_cover(spans, sides, start, len((prompt + completion).encode()))
    check_bytes(spans, sides, prompt + completion)
    indices = [
        [index for index, end in enumerate(side.ends) if end > start and index > 0]
        for side in sides
    ]
    ends = [[side.ends[n] for n in chosen] for side, chosen in zip(sides, indices, strict=True)]
    if all(side == sorted(set(side)) for side in ends):  # TRL separates tokens that end together
        expected = [
            [[chosen[n] for n in span] for chosen, span in zip(indices, pair, strict=True)]
            for pair in trl_spans(*ends)
        ]
        assert spans == expected


def first_common_start(sides, completion_start):
    """Return the first byte where both sides start a predicted token of the completion."""
    starts = []
    for side in sides:
        predicted = list(zip(side.starts, side.ends, strict=True))[1:]  # nothing predicts the first
        starts.append({start for start, end in predicted if end > completion_start})
    return min(starts[0] & starts[1], default=sides[0].ends[-1])


def check_cover(spans, sides, start, size):
    """Check that each byte from `start` to `size` is in one span, in order."""
    end = start
    for span in spans:
        for side, indices in zip(sides, span, strict=True):
            assert indices == list(range(indices[0], indices[-1] + 1))
            assert side.starts[indices[0]] == end
        end = sides[0].ends[span[0][-1]]
        assert end == sides[1].ends[span[1][-1]]
    assert end == size


def check_bytes(spans, sides, text):
    """Check that both sides of a span have the same bytes, up to Unicode normalisation."""
    for span in spans:
        student, teacher = (
            b"".join(side.token_bytes[index] for index in indices)
            for side, indices in zip(sides, span, strict=True)
        )
        if student != teacher and not is_reordered(text):
            assert normal_form(student) == normal_form(teacher)


def normal_form(text):
    return unicodedata.normalize("NFKC", text.decode())


def is_reordered(text):
    """Return True if normalisation swaps characters: offsets assume that they stay in order."""
    separate = "".join(unicodedata.normalize("NFKD", letter) for letter in text)
    return unicodedata.normalize("NFKD", text) != separate


def trl_spans(student_ends, teacher_ends):
    """Align as TRL does: advance the side that is behind; a span ends where both ends are equal."""
    spans, first, index = [], (0, 0), [0, 0]
    while index[0] < len(student_ends) and index[1] < len(teacher_ends):
        ends = student_ends[index[0]], teacher_ends[index[1]]
        index = [index[n] + (ends[n] == min(ends)) for n in (0, 1)]
        if ends[0] == ends[1]:
            spans.append((range(first[0], index[0]), range(first[1], index[1])))
            first = tuple(index)
    return spans


@pytest.mark.parametrize(("student", "teacher"), PAIRS)
def test_spans_cover_hard_texts_once(student, teacher):
    for prompt, completion in itertools.product(PROMPTS, HARD):
        assert Encoding.encode(teacher, prompt + completion).is_whole
        check_alignment(prompt, completion, student, teacher)


@pytest.mark.parametrize(("student", "teacher"), PAIRS)
@settings(deadline=None, max_examples=100)
@given(completion=TEXTS, prompt=st.sampled_from(PROMPTS))
def test_spans_cover_any_text_once(student, teacher, completion, prompt):
    # Special tokens are not text, and "▁" is SentencePiece's space.
    assume("<" not in completion and "▁" not in completion)
    assume(all(Encoding.encode(name, prompt + completion).is_whole for name in (student, teacher)))
    check_alignment(prompt, completion, student, teacher)


NAMES = ("Janet", "Mark", "Ali", "Mei", "Sofía")
THINGS = ("apples", "marbles", "stickers", "tickets", "duck eggs")


def math_rows(count):
    """Return rows like those of GSM8K: a story, and a solution in steps."""
    rows = []
    for number in range(count):
        name, thing = NAMES[number % 5], THINGS[number // 5 % 5]
        first, more, price = number % 89 + 3, number % 47 + 2, number % 13 + 1
        total = first + more
        rows.append(
            make_row(
                f"Question: {name} has {first} {thing} and buys {more} more. Each of them is sold "
                f"for ${price} at the market. How much does {name} earn if all are sold?\nAnswer: ",
                f"{name} has {first} + {more} = <<{first}+{more}={total}>>{total} {thing}.\n"
                f"All of them bring in {total} * ${price} = "
                f"$<<{total}*{price}={total * price}>>{total * price}.\n#### {total * price}",
            )
        )
    return rows


@pytest.mark.parametrize(("student", "teacher"), PAIRS)
def test_a_text_that_is_one_token_of_both_is_an_exact_match(student, teacher):
    renderers = make_renderer(student), make_renderer(teacher)
    student_bytes, teacher_bytes = (renderer.text_token_bytes for renderer in renderers)
    pairs = single_tokens(*renderers)
    assert len(pairs) > 1000
    student_matches, teacher_matches = align.exact_matches(student_bytes, teacher_bytes)
    shared = align.build_shared_buckets(
        align.retokenize(student_bytes, teacher_bytes, renderers[1].encode_batch),
        align.retokenize(teacher_bytes, student_bytes, renderers[0].encode_batch),
    )
    for own, other in pairs:
        assert (student_matches[own], teacher_matches[other]) == (other, own)
        assert shared.student_buckets[own, 0] == shared.teacher_buckets[other] > 0


@pytest.mark.parametrize(("student", "teacher"), PAIRS)
def test_thousands_of_tokens_are_aligned_in_a_second(student, teacher):
    rows, renderers = math_rows(1000), [make_renderer(student), make_renderer(teacher)]
    tokenized = [
        list(tokenize_untruncated(rows, renderer, loss_on="completion")) for renderer in renderers
    ]
    assert all(len(renderer.token_bytes) > 1000 for renderer in renderers)  # computed beforehand
    view = TeacherView(renderers[1], SPANS, "refuse")
    start = time.process_time()  # of one core, whatever else the machine does
    for pair in zip(*tokenized, strict=True):
        assert isinstance(view.align_row(*pair, renderers[0], 1000, "drop"), TeacherExample)
    seconds = time.process_time() - start
    assert sum(len(row.tokens) for row in tokenized[0]) / seconds > 20_000
