"""Learned tokens of rows in every format, with tokenizers and chat templates of every kind."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

from jaxdistill.data import DataConfig, prepare, tokenize_prompt
from jaxdistill.data.renderer import Renderer
from jaxdistill.data.row_formats import parse_row
from jaxdistill.data.tokenization import tokenize_prompts, tokenize_rows
from jaxdistill.errors import UserError
from tests import tiny

LLAMA_3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n\n' + message['content'] | trim + '<|im_end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}"
)
THINKING = (  # as in Qwen3: an empty thought before the last turn only
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' and loop.last %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
ENDING = tiny.CHATML + "{% if not add_generation_prompt %}{{ '<|endoftext|>' }}{% endif %}"
CONVERSATION = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello there"},
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": " Paris "},
]


def make_examples(fields, tokenizer=None, *, as_chat=False, counts=False, **options):
    rows = fields if isinstance(fields, list) else [fields]
    parsed = [parse_row(r, source=f"r:{n}", row_id=n, as_chat=as_chat) for n, r in enumerate(rows)]
    options = {"loss_on": "completion", "length": 500, "truncation": "cut_end"} | options
    tokenized = tokenize_rows(parsed, Renderer(tokenizer or tiny.tokenizer()), **options)
    return tokenized if counts else tokenized.examples


def learned(example, tokenizer=None):
    """Return the text of each run of learned tokens."""
    tokenizer = tokenizer or tiny.tokenizer()
    edges = np.flatnonzero(np.diff(example.loss_mask)) + 1
    runs = np.split(np.arange(len(example.tokens)), edges)
    return [tokenizer.decode(example.tokens[run]) for run in runs if example.loss_mask[run[0]]]


def test_plain_completion_is_learned_to_its_end():
    (example,) = make_examples({"prompt": "What is", "completion": " Paris"})
    assert learned(example) == [" Paris<|im_end|>"]
    assert example.num_bytes == len(" Paris")


def test_every_assistant_turn_is_learned_with_its_end_and_nothing_after():
    (example,) = make_examples({"messages": CONVERSATION})
    assert learned(example) == ["Hello there<|im_end|>", " Paris <|im_end|>"]
    assert example.num_bytes == len("Hello there Paris ")
    (example,) = make_examples({"prompt": CONVERSATION[:3], "completion": CONVERSATION[3:]})
    assert learned(example) == [" Paris <|im_end|>"]


def test_a_string_prompt_is_a_user_message_if_as_chat():
    row = {"prompt": "Hi", "completion": "Hello there"}
    (chat,) = make_examples(row, as_chat=True)
    (messages,) = make_examples({"messages": CONVERSATION[:2]})
    np.testing.assert_array_equal(chat.tokens, messages.tokens)
    np.testing.assert_array_equal(chat.loss_mask, messages.loss_mask)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (LLAMA_3, ["Hello there<|im_end|>", "Paris<|im_end|>"]),
        (THINKING, ["Hello there<|im_end|>", "<think>\n\n</think>\n\n Paris <|im_end|>"]),
        (ENDING, ["Hello there<|im_end|>", " Paris <|im_end|>"]),
    ],
)
def test_turns_are_located_in_other_chat_templates(template, expected):
    tokenizer = tiny.tokenizer(chat_template=template, bos=True)
    (example,) = make_examples({"messages": CONVERSATION}, tokenizer)
    assert learned(example, tokenizer) == expected
    bos = example.tokens == tokenizer.bos_token_id
    assert bos.sum() == (1 if template is LLAMA_3 else 0)  # the template's own, or none


def test_a_completion_that_also_occurs_in_a_tag_is_located_at_its_end():
    conversation = [CONVERSATION[0], {"role": "assistant", "content": "think"}]
    tokenizer = tiny.tokenizer(chat_template=THINKING)
    (example,) = make_examples({"messages": conversation}, tokenizer)
    assert learned(example, tokenizer) == ["<think>\n\n</think>\n\nthink<|im_end|>"]


def test_of_an_empty_completion_the_end_is_learned():
    (plain,) = make_examples({"prompt": "What is", "completion": ""})
    (chat,) = make_examples({"messages": [CONVERSATION[0], {"role": "assistant", "content": ""}]})
    assert learned(plain) == learned(chat) == ["<|im_end|>"]
    assert plain.num_bytes == chat.num_bytes == 0


@pytest.mark.parametrize("pad", [None, "<|im_end|>", "<|endoftext|>"])
@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("given", ["The cat", "<s>The cat", "The cat<|im_end|>"])
def test_bos_and_eos_occur_once_whatever_the_text_has(pad, bos, given):
    tokenizer = tiny.tokenizer(bos=bos, pad=pad)
    (example,) = make_examples({"text": given}, tokenizer)
    starts = bos or given.startswith("<s>")
    assert (example.tokens == tokenizer.convert_tokens_to_ids("<s>")).sum() == starts
    assert (example.tokens == tokenizer.eos_token_id).sum() == 1
    assert example.tokens[-1] == tokenizer.eos_token_id
    assert example.loss_mask[-1]  # also where pad == eos
    assert not example.loss_mask[0]


def test_a_tokenizer_without_eos_adds_none():
    tokenizer = tiny.tokenizer(eos=None)
    (example,) = make_examples({"text": "The cat"}, tokenizer)
    assert tokenizer.decode(example.tokens) == "The cat"


def test_a_token_across_prompt_and_completion_is_learned():
    tokenizer = tiny.tokenizer()
    (example,) = make_examples({"prompt": "the ca", "completion": "t"}, tokenizer)
    assert learned(example, tokenizer)[0].endswith("t<|im_end|>")
    assert len(example.tokens) == len(tokenizer("the cat")["input_ids"]) + 1


def test_loss_on_all_learns_every_token_but_the_first():
    for row in ({"prompt": "What is", "completion": " Paris"}, {"messages": CONVERSATION}):
        (example,) = make_examples(row, loss_on="all")
        assert example.loss_mask[1:].all()
        assert not example.loss_mask[0]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30), st.text(min_size=1, max_size=30), st.booleans())
def test_bytes_and_loss_mask_are_right_in_any_script(prompt, completion, trim):
    tokenizer = tiny.tokenizer(trim_offsets=trim)
    if "<|" in prompt + completion:
        return
    (example,) = make_examples({"prompt": "." + prompt, "completion": completion}, tokenizer)
    size = len(completion.encode())
    # A token may hold both the end of the prompt and the start of the completion.
    prompt_only = tokenizer("." + prompt)["input_ids"]
    seam = tokenizer("." + prompt + completion)["input_ids"][: len(prompt_only)] != prompt_only
    assert example.num_bytes == size or ((seam or trim) and example.num_bytes >= 0)
    assert example.loss_mask[-1]
    if not seam:
        assert not example.loss_mask[: len(prompt_only)].any()
        assert example.loss_mask[len(prompt_only) :].all() or trim


def test_bytes_of_a_character_in_several_tokens_count_once():
    tokenizer = tiny.tokenizer()
    for text in ("🙂🙂", "日本語", "naïve café", "👩‍👩‍👧 ok", "x" * 50):
        (example,) = make_examples({"prompt": "Hi", "completion": text}, tokenizer)
        assert example.num_bytes == len(text.encode()), text


def test_exact_tokens_are_used_unchanged():
    tokenizer = tiny.tokenizer()
    prompt, completion = tokenizer("What is")["input_ids"], tokenizer(" Par")["input_ids"]
    row = {"prompt": "ignored", "prompt_tokens": prompt, "completion_tokens": completion}
    (example,) = make_examples(row, tokenizer)
    assert example.tokens.tolist() == prompt + completion  # no EOS is added
    assert learned(example) == [" Par"]
    assert example.num_bytes == 4
    with pytest.raises(UserError, match=r"r:0: token 999 is none of this tokenizer's 320"):
        make_examples(row | {"completion_tokens": [999]}, tokenizer)
    with pytest.raises(UserError, match=r"r:0: token 10{30} is none"):
        make_examples(row | {"completion_tokens": [3, 10**30]}, tokenizer)
    foreign = parse_row(row | {"prompt_tokens": [999]}, source="r:0", row_id=0, as_chat=False)
    with pytest.raises(UserError, match=r"r:0: token 999 is none"):
        tokenize_prompts([foreign], Renderer(tokenizer))


def test_truncation_cuts_one_end_and_is_counted():
    rows = [
        {"prompt": "The cat sat", "completion": " on the mat, and the dog saw"},
        {"prompt": "Hi", "completion": " you"},
        {"text": ""},
    ]
    whole, _ = make_examples(rows, counts=True)
    size = len(whole[0].tokens)
    for truncation, kept in (("cut_end", slice(0, 8)), ("cut_start", slice(size - 8, None))):
        examples, counts = make_examples(rows, counts=True, length=7, truncation=truncation)
        np.testing.assert_array_equal(examples[0].tokens, whole[0].tokens[kept])
        assert not examples[0].loss_mask[0]
        assert (counts.rows, counts.truncated_rows, counts.dropped_rows) == (3, 1, 1)
        assert counts.cut_tokens == size - 8
        assert counts.tokens == sum(len(example.tokens) for example in examples)
        assert counts.scored_tokens == sum(example.loss_mask.sum() for example in examples)
    examples, counts = make_examples(rows, counts=True, length=7, truncation="drop")
    assert [example.row_id for example in examples] == [1]
    assert (counts.truncated_rows, counts.dropped_rows) == (0, 2)
    # A row is dropped if only its prompt fits.
    examples, counts = make_examples(rows[:1], counts=True, length=1)
    assert (examples, counts.dropped_rows) == ([], 1)


def test_a_cut_never_falls_between_the_parts_of_a_header():
    """Llama 3 writes `<|start_header_id|>user<|end_header_id|>`, two tokens with a name between."""
    tokenizer = tiny.tokenizer(
        chat_template="{% for m in messages %}{{ '<|im_start|>' + m.role + '<|endoftext|>\n\n'"
        " + m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|endoftext|>\n\n' }}{% endif %}"
    )
    chat = {
        "messages": [{**message, "content": message["content"] * 2} for message in CONVERSATION]
    }
    (whole,) = make_examples(chat, tokenizer)
    headers = [f"<|im_start|>{role}<|endoftext|>\n\n" for role in ("user", "assistant")]
    starts = set()
    for length in range(1, len(whole.tokens) - 1):
        for example in make_examples(chat, tokenizer, length=length, truncation="cut_start"):
            text = tokenizer.decode(example.tokens)
            first = text.split("<|im_end|>")[0]
            assert first.startswith(tuple(headers)) or "<|endoftext|>" not in first
            assert not first.startswith(("user", "assistant", "\n"))
            starts.add(first.startswith(tuple(headers)))
        for example in make_examples(chat, tokenizer, length=length):
            assert example.loss_mask[-1]  # no part of the next message
    assert starts == {True, False}


def test_a_long_row_gives_no_tokenizer_warning():
    tokenizer = tiny.tokenizer(model_max_length=8)
    (example,) = make_examples({"text": "The cat " * 20}, tokenizer)
    assert len(example.tokens) > 20


def test_a_prompt_is_tokenized_as_in_the_whole_row():
    tokenizer = tiny.tokenizer(bos=True)
    assert tokenize_prompt("Hi", tokenizer, as_chat=False) == tokenizer("Hi")["input_ids"]
    chat = tokenize_prompt("Hi", tokenizer, as_chat=True)
    assert tokenizer.decode(chat) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    (example,) = make_examples({"prompt": "Hi", "completion": "Hello"}, tokenizer, as_chat=True)
    assert example.tokens[: len(chat)].tolist() == chat
    with pytest.raises(UserError, match=r"prompt: tokenizer .* has no chat template"):
        tokenize_prompt("Hi", tiny.tokenizer(chat_template=None), as_chat=True)


def test_unusable_tokenizers_and_chat_templates_are_named():
    with pytest.raises(UserError, match="`old-model`: a slow tokenizer"):
        Renderer(ByT5Tokenizer(name_or_path="old-model"))
    with pytest.raises(UserError, match=r"r:1: tokenizer .* has no chat template"):
        make_examples(
            [{"text": "x"}, {"messages": CONVERSATION}], tiny.tokenizer(chat_template=None)
        )
    refusing = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(UserError) as caught:
        make_examples([{"messages": CONVERSATION}] * 3, tiny.tokenizer(chat_template=refusing))
    assert [line[:4] for line in caught.value.lines] == ["r:0:", "r:1:", "r:2:"]
    assert all("refuses it: roles must alternate" in line for line in caught.value.lines)
    with pytest.raises(UserError, match="refuses it: division by zero"):
        make_examples({"messages": CONVERSATION}, tiny.tokenizer(chat_template="{{ 1 / 0 }}"))


def test_content_that_the_template_rewrites_is_learned_as_rendered():
    uppercasing = tiny.CHATML.replace("message['content']", "message['content'] | upper")
    (example,) = make_examples(
        {"messages": CONVERSATION}, tiny.tokenizer(chat_template=uppercasing)
    )
    assert learned(example) == ["HELLO THERE<|im_end|>", " PARIS <|im_end|>"]


def test_prepare_refuses_data_with_nothing_to_learn(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "The cat sat on the mat", "completion": "x"}) + "\n")
    with pytest.raises(UserError, match=r"nothing is left to learn: 1 rows.* 1 rows dropped"):
        prepare(DataConfig(sources=(str(path),), heldout=0.0, length=2), tiny.tokenizer())
    config = DataConfig(sources=(str(path),), heldout=0.0, length=2)
    with pytest.raises(UserError, match=r"left to score of 1 row\(s\)\. Raise `--length` \(2\)"):
        prepare(config, tiny.tokenizer(), is_scoring_only=True)
    path.write_text('{"prompt": "Why?"}\n')
    with pytest.raises(UserError, match=r"rows.jsonl:1: a prompt without a completion\. Add"):
        prepare(DataConfig(sources=(str(path),), heldout=0.0), tiny.tokenizer())
    path.write_text('{"prompt": "Why?", "response": "so"}\n')
    with pytest.raises(UserError, match=r"`response` is not read: `data.fields=\{completion: '"):
        prepare(DataConfig(sources=(str(path),), heldout=0.0), tiny.tokenizer())
