"""Row formats: the fields that a row may have, and their parser.

| format                                           | learned                                      |
|--------------------------------------------------|----------------------------------------------|
| `{"text"}`                                       | all of it                                    |
| `{"prompt", "completion"}`                       | the completion                               |
| `{"messages": [{"role", "content"}]}`            | every turn of the assistant                  |
| `{"conversations": [{"from", "value"}]}`         | every turn of the assistant (ShareGPT)       |
| `{"prompt": messages, "completion": messages}`   | the assistant's turns in the completion      |
| `{"instruction", "input", "output"}`             | the output (Alpaca)                          |
| `{"prompt_tokens", "completion_tokens"}`         | the completion; the tokens are used as given |
| `{"prompt"}`, messages that end with the user    | nothing yet: the teacher writes a completion |

A row that fits several formats is read as the most exact: tokens, messages, conversations, prompt,
instruction, text. Chats may have `tools` (or `functions`) and a `system` message beside them.

A row with a `prompt` may also have a `teacher_prompt` of the same kinds, which the teacher reads in
its place. It may hold instructions and examples that the student has to do without.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jaxdistill.data.messages import (
    check_string,
    describe_type,
    is_list,
    parse_messages,
    parse_tools,
)
from jaxdistill.data.prompt_key import prompt_key
from jaxdistill.data.rows import Chat, Message, Row, Text, Tokens
from jaxdistill.errors import UserError, did_you_mean

ROW_FORMATS = (
    '{"text"}, {"prompt", "completion"}, {"messages": [{"role", "content"}]}, '
    '{"instruction", "output"} or {"prompt_tokens", "completion_tokens"}'
)
_FORMAT_FIELDS = {
    "tokens": ("prompt_tokens", "completion_tokens", "prompt", "completion", "finished", "tools"),
    "messages": ("messages",),
    "conversations": ("conversations",),
    "prompt": ("prompt", "completion"),
    "instruction": ("instruction", "input", "output"),
    "text": ("text",),
}
"""Fields that each format reads; beside them every format has a `teacher_prompt`."""

_CHAT_FIELDS = ("tools", "functions", "system")
_ROW_FIELDS = (*dict.fromkeys(sum(_FORMAT_FIELDS.values(), ())), "teacher_prompt", *_CHAT_FIELDS)


def parse_row(fields: Mapping[str, Any], *, source: str, row_id: int, as_chat: bool) -> Row:
    """Parse the fields of a row; null counts as absent.

    If `as_chat`, a prompt that is a string is a user message. Messages name `source`.

    Raises:
        UserError: if no format fits, or a field has the wrong type.
    """
    present = {name: value for name, value in fields.items() if value is not None}
    try:
        row_format = _find_format(fields, present)
        content = _parse_content(row_format, present, as_chat)
        used = {*_FORMAT_FIELDS[row_format], "teacher_prompt"}
        if isinstance(content, Chat):
            content = _add_chat_fields(content, present)
            used.update(_CHAT_FIELDS)
        unused = tuple(sorted(str(name) for name in present if name not in used))
        key = prompt_key(content, present.get("prompt"))
        row = Row(source, row_id, key, content, format=row_format, unused_fields=unused)
        return _add_teacher_prompt(row, present, as_chat) if "teacher_prompt" in present else row
    except UserError as error:
        raise UserError(*(f"{source}: {line}" for line in error.lines)) from None
    except RecursionError:
        raise UserError(f"{source}: not a row: nested too deeply to be read.") from None


def _find_format(fields: Mapping[str, Any], present: Mapping[str, Any]) -> str:
    """Return the most exact format that the fields, of which `present` are not null, fit."""
    if "prompt_tokens" in present and "completion_tokens" in present:
        return "tokens"
    is_prompt = "prompt" in present and ("completion" in present or "text" not in present)
    matches = {
        "messages": "messages" in present,
        "conversations": "conversations" in present,
        "prompt": is_prompt,
        "instruction": "instruction" in present and "output" in fields,
        "text": "text" in present,
    }
    if row_format := next((name for name, fits in matches.items() if fits), None):
        return row_format
    names = [f"`{name}`" for name in present]
    names += [f"`{name}` that is null" for name in fields if name not in present]
    unknown = [str(name) for name in present if name not in _ROW_FIELDS]
    hints = "".join(did_you_mean(name, _ROW_FIELDS) for name in unknown)
    advice = hints or " `data.fields` makes these of other fields."
    raise UserError(f"has {', '.join(names) or 'nothing'}, but a row is {ROW_FORMATS}.{advice}")


def _parse_content(
    row_format: str, fields: Mapping[str, Any], as_chat: bool
) -> Text | Chat | Tokens:
    match row_format:
        case "tokens":
            tokens = [_check_token_ids(fields, name) for name in _FORMAT_FIELDS["tokens"][:2]]
            return Tokens(*tokens, text=_rollout_text(fields))
        case "messages" | "conversations":
            return _to_chat(parse_messages(fields[row_format], row_format))
        case "instruction":
            return _parse_prompt(_join_instruction(fields, as_chat), as_chat)
        case "text":
            return Text("", check_string(fields["text"], "text"))
        case _:
            return _parse_prompt(fields, as_chat)


def _join_instruction(fields: Mapping[str, Any], as_chat: bool) -> dict[str, Any]:
    """Return an Alpaca row as prompt and completion; blank lines are between its parts."""
    parts = [check_string(fields.get(name, ""), name) for name in ("instruction", "input")]
    prompt = "\n\n".join(filter(None, parts))
    joined: dict[str, Any] = {"prompt": prompt if as_chat else f"{prompt}\n\n"}
    return joined | ({"completion": fields["output"]} if "output" in fields else {})


def _add_chat_fields(chat: Chat, fields: Mapping[str, Any]) -> Chat:
    """Return the chat with the tools and the system message that the row has beside it."""
    tools: tuple[Any, ...] = ()
    if fields.get("tools") not in (None, "", []):
        tools = parse_tools(fields["tools"], "tools")
    elif fields.get("functions") not in (None, "", []):  # the older form of OpenAI
        functions = parse_tools(fields["functions"], "functions")
        tools = tuple({"type": "function", "function": function} for function in functions)
    system = check_string(fields.get("system", ""), "system")
    chat = replace(chat, tools=tools)
    if not system or chat.messages[0] == {"role": "system", "content": system}:
        return chat
    if chat.messages[0]["role"] == "system":
        raise UserError(
            "has a `system` and another system message at the start of the chat. Keep one of them."
        )
    return replace(
        chat,
        messages=({"role": "system", "content": system}, *chat.messages),
        num_prompt=chat.num_prompt + 1,
        first_scored=chat.first_scored and chat.first_scored + 1,
    )


def _rollout_text(fields: Mapping[str, Any]) -> Text | Chat | None:
    """Return the text of a rollout's tokens; None if the file does not have it."""
    if "prompt" not in fields or not isinstance(fields.get("completion"), str):
        return None
    is_finished = fields.get("finished") is not False
    content = replace(_parse_prompt(fields, as_chat=False), is_finished=is_finished)
    return _add_chat_fields(content, fields) if isinstance(content, Chat) else content


def _add_teacher_prompt(row: Row, fields: Mapping[str, Any], as_chat: bool) -> Row:
    """Return the row with its `teacher_prompt`. Then only what follows the prompt is learned."""
    if row.format not in ("prompt", "instruction"):
        raise UserError(
            "has a `teacher_prompt`, which stands in place of a `prompt`, but is no row of "
            '{"prompt"} or {"prompt", "completion"}. Give the student\'s prompt as `prompt`.'
        )
    teacher_prompt = _parse_teacher_prompt(fields["teacher_prompt"], as_chat)
    if not isinstance(row.content, Chat):
        return replace(row, teacher_prompt=teacher_prompt)
    if isinstance(teacher_prompt, Chat):
        teacher_prompt = replace(teacher_prompt, tools=row.content.tools)
    num_completion = len(row.content.messages) - row.content.num_prompt
    if isinstance(teacher_prompt, Text) and num_completion > 1:
        raise UserError(
            f"has a completion of {num_completion} messages, which cannot follow a "
            "`teacher_prompt` that is a string. Give that as a list of messages, too."
        )
    content = replace(row.content, first_scored=row.content.num_prompt)
    return replace(row, content=content, teacher_prompt=teacher_prompt)


def _parse_teacher_prompt(prompt: Any, as_chat: bool) -> Text | Chat:
    if prompt == "":
        raise UserError("`teacher_prompt` is empty. Leave it out to give both models one prompt.")
    if isinstance(prompt, str) and not as_chat:
        return Text(check_string(prompt, "teacher_prompt"), None)
    chat = _to_chat(parse_messages(_to_messages(prompt, "user"), "teacher_prompt"))
    if chat.num_prompt < len(chat.messages):
        raise UserError(
            "`teacher_prompt` ends with a message of the assistant, so that nothing is left to "
            "complete. End it with a message of the user."
        )
    return chat


def _parse_prompt(fields: Mapping[str, Any], as_chat: bool) -> Text | Chat:
    prompt, completion = fields["prompt"], fields.get("completion")
    if isinstance(prompt, str) and isinstance(completion, str | None) and not as_chat:
        return Text(
            check_string(prompt, "prompt"),
            None if completion is None else check_string(completion, "completion"),
        )
    prompt = parse_messages(_to_messages(prompt, "user"), "prompt")
    if completion is None:
        chat = _to_chat(prompt)
        # Earlier turns of a prompt are not learned; a last one of the assistant is its completion.
        return replace(chat, first_scored=chat.num_prompt)
    completion = parse_messages(_to_messages(completion, "assistant"), "completion")
    if not any(message["role"] == "assistant" for message in completion):
        roles = ", ".join(dict.fromkeys(str(message["role"]) for message in completion))
        raise UserError(
            f"`completion` has no message of the assistant, only of {roles}, so that nothing of it "
            "would be learned."
        )
    return Chat((*prompt, *completion), num_prompt=len(prompt), first_scored=len(prompt))


def _to_chat(messages: tuple[Message, ...]) -> Chat:
    """Return messages as a chat whose prompt ends before the assistant's last turns."""
    num_prompt = len(messages)
    while num_prompt and messages[num_prompt - 1]["role"] == "assistant":
        num_prompt -= 1
    return Chat(messages, num_prompt=num_prompt)


def _to_messages(value: Any, role: str) -> Any:
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def _check_token_ids(fields: Mapping[str, Any], field_name: str) -> tuple[int, ...]:
    value = fields[field_name]
    if not is_list(value):
        raise UserError(f"`{field_name}` is {describe_type(value)}, expected a list of token ids.")
    bad = [token for token in value if type(token) is not int or token < 0]
    if bad:
        raise UserError(
            f"`{field_name}` is a list with {describe_type(bad[0])}, expected a list of token ids "
            "(whole numbers, 0 or above)."
        )
    return tuple(value)
