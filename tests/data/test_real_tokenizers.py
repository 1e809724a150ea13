"""Groups of released tokenizers' tokens: they cover the answer, once and in order, in any script.

Slow, and the first time it downloads: a tokenizer that cannot be got fails the tests.
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


class Reading(NamedTuple):
    """What a tokenizer makes of a text, by its own words and offsets.

    Attributes:
        tokens: All of it.
        words: The bytes of each; None for marks.
        ends: The byte of the text that each reaches.
        is_whole: Whether the words make up the text, or the normal form of it. SmolLM2 has no word
            for some bytes, and leaves them out without a word.
    """

    tokens: list[int]
    words: list[bytes | None]
    ends: list[int]
    is_whole: bool

    @property
    def begins(self):
        return [0, *self.ends[:-1]]

    @classmethod
    def of(cls, name, text):
        templates = reader(name)
        encoded = templates.tokenizer(text, return_offsets_mapping=True)
        words = [templates.token_bytes[token] for token in encoded.input_ids]
        joined = b"".join(word or b"" for word in words)
        if joined == b" " + text.encode():  # Mistral's first space is none of the text
            first = next(place for place, word in enumerate(words) if word is not None)
            words[first] = words[first].removeprefix(b" ")
            joined = joined[1:]
        if joined == text.encode():
            ends = list(itertools.accumulate(len(word or b"") for word in words))
        else:
            ends = [
                len(text[:end].encode()) for end in character_ends(encoded.offset_mapping, text)
            ]
        normal = unicodedata.normalize("NFKC", text).encode()
        return cls(encoded.input_ids, words, ends, joined in (text.encode(), normal))


def character_ends(offsets, text):
    """The first character behind each token where one begins, and none goes on."""
    begins = {begin for begin, end in offsets if end > begin}
    cuts = [
        place
        for place in sorted({*begins, len(text)})
        if not any(begin < place < end for begin, end in offsets)
    ]
    return [min(place for place in cuts if place >= end) if end else 0 for _, end in offsets]


@cache
def reader(name):
    return Renderer(TOKENIZERS[name]())


def paired(rows, mine, theirs):
    beside = TeacherView(reader(theirs), SPANS, "refuse")
    made, _ = tokenize_rows(
        rows,
        reader(mine),
        teacher_view=beside,
        loss_on="completion",
        length=100_000,
        truncation="drop",
    )
    return made


def row(prompt, answer):
    fields = {"prompt": prompt, "completion": answer}
    return parse_row(fields, source="rows:1", row_id=0, as_chat=False)


def groups_of(example):
    """The tokens of each group on both sides but the last, which holds the ends of the answer."""
    other = example.counterpart
    numbers = np.flatnonzero(other.weight)
    groups = [
        [
            np.flatnonzero(side == n).tolist()
            for side in (other.student_span_ids, other.teacher_span_ids)
        ]
        for n in numbers
    ]
    assert groups.pop() == [[len(example.tokens) - 1], [len(other.tokens) - 1]]
    assert sum(map(len, (one[0] for one in groups))) == (other.student_span_ids >= 0).sum() - 1
    return groups


def check(prompt, answer, mine, theirs):
    (example,) = paired([row(prompt, answer)], mine, theirs)
    sides = [Reading.of(name, prompt + answer) for name in (mine, theirs)]
    for side, tokens in zip(sides, (example.tokens, example.teacher_example.tokens), strict=True):
        assert tokens[:-1].tolist() == side.tokens
    groups = groups_of(example)
    start = first_meeting(sides, len(prompt.encode()))
    check_cover(groups, sides, start, len((prompt + answer).encode()))
    check_words(groups, sides, prompt + answer)
    places = [
        [place for place, end in enumerate(side.ends) if end > start and place > 0]
        for side in sides
    ]
    ends = [[side.ends[n] for n in numbers] for side, numbers in zip(sides, places, strict=True)]
    if all(side == sorted(set(side)) for side in ends):  # TRL parts pieces that end together
        walked = [
            [[numbers[n] for n in group] for numbers, group in zip(places, both, strict=True)]
            for both in walk(*ends)
        ]
        assert groups == walked


def first_meeting(sides, answer):
    """The first byte where both begin a token of the answer; nothing predicts the first of all."""
    starts = []
    for side in sides:
        predicted = list(zip(side.begins, side.ends, strict=True))[1:]
        starts.append({begin for begin, end in predicted if end > answer})
    return min(starts[0] & starts[1], default=sides[0].ends[-1])


def check_cover(groups, sides, start, size):
    """Each byte from there to the end is in one group, in order."""
    reached = start
    for group in groups:
        for side, places in zip(sides, group, strict=True):
            assert places == list(range(places[0], places[-1] + 1))
            assert side.begins[places[0]] == reached
        reached = sides[0].ends[group[0][-1]]
        assert reached == sides[1].ends[group[1][-1]]
    assert reached == size


def check_words(groups, sides, text):
    """Both sides of a group say the same, but for what one of them normalised."""
    for group in groups:
        mine, theirs = (
            b"".join(side.words[place] for place in places)
            for side, places in zip(sides, group, strict=True)
        )
        if mine != theirs and not has_unordered_marks(text):
            assert len({unicodedata.normalize("NFKC", one.decode()) for one in (mine, theirs)}) == 1


def has_unordered_marks(text):
    """Whether to normalise swaps characters: offsets do not say which, but count them in order."""
    apart = "".join(unicodedata.normalize("NFKD", letter) for letter in text)
    return unicodedata.normalize("NFKD", text) != apart


def walk(mine, theirs):
    """TRL's walk along the ends: who is behind takes a step, and where both are, a group ends."""
    groups, first, place = [], (0, 0), [0, 0]
    while place[0] < len(mine) and place[1] < len(theirs):
        here = mine[place[0]], theirs[place[1]]
        place = [place[n] + (here[n] == min(here)) for n in (0, 1)]
        if here[0] == here[1]:
            groups.append((range(first[0], place[0]), range(first[1], place[1])))
            first = tuple(place)
    return groups


@pytest.mark.parametrize(("mine", "theirs"), PAIRS)
def test_groups_cover_hard_texts_once(mine, theirs):
    for prompt, answer in itertools.product(PROMPTS, HARD):
        assert Reading.of(theirs, prompt + answer).is_whole
        check(prompt, answer, mine, theirs)


@pytest.mark.parametrize(("mine", "theirs"), PAIRS)
@settings(deadline=None, max_examples=100)
@given(answer=TEXTS, prompt=st.sampled_from(PROMPTS))
def test_groups_cover_any_text_once(mine, theirs, answer, prompt):
    # Marks are no text, and SentencePiece's space is its letter.
    assume("<" not in answer and "▁" not in answer)
    assume(all(Reading.of(name, prompt + answer).is_whole for name in (mine, theirs)))
    check(prompt, answer, mine, theirs)


NAMES = ("Janet", "Mark", "Ali", "Mei", "Sofía")
THINGS = ("apples", "marbles", "stickers", "tickets", "duck eggs")


def sums(count):
    """Rows such as those of GSM8K: a story, and the answer in steps."""
    rows = []
    for number in range(count):
        name, thing = NAMES[number % 5], THINGS[number // 5 % 5]
        first, more, price = number % 89 + 3, number % 47 + 2, number % 13 + 1
        total = first + more
        rows.append(
            row(
                f"Question: {name} has {first} {thing} and buys {more} more. Each of them is sold "
                f"for ${price} at the market. How much does {name} earn if all are sold?\nAnswer: ",
                f"{name} has {first} + {more} = <<{first}+{more}={total}>>{total} {thing}.\n"
                f"All of them bring in {total} * ${price} = "
                f"$<<{total}*{price}={total * price}>>{total * price}.\n#### {total * price}",
            )
        )
    return rows


@pytest.mark.parametrize(("mine", "theirs"), PAIRS)
def test_a_text_that_is_one_token_of_both_is_one_word(mine, theirs):
    student, teacher = reader(mine), reader(theirs)
    pairs = single_tokens(student, teacher)
    assert len(pairs) > 1000
    left, right = align.exact_matches(student.text_token_bytes, teacher.text_token_bytes)
    space = align.build_shared_buckets(
        align.retokenize(student.text_token_bytes, teacher.text_token_bytes, teacher.encode_batch),
        align.retokenize(teacher.text_token_bytes, student.text_token_bytes, student.encode_batch),
    )
    for one, other in pairs:
        assert (left[one], right[other]) == (other, one)
        assert space.student_buckets[one, 0] == space.teacher_buckets[other] > 0


@pytest.mark.parametrize(("mine", "theirs"), PAIRS)
def test_thousands_of_tokens_are_aligned_in_a_second(mine, theirs):
    rows, readers = sums(1000), [reader(mine), reader(theirs)]
    made = [
        list(tokenize_untruncated(rows, templates, loss_on="completion")) for templates in readers
    ]
    assert all(len(templates.token_bytes) > 1000 for templates in readers)  # read, to begin with
    beside = TeacherView(readers[1], SPANS, "refuse")
    start = time.process_time()  # of one core, whatever else the machine does
    for left, right in zip(*made, strict=True):
        assert isinstance(beside.align_row(left, right, readers[0], 1000, "drop"), TeacherExample)
    seconds = time.process_time() - start
    num_tokens = sum(len(encoded.tokens) for encoded in made[0])
    assert num_tokens / seconds > 20_000
