"""Learned turns of chats beside Hugging Face's own generation mask, for many kinds of templates.

The templates are those of well-known families, retyped with the marks of the tiny tokenizer. What
the model generates stands between «G» and «E»: `{% generation %}` for the oracle, nothing for us.
"""

import json

import numpy as np
import pytest

from jaxdistill.data import DataConfig, prepare
from jaxdistill.data.reasoning import drop_reasoning
from jaxdistill.data.renderer import Renderer
from jaxdistill.data.row_formats import parse_row
from jaxdistill.data.tokenization import tokenize_rows
from tests import tiny

HEADER = "'<|im_start|>' + message['role'] + '\\n'"
GENERATE = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
TEMPLATES = {
    "chatml": (
        "{% for message in messages %}{{ " + HEADER + " }}"
        "{% if message.role == 'assistant' %}«G»{{ message.content + '<|im_end|>' }}«E»"
        "{% else %}{{ message.content + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
        + GENERATE
    ),
    "llama3": (
        "{{ '<s>' }}{% for message in messages %}{{ " + HEADER + " + '\\n' }}"
        "{% if message.role == 'assistant' %}«G»{{ message.content | trim + '<|im_end|>' }}«E»"
        "{% else %}{{ message.content | trim + '<|im_end|>' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n\\n' }}{% endif %}"
    ),
    "llama2": (
        "{% for message in messages %}"
        "{% if message.role == 'user' %}{{ '<s>[INST] ' + message.content + ' [/INST]' }}"
        "{% elif message.role == 'assistant' %}«G»{{ ' ' + message.content + ' <|im_end|>' }}«E»"
        "{% endif %}{% endfor %}"
    ),
    "gemma": (
        "{{ '<s>' }}{% for message in messages %}"
        "{% if message.role == 'assistant' %}{{ '<|im_start|>model\\n' }}"
        "«G»{{ message.content | trim + '<|im_end|>' }}«E»{{ '\\n' }}"
        "{% else %}{{ " + HEADER + " + message.content | trim + '<|im_end|>\\n' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>model\\n' }}{% endif %}"
    ),
    "qwen with calls": (
        "{% for message in messages %}{% if message.role == 'assistant' %}{{ " + HEADER + " }}«G»"
        "{{ message.content or '' }}{% for call in message.tool_calls or [] %}"
        "{{ ('\\n' if message.content or not loop.first else '') + '<tool_call>\\n' }}"
        "{{ call.function | tojson }}{{ '\\n</tool_call>' }}{% endfor %}{{ '<|im_end|>' }}«E»"
        "{% else %}{{ " + HEADER + " + message.content + '<|im_end|>' }}{% endif %}{{ '\\n' }}"
        "{% endfor %}" + GENERATE
    ),
    "mistral with calls": (  # its mark of a call is a special token
        "{{ '<s>' }}{% for message in messages %}{% if message.role == 'assistant' %}«G»"
        "{% if message.tool_calls %}{{ '<|endoftext|> ' + message.tool_calls | tojson }}"
        "{% else %}{{ ' ' + message.content }}{% endif %}{{ '<|im_end|>' }}«E»"
        "{% else %}{{ '[' + message.role + ']' + message.content + '[/]' }}{% endif %}{% endfor %}"
    ),
    "qwen3 thoughts": (  # thoughts before the last question are dropped
        "{% set ns = namespace(last=0) %}{% for message in messages %}"
        "{% if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
        "{% for message in messages %}{{ " + HEADER + " }}"
        "{% if message.role == 'assistant' %}«G»"
        "{% if loop.index0 > ns.last %}{{ message.content }}"
        "{% else %}{{ message.content.split('</think>')[-1].lstrip('\\n') }}{% endif %}"
        "{{ '<|im_end|>' }}«E»{% else %}{{ message.content + '<|im_end|>' }}{% endif %}{{ '\\n' }}"
        "{% endfor %}" + GENERATE
    ),
    "r1 distill": (  # the generation prompt opens a thought, which a written turn does not have
        "{{ '<s>' }}{% for message in messages %}{% if message.role == 'assistant' %}"
        "{{ '<|im_start|>' }}«G»{{ message.content.split('</think>')[-1] + '<|im_end|>' }}«E»"
        "{% else %}{{ '[user]' + message.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|><think>\\n' }}{% endif %}"
    ),
    "end of chat": (
        "{% for message in messages %}{{ " + HEADER + " }}"
        "{% if message.role == 'assistant' %}«G»{{ message.content + '<|im_end|>' }}«E»"
        "{% else %}{{ message.content + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
        "{% else %}{{ '<|endoftext|>' }}{% endif %}"
    ),
    "thought in every turn": (
        "{% for message in messages %}{{ " + HEADER + " }}"
        "{% if message.role == 'assistant' %}«G»{{ '<think>\\n\\n</think>\\n\\n' }}"
        "{{ message.content + '<|im_end|>' }}«E»"
        "{% else %}{{ message.content + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
        + GENERATE
    ),
}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}


def chat(*turns):
    """Messages of user and assistant by turns; a dict is a whole message."""
    roles = ("user", "assistant")
    return [
        turn if isinstance(turn, dict) else {"role": roles[index % 2], "content": turn}
        for index, turn in enumerate(turns)
    ]


CALLING = {"role": "assistant", "content": "Let me look.", "tool_calls": [CALL]}
CHATS = {
    "one turn": chat("Hi", "Hello there"),
    "two turns": chat("Hi", "ok", "And ok?", "ok ok"),
    "short text in a tag": chat("Hi", "think", "assistant", "assistant"),
    "thoughts": chat("Hi", "<think>\nA\n</think>\n\nB", "And?", "<think>\nC\n</think>\n\nD"),
    "empty": chat("Hi", "", "And?", ""),
    "spaces": chat(" Hi ", " a\n", "And? ", "b c"),
    "marks": chat("How?", "It ends with <|im_end|> there", "And?", "yes"),
    "greeting": [{"role": "assistant", "content": "Welcome"}, *chat("Hi", "two")],
}
CALLS = {
    "text and call": [
        *chat("Rain?"),
        CALLING,
        {"role": "tool", "content": "no"},
        *chat("", "No.")[1:],
    ],
    "call alone": [*chat("Rain?"), {**CALLING, "content": ""}],
    "call in the middle": [*chat("Rain?"), {**CALLING, "content": ""}, *chat("Thanks", "ok")],
}
CASES = [
    pytest.param(template, messages, id=f"{template}, {name}")
    for template in TEMPLATES
    for name, messages in (CHATS | (CALLS if "calls" in template else {})).items()
]


def template(name, start, end):
    return TEMPLATES[name].replace("«G»", start).replace("«E»", end)


@pytest.mark.parametrize(("name", "messages"), CASES)
def test_learned_turns_equal_the_generation_mask_of_hugging_face(name, messages):
    plain = tiny.tokenizer(chat_template=template(name, "", ""))
    marked = tiny.tokenizer(chat_template=template(name, "{% generation %}", "{% endgeneration %}"))
    expected = marked.apply_chat_template(
        messages, return_assistant_tokens_mask=True, return_dict=True, tokenize=True
    )
    row = parse_row({"messages": messages}, source="r:1", row_id=0, as_chat=False)
    for tokenizer in (plain, marked):
        (example,) = tokenize_rows(
            [row], Renderer(tokenizer), loss_on="completion", length=500, truncation="cut_end"
        ).examples
        assert example.tokens.tolist() == expected["input_ids"]
        wanted = np.array(expected["assistant_masks"], bool)
        wanted[0] = False  # nothing predicts the first token
        texts = [
            "".join(tokenizer.convert_ids_to_tokens(example.tokens[mask].tolist()))
            for mask in (example.loss_mask, wanted)
        ]
        assert texts[0] == texts[1]
        np.testing.assert_array_equal(example.loss_mask, wanted)


@pytest.mark.parametrize(
    ("reasoning", "learned"),
    [
        ("keep", "<think>so</think>\n\nfour<|im_end|>"),
        ("mask", "four<|im_end|>"),
        ("drop", "four<|im_end|>"),
    ],
)
def test_reasoning_is_kept_masked_or_dropped(tmp_path, reasoning, learned):
    path = tmp_path / "rows.jsonl"
    answer = {"role": "assistant", "content": "<think>so</think>\n\nfour"}
    rows = [
        {"messages": [{"role": "user", "content": "2 + 2?"}, answer]},
        {"prompt": "2 + 2?", "completion": answer["content"]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    config = DataConfig(sources=str(path), heldout=0, reasoning=reasoning, pack=False)
    renderer = Renderer(tiny.tokenizer())
    for example in prepare(config, renderer.tokenizer).train:
        text = renderer.decode(example.tokens.tolist(), skip_special=False)
        assert ("<think>" in text) == (reasoning != "drop")
        tokens = example.tokens[example.loss_mask].tolist()
        assert renderer.decode(tokens, skip_special=False) == learned


@pytest.mark.parametrize(
    ("completion", "masked", "dropped"),
    [
        ("thoughts</think>\nfour", "four<|im_end|>", "four<|im_end|>"),  # the prompt opened them
        ("<think>so</think>no<think>more</think> four", "four<|im_end|>", "four<|im_end|>"),
        ("four", "four<|im_end|>", "four<|im_end|>"),
    ],
)
def test_all_forms_of_reasoning(completion, masked, dropped):
    renderer = Renderer(tiny.tokenizer())
    row = parse_row({"prompt": "a", "completion": completion}, source="", row_id=0, as_chat=True)
    options = {"loss_on": "completion", "length": 99, "truncation": "drop"}
    for reasoning, learned in (("mask", masked), ("drop", dropped)):
        read = drop_reasoning(row) if reasoning == "drop" else row
        (example,), _ = tokenize_rows([read], renderer, reasoning=reasoning, **options)
        tokens = example.tokens[example.loss_mask].tolist()
        assert renderer.decode(tokens, skip_special=False) == learned


@pytest.mark.parametrize("is_one_token", [True, False])
def test_reasoning_that_a_teacher_wrote_is_not_learned(is_one_token):
    tokenizer = tiny.tokenizer()
    if is_one_token:
        tokenizer.add_tokens(["</think>"])
    options = {"loss_on": "completion", "length": 99, "truncation": "drop"}
    for text, learned in (("<think>so</think>", " four"), ("so</think>", " four"), ("", " four")):
        tokens = tokenizer(text).input_ids + tokenizer(learned).input_ids
        row = parse_row(
            {"prompt_tokens": tokenizer("what").input_ids, "completion_tokens": tokens},
            source="", row_id=0, as_chat=False,
        )  # fmt: skip
        for reasoning, expected in (("keep", text + learned), ("mask", learned), ("drop", learned)):
            (example,), _ = tokenize_rows(
                [row], Renderer(tokenizer), reasoning=reasoning, **options
            )
            assert tokenizer.decode(example.tokens[example.loss_mask]) == expected
    cut = {"prompt_tokens": [5], "completion_tokens": tokenizer("<think>so").input_ids}
    row = parse_row(cut, source="", row_id=0, as_chat=False)
    assert not tokenize_rows([row], Renderer(tokenizer), reasoning="mask", **options).examples


def test_a_turn_of_several_marked_parts_is_learned_to_its_end():
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role }}{% if m.role == 'assistant' %}"
        "{% generation %}{{ 'thought ' }}{% endgeneration %}{{ '|' }}"
        "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    )
    renderer = Renderer(tiny.tokenizer(chat_template=template))
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rendered = renderer.render(
        parse_row({"messages": chat}, source="", row_id=0, as_chat=False).content
    )
    (turn,) = rendered.turns
    assert rendered.text[slice(*turn.loss_range)] == "thought |b<|im_end|>"


def test_a_template_that_wants_a_system_message():
    template = (
        "{% if messages[0].role != 'system' %}{{ raise_exception('no') }}{% endif %}" + tiny.CHATML
    )
    renderer = Renderer(tiny.tokenizer(chat_template=template))
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"}]  # fmt: skip
    rendered = renderer.render(
        parse_row({"messages": chat}, source="", row_id=0, as_chat=False).content
    )
    (turn,) = rendered.turns
    assert rendered.text[slice(*turn.loss_range)] == "b<|im_end|>"
    assert renderer.end_ids() == (2,)
