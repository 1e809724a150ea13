"""Row formats: the fields that a row may have, and their parser.

| format                                         | learned                                      |
|------------------------------------------------|----------------------------------------------|
| `{"text"}`                                     | all of it                                    |
| `{"prompt", "completion"}`                     | the completion                               |
| `{"messages": [{"role", "content"}]}`          | every turn of the assistant                  |
| `{"prompt": messages, "completion": messages}` | the assistant's turns in the completion      |
| `{"prompt_tokens", "completion_tokens"}`       | the completion; the tokens are used as given |
| `{"prompt"}`, messages that end with the user  | nothing yet: the teacher writes a completion |

A row that fits several formats is read as the most exact: tokens, messages, prompt, text.

A row with a `prompt` may also have a `teacher_prompt` of the same kinds, which the teacher reads in
its place. It may hold instructions and examples that the student has to do without.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxdistill.data.rows import Chat, Message, Row, Text, Tokens
from jaxdistill.errors import UserError, did_you_mean

ROW_FORMATS = (
    '{"text"}, {"prompt", "completion"}, {"messages": [{"role", "content"}]} '
    'or {"prompt_tokens", "completion_tokens"}'
)
_ROW_FIELDS = (
    *("text", "prompt", "completion", "messages", "prompt_tokens", "completion_tokens"),
    "teacher_prompt",
)


def parse_row(fields: Mapping[str, Any], *, source: str, row_id: int, as_chat: bool) -> Row:
    """Parse the fields of a row; null counts as absent.

    If `as_chat`, a prompt that is a string is a user message. Messages name `source`.

    Raises:
        UserError: if no format fits, or a field has the wrong type.
    """
    null_fields = [name for name, value in fields.items() if value is None]
    fields = {name: value for name, value in fields.items() if value is not None}
    try:
        content = _parse_content(fields, null_fields, as_chat)
        row = Row(source, row_id, _prompt_key(content, fields), content)
        return _add_teacher_prompt(row, fields, as_chat) if "teacher_prompt" in fields else row
    except UserError as error:
        raise UserError(*(f"{source}: {line}" for line in error.lines)) from None


def _parse_content(
    fields: Mapping[str, Any], null_fields: Sequence[str], as_chat: bool
) -> Text | Chat | Tokens:
    if _has_tokens(fields):
        tokens = (_check_token_ids(fields, name) for name in ("prompt_tokens", "completion_tokens"))
        return Tokens(*tokens, text=_rollout_text(fields))
    if "messages" in fields:
        return _to_chat(_check_messages(fields["messages"], "messages"))
    if _has_prompt(fields):
        return _parse_prompt(fields, as_chat)
    if "text" in fields:
        return Text("", _check_string(fields["text"], "text"))
    names = [*(f"`{name}`" for name in fields), *(f"`{name}` that is null" for name in null_fields)]
    unknown = [str(name) for name in fields if name not in _ROW_FIELDS]
    hints = "".join(did_you_mean(name, _ROW_FIELDS) for name in unknown)
    advice = hints or " `data.fields` makes these of other fields."
    raise UserError(f"has {', '.join(names) or 'nothing'}, but a row is {ROW_FORMATS}.{advice}")


def _has_tokens(fields: Mapping[str, Any]) -> bool:
    return "prompt_tokens" in fields and "completion_tokens" in fields


def _has_prompt(fields: Mapping[str, Any]) -> bool:
    return "prompt" in fields and ("completion" in fields or "text" not in fields)


def _rollout_text(fields: Mapping[str, Any]) -> Text | Chat | None:
    """Return the text of a rollout's tokens; None if the file does not have it."""
    if "prompt" not in fields or not isinstance(fields.get("completion"), str):
        return None
    is_finished = fields.get("finished") is not False
    return replace(_parse_prompt(fields, as_chat=False), is_finished=is_finished)


def _add_teacher_prompt(row: Row, fields: Mapping[str, Any], as_chat: bool) -> Row:
    """Return the row with its `teacher_prompt`. Then only what follows the prompt is learned."""
    if _has_tokens(fields) or "messages" in fields or not _has_prompt(fields):
        raise UserError(
            "has a `teacher_prompt`, which stands in place of a `prompt`, but is no row of "
            '{"prompt"} or {"prompt", "completion"}. Give the student\'s prompt as `prompt`.'
        )
    teacher_prompt = _parse_teacher_prompt(fields["teacher_prompt"], as_chat)
    if not isinstance(row.content, Chat):
        return replace(row, teacher_prompt=teacher_prompt)
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
        return Text(_check_string(prompt, "teacher_prompt"), None)
    chat = _to_chat(_check_messages(_to_messages(prompt, "user"), "teacher_prompt"))
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
            _check_string(prompt, "prompt"),
            None if completion is None else _check_string(completion, "completion"),
        )
    prompt = _check_messages(_to_messages(prompt, "user"), "prompt")
    if completion is None:
        return _to_chat(prompt)
    completion = _check_messages(_to_messages(completion, "assistant"), "completion")
    return Chat((*prompt, *completion), num_prompt=len(prompt), first_scored=len(prompt))


def _to_chat(messages: tuple[Message, ...]) -> Chat:
    """Return messages as a chat whose prompt ends before the assistant's last turns."""
    num_prompt = len(messages)
    while num_prompt and messages[num_prompt - 1]["role"] == "assistant":
        num_prompt -= 1
    return Chat(messages, num_prompt=num_prompt)


def _prompt_key(content: Text | Chat | Tokens, fields: Mapping[str, Any]) -> str:
    """Return the prompt as JSON: equal for a string and a user message, for all completions."""
    match content:
        case Text(prompt=prompt, completion=completion):
            key: Any = _to_messages(prompt, "user") if prompt else completion
        case Chat(messages=messages, num_prompt=num_prompt):
            key = messages[:num_prompt] or messages
        case Tokens(prompt=prompt):
            key = _to_messages(fields.get("prompt", prompt), "user")
    return json.dumps(key, sort_keys=True, separators=(",", ":"), default=str)


def _to_messages(value: Any, role: str) -> Any:
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def _check_string(value: Any, field_name: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"`{field_name}` is {_describe_type(value)}, expected a string.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"`{field_name}` holds half of a character at {error.start} (a lone surrogate), "
            "which no tokenizer can read."
        ) from None
    return value


def _check_messages(value: Any, field_name: str) -> tuple[Message, ...]:
    if not _is_list(value) or not value:
        expected = "a list" if field_name == "messages" else "a string or a list"
        raise UserError(
            f"`{field_name}` is {_describe_type(value)}, expected {expected} of "
            '{"role", "content"} messages.'
        )
    messages = []
    for number, message in enumerate(value):
        name = f"{field_name}[{number}]"
        is_object = isinstance(message, Mapping)
        if not is_object or not {"role", "content"} <= message.keys():
            actual = f"keys {sorted(message)}" if is_object else _describe_type(message)
            raise UserError(f'`{name}` has {actual}, expected {{"role", "content"}}.')
        _check_string(message["role"], f"{name}.role")
        _check_string(message["content"], f"{name}.content")
        messages.append({key: item for key, item in message.items() if item is not None})
    return tuple(messages)


def _check_token_ids(fields: Mapping[str, Any], field_name: str) -> tuple[int, ...]:
    value = fields[field_name]
    if not _is_list(value) or not all(type(token) is int and token >= 0 for token in value):
        raise UserError(f"`{field_name}` is {_describe_type(value)}, expected a list of token ids.")
    return tuple(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _describe_type(value: Any) -> str:
    if value == []:
        return "an empty list"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"the number {value}"
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    names[bytes] = "binary data"
    return names.get(type(value), type(value).__name__)
