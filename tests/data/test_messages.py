"""Messages of every known form become one form, and what cannot be understood is named."""

import gzip
import json

import datasets
import pytest

from jaxdistill.data import DataConfig, read_split
from jaxdistill.data.renderer import Renderer
from jaxdistill.data.row_formats import parse_row
from jaxdistill.data.row_summary import summarize_rows
from jaxdistill.data.split import DataSplit
from jaxdistill.data.tokenization import tokenize_rows
from jaxdistill.errors import UserError
from tests import tiny

USER, CALL_TEXT = {"role": "user", "content": "hi"}, '{"city": "Oslo", "unit": null}'
CHAT_WITH_CALLS = (  # as Qwen2.5 writes tools and calls
    "{% if tools %}{{ 'TOOLS ' + (tools | tojson) + '\\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' }}"
    "{{ message.content or '' }}{% for call in message.tool_calls or [] %}"
    "{{ '<call>' + (call.function | tojson) }}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def parse(fields, as_chat=False):
    return parse_row(fields, source="r", row_id=0, as_chat=as_chat)


def messages(*values):
    return parse({"messages": list(values)}).content.messages


def learned_text(fields, template=CHAT_WITH_CALLS):
    renderer = Renderer(tiny.tokenizer(chat_template=template))
    examples, _ = tokenize_rows(
        [parse(fields)], renderer, loss_on="completion", length=500, truncation="cut_end"
    )
    return "".join(
        renderer.decode(e.tokens[e.loss_mask].tolist(), skip_special=False) for e in examples
    )


def call(arguments, **more):
    function = {"name": "weather", "arguments": arguments}
    return {"role": "assistant", **more, "tool_calls": [{"type": "function", "function": function}]}


@pytest.mark.parametrize("absent", [{"content": None}, {"content": ""}, {}])
def test_calls_without_text_are_learned(absent):
    row = {"messages": [USER, call('{"city": "Oslo"}', **absent)]}
    text = '<call>{"name": "weather", "arguments": {"city": "Oslo"}}<|im_end|>'
    assert learned_text(row) == text


def test_arguments_are_objects_and_other_nulls_are_absent():
    (_, parsed) = messages(USER, call(CALL_TEXT, content=None, name=None))
    assert parsed == {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "type": "function",
                "function": {"name": "weather", "arguments": {"city": "Oslo", "unit": None}},
            }
        ],
    }
    assert (
        messages(USER, call({"city": "Oslo", "unit": None}))[1]
        == messages(USER, call({"city": "Oslo"}))[1]
    )
    old = {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}
    result = {"role": "function", "name": "f", "content": "4"}
    assert [m["role"] for m in messages(USER, old, result)] == ["user", "assistant", "tool"]
    assert messages(USER, old)[1]["tool_calls"] == [
        {"type": "function", "function": {"name": "f", "arguments": {}}}
    ]


@pytest.mark.parametrize(
    ("message", "line"),
    [
        (call("{city: Oslo}"), "arguments` is a string that is no JSON"),
        (call("[1]"), "arguments` is a list, expected an object"),
        ({"role": "assistant", "tool_calls": {"name": "f"}}, "tool_calls` is an object"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "without a name"),
        ({"role": "assist", "content": "ho"}, "'assist', expected system.*`assistant`"),
        ({"role": 3, "content": "ho"}, "`messages\\[1\\].role` is the number 3"),
        ({"role": "assistant"}, "has keys \\['role'\\]"),
        ({"content": "ho"}, "has keys \\['content'\\]"),
        ("ho", "has a string, expected"),
        ({"role": "assistant", "content": {"text": "ho"}}, "content` is an object"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "'image_url', and only text"),
        (call(r'{"a": "\ud83d"}'), "lone surrogate"),
        ({"role": "tool", "content": ["Paris", "Rome"]}, "Write a list as JSON text"),
        ({"role": "assistant", "content": "ho", "weight": 0.5}, "weight` is 0.5, expected 1"),
    ],
)
def test_what_is_not_understood_is_named(message, line):
    with pytest.raises(UserError, match=f"^r: .*{line}"):
        messages(USER, message)


def test_parts_of_text_and_aliases_of_roles():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert messages({"role": "USER", "content": parts})[0] == {"role": "user", "content": "ab"}
    for role in ("gpt", "Assistant", "model"):
        assert learned_text({"messages": [USER, {"role": role, "content": "ho"}]}) == "ho<|im_end|>"


@pytest.mark.parametrize(
    "key", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"trainable": False}, {"loss": False},
            {"loss_mask": 0}, {"mask": True}, {"training": False}]
)  # fmt: skip
def test_turns_without_weight_are_not_learned(key):
    kept = {name: not value if isinstance(value, bool) else 1 for name, value in key.items()}
    row = [USER, {"role": "assistant", "content": "five", **key}, USER,
           {"role": "assistant", "content": "four", **kept}]  # fmt: skip
    assert learned_text({"messages": row}) == "four<|im_end|>"
    assert learned_text({"messages": [{**message, "weight": None} for message in row[2:]]})


def test_tools_and_the_system_message_beside_the_chat():
    tool = {"type": "function", "function": {"name": "f", "parameters": None}}
    row = {"messages": [USER, {"role": "assistant", "content": "ho"}], "system": "Be brief."}
    expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
    written = 'TOOLS [{"type": "function", "function": {"name": "f"}}]\n'
    renderer = Renderer(tiny.tokenizer(chat_template=CHAT_WITH_CALLS))
    for tools in ([tool], json.dumps([tool]), [json.dumps(tool)]):
        text = renderer.render(parse({**row, "tools": tools}).content).text
        assert text.startswith(written + expected)
    old = parse({**row, "functions": [tool["function"]]}).content
    assert renderer.render(old).text.startswith(written + expected)
    assert renderer.render(parse(row).content).text.startswith(expected)
    with pytest.raises(UserError, match="`tools` is the number 7"):
        parse({**row, "tools": 7})
    with pytest.raises(UserError, match="another system message"):
        parse({"messages": [{"role": "system", "content": "a"}], "system": "b"})
    beside = parse(
        {"prompt": "hi", "completion": "ho", "teacher_prompt": "say", "tools": [tool]}, True
    )
    assert beside.teacher_prompt.tools == beside.content.tools != ()


def test_a_completion_without_the_assistant_is_one_line():
    for role in ("user", "system", "tool"):
        row = {"prompt": [USER], "completion": [{"role": role, "content": "ho"}]}
        with pytest.raises(UserError, match=f"no message of the assistant, only of {role}"):
            parse(row)


def test_sharegpt_and_alpaca():
    turns = [("system", "s"), ("human", "hi"), ("gpt", "ho")]
    conversation = [{"from": role, "value": text} for role, text in turns]
    row = parse({"conversations": conversation, "id": "7"})
    assert (row.format, row.unused_fields) == ("conversations", ("id",))
    assert (
        row.content
        == parse(
            {
                "messages": [
                    {"role": "system", "content": "s"},
                    USER,
                    {"role": "assistant", "content": "ho"},
                ]
            }
        ).content
    )
    called = [{"from": "human", "value": "hi"},
              {"from": "function_call", "value": '{"name": "f", "arguments": {"a": 1}}'},
              {"from": "observation", "value": "4"}, {"from": "gpt", "value": "ho"}]  # fmt: skip
    assert learned_text({"conversations": called}) == (
        '<call>{"name": "f", "arguments": {"a": 1}}<|im_end|>ho<|im_end|>'
    )
    alpaca = {"instruction": "Add.", "input": "1, 2", "output": "3", "text": "all of it"}
    chat = parse(alpaca, as_chat=True).content
    assert [m["content"] for m in chat.messages] == ["Add.\n\n1, 2", "3"]
    plain = parse({**alpaca, "input": None}).content
    assert (plain.prompt, plain.completion) == ("Add.\n\n", "3")
    assert not parse({"instruction": "Add.", "output": None}).has_completion


def test_one_conversation_is_one_text_in_every_file_format(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    datasets.disable_progress_bars()
    tools = [
        {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
    ]
    rows = [
        {"messages": [USER, call({"city": "Oslo"}), {"role": "tool", "content": "sunny"},
                      {"role": "assistant", "content": "It is sunny.", "weight": 1}],
         "tools": tools},
        {"messages": [USER, call({"when": "now"}), {"role": "assistant", "content": "no"}]},
    ]  # fmt: skip
    lines = "\n".join(map(json.dumps, rows))
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "array.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "array.jsonl").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    data = datasets.Dataset.from_list(rows)
    data.to_parquet("a.parquet")
    data.save_to_disk("folder")
    renderer = Renderer(tiny.tokenizer(chat_template=CHAT_WITH_CALLS))
    rendered = {
        source: [
            renderer.render(row.content).text
            for row in read_split(DataConfig(sources=source, heldout=0)).train
        ]
        for source in ("a.jsonl", "array.json", "array.jsonl", "a.jsonl.gz", "a.parquet", "folder")
    }
    expected = rendered["a.jsonl"]
    assert '"arguments": {"city": "Oslo"}' in expected[0]
    for source, texts in rendered.items():
        assert texts == expected, source


def test_fields_reach_messages_and_tools(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"dialog": [USER], "functions": None, "n": 1}))
    fields = {"messages": "{dialog}", "tools": "{functions}"}
    (row,) = read_split(DataConfig(sources=str(path), fields=fields, heldout=0)).train
    assert row.content.messages == (USER,)
    for template, line in (("a {dialog}", "one field taken whole"), ("{dialogs}", "`dialog`")):
        with pytest.raises(UserError, match=line):
            read_split(DataConfig(sources=str(path), fields={"messages": template}, heldout=0))


def test_the_summary_tells_what_is_not_learned():
    renderer = Renderer(tiny.tokenizer())
    rows = [
        parse({"messages": [USER, {"role": "assistant", "content": "ho", "mood": "fine"}],
               "tools": [{"name": "f"}], "id": 1}),
        parse({"prompt": "a <|im_end|>", "completion": " "}),
    ]  # fmt: skip
    bad = ("rows.jsonl:3: no", "rows.jsonl row 4: no")
    assert summarize_rows(DataSplit(rows, [], bad_rows=bad), renderer).split("; ") == [
        "1 of messages, 1 of prompt",
        "not read: `id` (1), `tools`, which the chat template does not know (1), "
        "`mood` of messages, which the chat template does not know (1)",
        "1 with an empty completion, which teaches to end at once",
        "text that is read as special tokens: <|im_end|> (1)",
        "2 bad rows left out: no (2)",
    ]


def test_a_role_that_the_template_leaves_out_is_named():
    silent = tiny.CHATML.replace(
        "{% for message in messages %}",
        "{% for message in messages if message.role in ('user', 'assistant', 'system') %}",
    )
    assert silent != tiny.CHATML
    for template, refused in ((tiny.CHATML, False), (silent, True)):
        renderer = Renderer(tiny.tokenizer(chat_template=template))
        for role in ("developer", "tool"):
            chat = parse({"messages": [{"role": role, "content": "x"}, USER]}).content
            if refused:
                with pytest.raises(UserError, match=f"leaves messages of role `{role}` out"):
                    renderer.render(chat)
            else:
                assert f"<|im_start|>{role}\nx" in renderer.render(chat).text


def test_templates_that_read_parts_or_arguments_as_text():
    row = {"messages": [USER, call({"city": "Ålesund"}, content="So.")]}
    expected = 'So.<call>{"city": "Ålesund"}<|im_end|>'
    arguments = CHAT_WITH_CALLS.replace("(call.function | tojson)", "call.function.arguments")
    assert learned_text(row, arguments) == expected
    parts = arguments.replace(
        "{{ message.content or '' }}",
        "{% for part in message.content %}{{ part.text }}{% endfor %}",
    )
    assert parts != arguments
    assert learned_text(row, parts) == expected


def test_calls_that_the_template_leaves_out_are_a_mistake_where_nothing_else_is_left():
    renderer = Renderer(tiny.tokenizer())
    with pytest.raises(UserError, match="leaves calls of tools out"):
        renderer.render(parse({"messages": [USER, call({})]}).content)
    beside = {"messages": [USER, call({}, content="So.")]}
    assert learned_text(beside, tiny.CHATML) == "So.<|im_end|>"


def test_named_templates_mark_their_turns():
    marked = (
        "{% for message in messages %}{{ message.role }}: {% if message.role == 'assistant' %}"
        "{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}"
        "{% else %}{{ message.content }}{% endif %}{% endfor %}"
    )
    named = {"default": marked, "tool_use": CHAT_WITH_CALLS}
    row = {"messages": [USER, {"role": "assistant", "content": "ho"}]}
    assert learned_text(row, named) == "ho<|im_end|>"
    with_tools = {"messages": [USER, call({})], "tools": [{"name": "weather"}]}
    assert learned_text(with_tools, named).startswith('<call>{"name": "weather"')
    # Only turns that the template marks are learned.
    last = marked.replace(
        "message.role == 'assistant'", "message.role == 'assistant' and loop.last"
    )
    assert learned_text({"messages": row["messages"] * 2}, last) == "ho<|im_end|>"


def test_chats_that_end_with_the_user_or_a_tool_are_learned():
    turns = [USER, {"role": "assistant", "content": "ho"}, {"role": "user", "content": "thanks"}]
    assert learned_text({"messages": turns}) == "ho<|im_end|>"
    called = [USER, call({}), {"role": "tool", "content": "4"}]
    assert learned_text({"messages": called}).startswith("<call>")
    assert not parse({"prompt": turns}).has_completion
