"""Alignment of two tokenizers: both sides of every span hold the same text, in any script."""

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

TOKENIZERS = {
    "byte-level": tiny.tokenizer(),
    "other tokens": tiny.tokenizer(vocab_size=280, chat_template="{{ messages[0].content }}"),
    "offsets without spaces": tiny.tokenizer(trim_offsets=True, vocab_size=300),
    "with BOS": tiny.tokenizer(bos=True, vocab_size=310),
    "sentencepiece": tiny.sentencepiece(),
}
BYTES = {name: align.token_bytes(tokenizer) for name, tokenizer in TOKENIZERS.items()}
BOTH = "byte-level", "sentencepiece"
SPANS, POSITIONS = align.AlignmentRule("spans"), align.AlignmentRule("positions", "rows")
SPECIAL = "a special token"
CONVERSATION = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello there, 東京"},
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": " Paris 12 "},
]


def tokenize(row, student, teacher, alignment=SPANS, unpaired="drop", **options):
    """Tokenise a row, or its fields, with a teacher view; both tokenizers are given by object."""
    if isinstance(row, dict):
        row = parse_row(row, source="rows:1", row_id=0, as_chat=False)
    view = TeacherView(Renderer(teacher), alignment, unpaired)
    options = {"loss_on": "completion", "length": 500, "truncation": "cut_end"} | options
    return tokenize_rows([row], Renderer(student), teacher_view=view, **options)


def tokenize_named(row, student, teacher, *args, **options):
    """Tokenise a row with the tokenizers of these names."""
    return tokenize(row, TOKENIZERS[student], TOKENIZERS[teacher], *args, **options)


def span_bytes(tokens, span_ids, token_bytes):
    """Return the bytes of the tokens of each span by its id; `SPECIAL` for a special token."""
    parts = {}
    for token, span in zip(tokens, span_ids, strict=True):
        if span >= 0:
            parts.setdefault(int(span), []).append(token_bytes[token])
    return {span: SPECIAL if None in part else b"".join(part) for span, part in parts.items()}


def check_spans(example, student, teacher):
    """Check that both sides of every span have the same bytes; return them by span id.

    Spans are in order, and the id of each is the index of the student's last token in it.
    """
    view = example.teacher_example
    student_bytes = span_bytes(example.tokens, view.student_span_ids, BYTES[student])
    assert student_bytes == span_bytes(view.tokens, view.teacher_span_ids, BYTES[teacher])
    spans = list(student_bytes)
    assert spans == sorted(spans) == np.flatnonzero(view.weight).tolist()
    for span in spans:
        assert np.flatnonzero(view.student_span_ids == span).max() == span
    return student_bytes


TEXTS = st.text(
    st.one_of(
        st.characters(codec="utf-8", exclude_categories=["Cs"]),
        st.sampled_from("abc 12\n\t.,é東🙂👩\u200d🔬ﬁ½"),
    ),
    min_size=1,
    max_size=30,
)


# Every student with a teacher of other offsets, and both kinds of offsets with one of the same.
@pytest.mark.parametrize(
    ("student", "teacher"),
    [(student, "sentencepiece") for student in TOKENIZERS]
    + [("offsets without spaces", "other tokens"), ("with BOS", "other tokens")],
)
@settings(deadline=None, max_examples=40)
@given(completion=TEXTS, prompt=st.sampled_from(["", "Q: ", "東", "What is it?\n"]))
def test_spans_cover_the_completion_once(student, teacher, completion, prompt):
    # Special tokens are not text, and "▁" is SentencePiece's space.
    if any(symbol in completion for symbol in ("<", "▁")):
        return
    fields = {"prompt": prompt, "completion": completion}
    (example,), _ = tokenize_named(fields, student, teacher)
    spans = [span for span in check_spans(example, student, teacher).values() if span != SPECIAL]
    start = first_common_start(example, student, teacher, len(prompt.encode()))
    assert b"".join(spans) == (prompt + completion).encode()[start:]


def first_common_start(example, student, teacher, prompt_size):
    """Return the first byte where predicted tokens of both sides start."""
    sides = []
    for tokens, name in ((example.tokens, student), (example.teacher_example.tokens, teacher)):
        ends = np.cumsum([len(BYTES[name][token] or b"") for token in tokens])
        starts = np.concatenate([[0], ends[:-1]])
        is_predicted = (ends > prompt_size) & (np.arange(len(tokens)) > 0)
        sides.append({*starts[is_predicted].tolist(), int(ends[-1])})
    return min(sides[0] & sides[1])


def aligned_bytes(completion, student, teacher):
    """Return the bytes of both sides of each span of a completion."""
    (example,), _ = tokenize({"prompt": "Q: ", "completion": completion}, student, teacher)
    view = example.teacher_example
    student_bytes = span_bytes(example.tokens, view.student_span_ids, align.token_bytes(student))
    teacher_bytes = span_bytes(view.tokens, view.teacher_span_ids, align.token_bytes(teacher))
    pairs = [(own, teacher_bytes[span]) for span, own in student_bytes.items()]
    assert pairs.pop() == (SPECIAL, SPECIAL)
    return pairs


def normalizing_tokenizer(*steps):
    tokenizer = tiny.tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.NFC()])
    return tokenizer


def test_an_accent_that_is_composed_stays_with_its_letter():
    pairs = aligned_bytes("#e\u0301#", TOKENIZERS["byte-level"], normalizing_tokenizer())
    assert ("e\u0301".encode(), "é".encode()) in pairs
    assert pairs[-1] == (b"#", b"#")


def test_accents_that_are_reordered_are_not_lost():
    pairs = aligned_bytes("#e\u0301\u0327#", TOKENIZERS["byte-level"], normalizing_tokenizer())
    student, teacher = (b"".join(side) for side in zip(*pairs, strict=True))
    assert student == "#e\u0301\u0327#".encode()
    assert teacher == "#\u0229\u0301#".encode()


def test_text_that_is_lost_after_a_special_token_is_noticed():
    losing = normalizing_tokenizer(normalizers.Replace("x", ""))
    losing.add_special_tokens({"additional_special_tokens": ["<S>"]})
    fields = {"prompt": "Q: ", "completion": "#a<S>xb#"}
    examples, counts = tokenize(fields, TOKENIZERS["byte-level"], losing)
    assert not examples
    assert "nothing to compare" in str(counts)


def test_tokens_with_parts_of_one_character_stay_together():
    # "¼" is read as "1⁄4", and "41" is one token.
    alphabet = {letter: n for n, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    vocabulary = {**alphabet, "41": len(alphabet), "<end>": len(alphabet) + 1}
    backend = Tokenizer(BPE(vocabulary, [("4", "1")]))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<end>"])
    normalizing = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")
    pairs = aligned_bytes("#¼¼#", TOKENIZERS["byte-level"], normalizing)
    assert pairs == [(b"#", b"#"), ("¼¼".encode(), "1⁄41⁄4".encode()), (b"#", b"#")]


def test_a_space_put_before_the_text_hides_no_bytes():
    prefixing = tiny.sentencepiece()
    steps = [normalizers.Prepend("▁"), prefixing.backend_tokenizer.normalizer]
    prefixing.backend_tokenizer.normalizer = normalizers.Sequence(steps)
    pairs = aligned_bytes("東京", TOKENIZERS["byte-level"], prefixing)
    assert pairs == aligned_bytes("東京", *(TOKENIZERS[name] for name in BOTH))
    assert len(pairs) > 2  # spans end inside of characters


@pytest.mark.parametrize(("student", "teacher"), [BOTH, BOTH[::-1]])
def test_only_assistant_turns_are_aligned_whatever_the_template(student, teacher):
    (example,), _ = tokenize_named({"messages": CONVERSATION}, student, teacher)
    spans = list(check_spans(example, student, teacher).values())
    assert spans.count(SPECIAL) == 2
    assert spans[-1] == SPECIAL
    text = b"".join(span for span in spans if span != SPECIAL).decode()
    assert "".join(text.split()) == "Hellothere,東京Paris12"


def test_positions_align_the_nth_tokens_without_the_end_token():
    fields = {"prompt": "Q: ", "completion": "the cat sat"}
    (example,), counts = tokenize_named(fields, *BOTH, POSITIONS)
    view = example.teacher_example
    pairs = [
        (np.flatnonzero(view.student_span_ids == n), np.flatnonzero(view.teacher_span_ids == n))
        for n in np.flatnonzero(view.weight)
    ]
    first = [np.argmax(side.loss_mask) for side in (example, view)]
    assert [[len(a), len(b)] for a, b in pairs] == [[1, 1]] * len(pairs)
    assert [[a[0] - first[0], b[0] - first[1]] for a, b in pairs] == [
        [n, n] for n in range(len(pairs))
    ]
    assert len(pairs) == min(example.loss_mask.sum(), view.loss_mask.sum()) - 1
    assert f"to learn, compared in {len(pairs)} spans" in str(counts)
    np.testing.assert_allclose(view.weight.sum(), 1)


@pytest.mark.parametrize("truncation", ["cut_end", "cut_start"])
@pytest.mark.parametrize("length", [6, 12, 20])
def test_a_truncated_row_keeps_the_whole_spans(truncation, length):
    fields = {"prompt": "What is ", "completion": "the capital of 東京 and of France? " * 2}
    examples, counts = tokenize_named(fields, *BOTH, truncation=truncation, length=length)
    assert counts.truncated_rows + counts.unpaired_rows == 1
    for example in examples:
        check_spans(example, *BOTH)
        assert max(len(example.tokens), len(example.teacher_example.tokens)) <= length + 1


def test_a_packed_sequence_has_the_positions_of_its_spans():
    examples = []
    for completion in ("the cat", "what, 東京?"):
        (example,), _ = tokenize_named({"prompt": "Q ", "completion": completion}, *BOTH)
        examples.append(example)
    batch = pack_sequence(examples, 64, has_teacher_view=True)
    alignment, ends = batch.alignment, np.flatnonzero(batch.alignment.span_weight)
    for end in ends:
        texts, segments = [], set()
        for side, span_ids, name in (
            (batch, alignment.student_span_ids, "byte-level"),
            (alignment.teacher, alignment.teacher_span_ids, "sentencepiece"),
        ):
            texts.append([BYTES[name][label] for label in side.labels[span_ids == end]])
            segments |= set(side.segment_ids[span_ids == end].tolist())
        assert None in texts[0] or b"".join(texts[0]) == b"".join(texts[1])
        assert len(segments) == 1
    assert len(ends) == sum((example.teacher_example.weight > 0).sum() for example in examples)
    empty = pack_sequence([], 64, has_teacher_view=True)
    assert not empty.alignment.span_weight.any()
    assert (empty.alignment.teacher_span_ids == -1).all()


@pytest.mark.parametrize("loss_on", ["completion", "all"])
@pytest.mark.parametrize("prompt", ["Q: ", [{"role": "user", "content": "Q"}]])
def test_a_completion_that_was_cut_off_has_no_end(loss_on, prompt):
    row = parse_row({"prompt": prompt, "completion": None}, source="r:1", row_id=0, as_chat=False)
    for is_finished in (True, False):
        completed = with_completion(row, "the cat", is_finished=is_finished)
        for student, teacher in (BOTH, BOTH[::-1]):
            (example,), _ = tokenize_named(completed, student, teacher, loss_on=loss_on, length=100)
            learned = example.tokens[example.loss_mask].tolist()
            is_special = [BYTES[student][token] is None for token in learned]
            # A template may write a line break after the end of a turn, which `all` learns.
            assert any(is_special[-2:]) == is_finished
            assert (SPECIAL in check_spans(example, student, teacher).values()) == is_finished


def compared_tokens(example, student, teacher):
    """Return the bytes of the compared tokens of both sides."""
    view = example.teacher_example
    return [
        [BYTES[name][token] for token, span in zip(tokens, span_ids, strict=True) if span >= 0]
        for name, tokens, span_ids in (
            (student, example.tokens, view.student_span_ids),
            (teacher, view.tokens, view.teacher_span_ids),
        )
    ]


def test_positions_count_from_the_start_of_a_completion_even_if_it_is_not_predicted():
    (example,), _ = tokenize_named({"text": "the cat sat"}, *BOTH, POSITIONS)
    sides = (BOTH[0], example.tokens), (BOTH[1], example.teacher_example.tokens)
    texts = [
        [text for token in tokens if (text := BYTES[name][token]) is not None]
        for name, tokens in sides
    ]
    size = min(map(len, texts))
    # Nothing predicts the student's first token.
    assert compared_tokens(example, *BOTH) == [side[1:size] for side in texts]


def test_positions_are_counted_anew_in_every_completion():
    conversation = [
        *({"role": "user", "content": "Q"}, {"role": "assistant", "content": "the cat sat on"}),
        *({"role": "user", "content": "Q"}, {"role": "assistant", "content": "東京"}),
    ]
    (example,), _ = tokenize_named({"messages": conversation}, *BOTH, POSITIONS)
    tokens = compared_tokens(example, *BOTH)
    assert len(tokens[0]) == len(tokens[1])
    assert tokens[0] != tokens[1]
    starts = [next(n for n, text in enumerate(side) if text[0] > 127) for side in tokens]
    assert starts[0] == starts[1]  # the second completions are aligned with each other


def test_a_prompt_that_leaves_the_teacher_no_room_is_too_long():
    fields = {"prompt": "Q", "completion": " a cat", "teacher_prompt": "An example. " * 40}
    for unpaired in ("drop", "refuse"):
        examples, counts = tokenize_named(fields, *BOTH, length=30, unpaired=unpaired)
        assert not examples
        assert (counts.dropped_rows, counts.unpaired_rows) == (1, 0)


def test_letters_that_a_tokenizer_leaves_out_are_noticed():
    """A tokenizer without an unknown token and without bytes drops letters silently."""
    backend = Tokenizer(BPE({letter: n for n, letter in enumerate("abcQ: e")}, []))
    backend.normalizer = normalizers.NFC()
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    few_letters = PreTrainedTokenizerFast(tokenizer_object=backend)
    student = TOKENIZERS["byte-level"]
    for completion, is_known in ((" abc", True), (" a東c", False), ("東", False), (" ca東", False)):
        fields = {"prompt": "Q:", "completion": completion}
        examples, counts = tokenize(fields, student, few_letters)
        expected = (1, 0) if is_known else (0, 1)
        assert (len(examples), counts.unpaired_rows) == expected, completion
    with pytest.raises(UserError, match="has no token for a part of its completion"):
        tokenize(fields, student, few_letters, unpaired="refuse")


def test_a_row_with_nothing_to_compare_is_dropped_or_refused():
    fields = {"prompt": "Q", "completion": ""}
    examples, counts = tokenize_named(fields, *BOTH, POSITIONS)
    assert not examples
    assert counts.unpaired_rows == 1
    assert "1 rows with nothing to compare" in str(counts)
    with pytest.raises(UserError, match=r"rows:1: no part of its completion.*data.unpaired=drop"):
        tokenize_named(fields, *BOTH, POSITIONS, unpaired="refuse")


def test_a_completion_that_one_template_rewrites_is_not_compared():
    uppercasing = tiny.CHATML.replace("message['content']", "message['content'] | upper")
    student, teacher = TOKENIZERS["byte-level"], tiny.tokenizer(chat_template=uppercasing)
    examples, counts = tokenize({"messages": CONVERSATION}, student, teacher)
    assert (examples, counts.unpaired_rows) == ([], 1)
    with pytest.raises(UserError, match="the chat templates write its completion differently"):
        tokenize({"messages": CONVERSATION}, student, teacher, unpaired="refuse")


def test_a_completion_with_the_unknown_token_is_refused():
    teacher = tiny.tokenizer(unk_token="<|endoftext|>")
    fields = {"prompt": "Q", "completion": "a<|endoftext|>b"}
    with pytest.raises(UserError, match="has no token for a part of its completion"):
        tokenize(fields, TOKENIZERS["sentencepiece"], teacher, unpaired="refuse", length=100)


def test_exact_tokens_belong_to_one_tokenizer():
    fields = {"prompt_tokens": [5, 6], "completion_tokens": [7]}
    with pytest.raises(UserError, match="exact tokens are those of one tokenizer"):
        tokenize_named(fields, *BOTH)


def test_turns_that_both_templates_write_alike_are_compared_beside_others():
    calls = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content }}"
        "{% for call in m.tool_calls or [] %}{{ 'CALL' + (call.function | tojson) }}{% endfor %}"
        "{{ '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    user = {"role": "user", "content": "a cat"}
    chat = [user, {"role": "assistant", "content": "the dog"}, user,
            {"role": "assistant", "content": "", "tool_calls": [call]}]  # fmt: skip
    student, teacher = (
        Renderer(tiny.tokenizer(chat_template=template))
        for template in (calls, calls.replace("CALL", "TOOL"))
    )
    readers = student.tokenizer, teacher.tokenizer
    (example,), _ = tokenize({"messages": chat}, *readers)
    compared = example.tokens[example.teacher_example.weight > 0].tolist()
    assert student.decode(compared, skip_special=False) == "the dog<|im_end|>"
    learned = student.decode(example.tokens[example.loss_mask].tolist(), skip_special=False)
    assert learned.startswith("the dog<|im_end|>CALL")
    assert tokenize({"messages": chat[2:]}, *readers).counts.unpaired_rows == 1
