"""Rows in the tokens of two tokenizers: every group says the same on both sides, in any script."""

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from jaxdistill import align
from jaxdistill.data.packing import pack_sequence
from jaxdistill.data.renderer import Renderer
from jaxdistill.data.row_formats import parse_row
from jaxdistill.data.rows import with_completion
from jaxdistill.data.teacher_view import TeacherView
from jaxdistill.data.tokenization import tokenize_rows
from jaxdistill.errors import UserError

READERS = {
    "byte-level": tiny.tokenizer(),
    "others words": tiny.tokenizer(vocab_size=280, chat_template="{{ messages[0].content }}"),
    "offsets without spaces": tiny.tokenizer(trim_offsets=True, vocab_size=300),
    "with a start": tiny.tokenizer(bos=True, vocab_size=310),
    "sentencepiece": tiny.sentencepiece(),
}
BYTES = {name: align.token_bytes(reader) for name, reader in READERS.items()}
SPANS, POSITIONS = align.AlignmentRule("spans"), align.AlignmentRule("positions", "rows")
TALK = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello there, 東京"},
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": " Paris 12 "},
]


def paired(fields, mine, theirs, alignment=SPANS, unpaired="drop", **options):
    row = parse_row(fields, source="rows:1", row_id=0, as_chat=False)
    beside = TeacherView(Renderer(READERS[theirs]), alignment, unpaired)
    options = {"loss_on": "completion", "length": 500, "truncation": "cut_end"} | options
    return tokenize_rows([row], Renderer(READERS[mine]), teacher_view=beside, **options)


def spoken(tokens, groups, words):
    """What the tokens of each group say, by its number; marks are named."""
    said = {}
    for token, group in zip(tokens, groups, strict=True):
        if group >= 0:
            said.setdefault(int(group), []).append(words[token])
    return {
        group: b"".join(parts) if None not in parts else "a mark" for group, parts in said.items()
    }


def check_groups(example, mine, theirs):
    """Both sides of every group say the same, in order, each ended by the student's last token."""
    other = example.counterpart
    left = spoken(example.tokens, other.student_span_ids, BYTES[mine])
    right = spoken(other.tokens, other.teacher_span_ids, BYTES[theirs])
    assert left == right
    assert list(left) == sorted(left) == np.flatnonzero(other.weight).tolist()
    for group in left:
        assert np.flatnonzero(other.student_span_ids == group).max() == group
    return left


TEXTS = st.text(
    st.one_of(
        st.characters(codec="utf-8", exclude_categories=["Cs"]),
        st.sampled_from("abc 12\n\t.,é東🙂👩\u200d🔬ﬁ½"),
    ),
    min_size=1,
    max_size=30,
)


@pytest.mark.parametrize("mine", list(READERS))
@pytest.mark.parametrize("theirs", ["others words", "sentencepiece"])
@settings(deadline=None, max_examples=60)
@given(answer=TEXTS, prompt=st.sampled_from(["", "Q: ", "東", "What is it?\n"]))
def test_groups_cover_the_answer_once(mine, theirs, answer, prompt):
    # The marks of the tokenizers themselves are no text, and SentencePiece's space is its letter.
    if any(mark in answer for mark in ("<", "▁")):
        return
    (example,), _ = paired({"prompt": prompt, "completion": answer}, mine, theirs)
    groups = [said for said in check_groups(example, mine, theirs).values() if said != "a mark"]
    whole, found = (prompt + answer).encode(), b"".join(groups)
    assert found == whole[first_meeting(example, mine, theirs, len(prompt.encode())) :]


def first_meeting(example, mine, theirs, prompt_size):
    """The first byte where both sides begin a token of those that are predicted."""
    sides = []
    for tokens, name in ((example.tokens, mine), (example.counterpart.tokens, theirs)):
        ends = np.cumsum([len(BYTES[name][token] or b"") for token in tokens])
        begins = np.concatenate([[0], ends[:-1]])
        predicted = (ends > prompt_size) & (np.arange(len(tokens)) > 0)
        sides.append({*begins[predicted].tolist(), int(ends[-1])})
    return min(sides[0] & sides[1])


def said_together(answer, mine, theirs):
    """What both sides of each group of an answer say, to a tokenizer and to another."""
    row = parse_row({"prompt": "Q: ", "completion": answer}, source="r:1", row_id=0, as_chat=False)
    (example,), _ = tokenize_rows(
        [row],
        Renderer(mine),
        teacher_view=TeacherView(Renderer(theirs), SPANS),
        loss_on="completion",
        length=500,
        truncation="cut_end",
    )
    other = example.teacher_example
    sides = (
        spoken(example.tokens, other.student_span_ids, align.token_bytes(mine)),
        spoken(other.tokens, other.teacher_span_ids, align.token_bytes(theirs)),
    )
    pairs = [(said, sides[1][group]) for group, said in sides[0].items()]
    assert pairs.pop() == ("a mark", "a mark")
    return pairs


def test_an_accent_that_is_composed_stays_with_its_letter():
    normalising = tiny.tokenizer()
    normalising.backend_tokenizer.normalizer = normalizers.NFC()
    pairs = said_together("#e\u0301#", READERS["byte-level"], normalising)
    assert ("e\u0301".encode(), "é".encode()) in pairs
    assert pairs[-1] == (b"#", b"#")


def test_accents_that_change_places_are_not_lost():
    normalising = tiny.tokenizer()
    normalising.backend_tokenizer.normalizer = normalizers.NFC()
    pairs = said_together("#e\u0301\u0327#", READERS["byte-level"], normalising)
    mine, theirs = (b"".join(side) for side in zip(*pairs, strict=True))
    assert mine == "#e\u0301\u0327#".encode()
    assert theirs == "#\u0229\u0301#".encode()


def test_what_is_lost_behind_a_mark_is_seen():
    losing = tiny.tokenizer()
    losing.add_special_tokens({"additional_special_tokens": ["<S>"]})
    steps = [normalizers.Replace("x", ""), normalizers.NFC()]
    losing.backend_tokenizer.normalizer = normalizers.Sequence(steps)
    row = parse_row(
        {"prompt": "Q: ", "completion": "#a<S>xb#"}, source="r:1", row_id=0, as_chat=False
    )
    examples, counts = tokenize_rows(
        [row],
        Renderer(READERS["byte-level"]),
        teacher_view=TeacherView(Renderer(losing), SPANS),
        loss_on="completion",
        length=500,
        truncation="cut_end",
    )
    assert not examples
    assert "nothing to compare" in str(counts)


def test_tokens_with_parts_of_one_character_stay_together():
    # "¼" is read as "1⁄4", and "41" is one word.
    alphabet = {letter: n for n, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    words = {**alphabet, "41": len(alphabet), "<end>": len(alphabet) + 1}
    inner = Tokenizer(BPE(words, [("4", "1")]))
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<end>"])
    normalising = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")
    pairs = said_together("#¼¼#", READERS["byte-level"], normalising)
    assert pairs == [(b"#", b"#"), ("¼¼".encode(), "1⁄41⁄4".encode()), (b"#", b"#")]


def test_a_space_put_before_the_text_hides_no_bytes():
    prefixing = tiny.sentencepiece()
    steps = [normalizers.Prepend("▁"), prefixing.backend_tokenizer.normalizer]
    prefixing.backend_tokenizer.normalizer = normalizers.Sequence(steps)
    pairs = said_together("東京", READERS["byte-level"], prefixing)
    assert pairs == said_together("東京", READERS["byte-level"], READERS["sentencepiece"])
    assert len(pairs) > 2  # they meet inside of the characters


@pytest.mark.parametrize("mine", ["byte-level", "sentencepiece"])
def test_only_what_the_assistant_says_is_paired_whatever_the_template(mine):
    theirs = "sentencepiece" if mine == "byte-level" else "byte-level"
    (example,), _ = paired({"messages": TALK}, mine, theirs)
    groups = list(check_groups(example, mine, theirs).values())
    assert groups.count("a mark") == 2
    assert groups[-1] == "a mark"
    text = b"".join(said for said in groups if said != "a mark").decode()
    assert "".join(text.split()) == "Hellothere,東京Paris12"


def test_positions_pair_the_nth_with_the_nth_and_leave_out_the_end():
    (example,), counts = paired(
        {"prompt": "Q: ", "completion": "the cat sat"}, "byte-level", "sentencepiece", POSITIONS
    )
    other = example.teacher_example
    pairs = [
        (np.flatnonzero(other.student_span_ids == g), np.flatnonzero(other.teacher_span_ids == g))
        for g in np.flatnonzero(other.weight)
    ]
    first = [np.argmax(side.loss_mask) for side in (example, other)]
    assert [[len(a), len(b)] for a, b in pairs] == [[1, 1]] * len(pairs)
    assert [[a[0] - first[0], b[0] - first[1]] for a, b in pairs] == [
        [n, n] for n in range(len(pairs))
    ]
    assert len(pairs) == min(example.loss_mask.sum(), other.loss_mask.sum()) - 1
    assert f"to learn, compared in {len(pairs)} groups" in str(counts)
    np.testing.assert_allclose(other.weight.sum(), 1)


@pytest.mark.parametrize("truncation", ["cut_end", "cut_start"])
@pytest.mark.parametrize("length", [6, 12, 20])
def test_a_row_that_is_cut_keeps_the_groups_that_are_whole(truncation, length):
    fields = {"prompt": "What is ", "completion": "the capital of 東京 and of France? " * 2}
    examples, counts = paired(
        fields, "byte-level", "sentencepiece", truncation=truncation, length=length
    )
    assert counts.truncated_rows + counts.unpaired_rows == 1
    for example in examples:
        check_groups(example, "byte-level", "sentencepiece")
        assert max(len(example.tokens), len(example.teacher_example.tokens)) <= length + 1


def test_a_sequence_says_where_groups_end():
    made = []
    for answer in ("the cat", "what, 東京?"):
        (example,), _ = paired(
            {"prompt": "Q ", "completion": answer}, "byte-level", "sentencepiece"
        )
        made.append(example)
    batch = pack_sequence(made, 64, has_teacher_view=True)
    pairing, ends = batch.alignment, np.flatnonzero(batch.alignment.span_weight)
    for end in ends:
        words = [
            (side.labels[groups == end], side.segment_ids[groups == end], reader)
            for side, groups, reader in (
                (batch, pairing.student_span_ids, BYTES["byte-level"]),
                (pairing.teacher, pairing.teacher_span_ids, BYTES["sentencepiece"]),
            )
        ]
        said = [[reader[label] for label in labels] for labels, _, reader in words]
        assert None in said[0] or b"".join(said[0]) == b"".join(said[1])
        assert len({int(s) for _, segments, _ in words for s in segments}) == 1
    assert len(ends) == sum((one.counterpart.weight > 0).sum() for one in made)
    empty = pack_sequence([], 64, has_teacher_view=True)
    assert not empty.alignment.span_weight.any()
    assert (empty.alignment.teacher_span_ids == -1).all()


@pytest.mark.parametrize("loss_on", ["completion", "all"])
@pytest.mark.parametrize("prompt", ["Q: ", [{"role": "user", "content": "Q"}]])
def test_an_answer_that_was_broken_off_has_no_end(loss_on, prompt):
    row = parse_row({"prompt": prompt, "completion": None}, source="r:1", row_id=0, as_chat=False)
    for is_finished in (True, False):
        whole = with_completion(row, "the cat", is_finished=is_finished)
        for mine, theirs in (("byte-level", "sentencepiece"), ("sentencepiece", "byte-level")):
            beside = TeacherView(Renderer(READERS[theirs]), SPANS)
            (example,), _ = tokenize_rows(
                [whole],
                Renderer(READERS[mine]),
                teacher_view=beside,
                loss_on=loss_on,
                length=100,
                truncation="cut_end",
            )
            learned = example.tokens[example.loss_mask].tolist()
            marks = [BYTES[mine][token] is None for token in learned]
            # A template may write a line break behind the end of a turn, which `all` learns.
            assert any(marks[-2:]) == is_finished
            groups = check_groups(example, mine, theirs)
            assert ("a mark" in groups.values()) == is_finished


def test_positions_are_those_of_the_answer_whether_or_not_the_first_is_predicted():
    (example,), _ = paired({"text": "the cat sat"}, "byte-level", "sentencepiece", POSITIONS)
    other = example.teacher_example
    words = [
        [BYTES[name][token] for token, group in zip(tokens, groups, strict=True) if group >= 0]
        for name, tokens, groups in (
            ("byte-level", example.tokens, other.student_span_ids),
            ("sentencepiece", other.tokens, other.teacher_span_ids),
        )
    ]
    everything = [
        [word for token in tokens if (word := BYTES[name][token]) is not None]
        for name, tokens in (("byte-level", example.tokens), ("sentencepiece", other.tokens))
    ]
    size = min(map(len, everything))
    assert words == [side[1:size] for side in everything]  # nothing predicts the student's first


def test_positions_are_counted_anew_in_every_answer():
    talk = [
        *({"role": "user", "content": "Q"}, {"role": "assistant", "content": "the cat sat on"}),
        *({"role": "user", "content": "Q"}, {"role": "assistant", "content": "東京"}),
    ]
    readers = "byte-level", "sentencepiece"
    (example,), _ = paired({"messages": talk}, *readers, POSITIONS)
    other = example.teacher_example
    sides = (example.tokens, other.student_span_ids), (other.tokens, other.teacher_span_ids)
    words = [spoken_one_by_one(*side, name) for side, name in zip(sides, readers, strict=True)]
    assert len(words[0]) == len(words[1])
    assert words[0] != words[1]
    begins = [next(n for n, word in enumerate(side) if word[0] > 127) for side in words]
    assert begins[0] == begins[1]  # the second answer stands beside the second


def spoken_one_by_one(tokens, groups, name):
    return [BYTES[name][t] for t, group in zip(tokens, groups, strict=True) if group >= 0]


def test_a_prompt_that_leaves_the_teacher_no_room_is_too_long():
    fields = {"prompt": "Q", "completion": " a cat", "teacher_prompt": "An example. " * 40}
    options = {"mine": "byte-level", "theirs": "sentencepiece", "length": 30}
    for unpaired in ("drop", "refuse"):
        examples, counts = paired(fields, **options, unpaired=unpaired)
        assert not examples
        assert (counts.dropped_rows, counts.unpaired_rows) == (1, 0)


def test_letters_that_a_tokenizer_leaves_out_are_missed():
    """Without a word for the unknown, and without bytes, a tokenizer drops them in silence."""
    inner = Tokenizer(BPE({letter: n for n, letter in enumerate("abcQ: e")}, []))
    inner.normalizer = normalizers.NFC()
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    READERS["few letters"] = PreTrainedTokenizerFast(tokenizer_object=inner)
    for answer, is_known in ((" abc", True), (" a東c", False), ("東", False), (" ca東", False)):
        fields = {"prompt": "Q:", "completion": answer}
        (*examples,), counts = paired(fields, "byte-level", "few letters")
        assert (len(examples), counts.unpaired_rows) == ((1, 0) if is_known else (0, 1)), answer
    with pytest.raises(UserError, match="has no token for a part of its answer"):
        paired(fields, "byte-level", "few letters", unpaired="refuse")


def test_what_cannot_be_compared_is_dropped_or_refused():
    fields = {"prompt": "Q", "completion": ""}
    options = {"mine": "byte-level", "theirs": "sentencepiece", "alignment": POSITIONS}
    examples, counts = paired(fields, **options)
    assert not examples
    assert counts.unpaired_rows == 1
    assert "1 rows with nothing to compare" in str(counts)
    with pytest.raises(UserError, match=r"rows:1: no part of its answer.*data.unpaired=drop"):
        paired(fields, **options, unpaired="refuse")


def test_a_text_that_a_tokenizer_has_no_words_for_is_named():
    reader = tiny.tokenizer(unk_token="<|endoftext|>")
    row = parse_row(
        {"prompt": "Q", "completion": "a<|endoftext|>b"}, source="r:1", row_id=0, as_chat=False
    )
    beside = TeacherView(Renderer(reader), SPANS, "refuse")
    with pytest.raises(UserError, match="has no token for a part of its answer"):
        tokenize_rows(
            [row],
            Renderer(READERS["sentencepiece"]),
            teacher_view=beside,
            loss_on="completion",
            length=100,
            truncation="cut_end",
        )


def test_exact_tokens_belong_to_one_tokenizer():
    fields = {"prompt_tokens": [5, 6], "completion_tokens": [7]}
    with pytest.raises(UserError, match="exact tokens are those of one tokenizer"):
        paired(fields, "byte-level", "sentencepiece")
