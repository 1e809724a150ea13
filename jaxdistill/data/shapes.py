"""Reading a row: the shapes that it may have.

| shape                                          | what is learned                              |
|------------------------------------------------|----------------------------------------------|
| `{"text"}`                                     | all of it                                    |
| `{"prompt", "completion"}`                     | the completion                               |
| `{"messages": [{"role", "content"}]}`          | every turn of the assistant                  |
| `{"prompt": messages, "completion": messages}` | the assistant's turns in the completion      |
| `{"prompt_tokens", "completion_tokens"}`       | the completion; the tokens are used as given |
| `{"prompt"}`, messages that end with the user  | nothing yet: a teacher is to answer          |

Where a row fits several, the more exact shape counts: tokens, messages, prompt, text.

Beside `prompt` may stand `teacher_prompt`, of the same kinds: what the teacher is asked, and reads,
in place of it. It may have instructions and examples that the student is to do without.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxdistill.data.rows import Chat, Message, Row, Text, Tokens
from jaxdistill.errors import UserError, nearest

SHAPES = (
    '{"text"}, {"prompt", "completion"}, {"messages": [{"role", "content"}]} '
    'or {"prompt_tokens", "completion_tokens"}'
)
_KEYS = (
    *("text", "prompt", "completion", "messages", "prompt_tokens", "completion_tokens"),
    "teacher_prompt",
)


def parse(fields: Mapping[str, Any], *, place: str, row_id: int, as_chat: bool) -> Row:
    """Read one row.

    Args:
        fields: The row as the file holds it; a field that is null counts as absent.
        place: Where it stands.
        row_id: Its number.
        as_chat: Whether a prompt that is a string is a user's message.

    Raises:
        UserError: where no shape fits, or a field has the wrong type.
    """
    absent = [name for name, value in fields.items() if value is None]
    fields = {name: value for name, value in fields.items() if value is not None}
    try:
        content = _content(fields, absent, as_chat)
        row = Row(place, row_id, _key(content, fields), content)
        return _taught(row, fields, as_chat) if "teacher_prompt" in fields else row
    except UserError as error:
        raise UserError(*(f"{place}: {line}" for line in error.lines)) from None


def _content(
    fields: Mapping[str, Any], absent: Sequence[str], as_chat: bool
) -> Text | Chat | Tokens:
    if _has_tokens(fields):
        tokens = (_tokens(fields, name) for name in ("prompt_tokens", "completion_tokens"))
        return Tokens(*tokens, text=_text_beside(fields))
    if "messages" in fields:
        return _chat(_messages(fields["messages"], "messages"))
    if _has_prompt(fields):
        return _prompted(fields, as_chat)
    if "text" in fields:
        return Text("", _string(fields["text"], "text"))
    found = [*(f"`{name}`" for name in fields), *(f"`{name}` that is null" for name in absent)]
    keys = ", ".join(found) or "nothing"
    misspelt = [str(name) for name in fields if name not in _KEYS]
    hints = "".join(filter(None, (nearest(name, _KEYS) for name in misspelt)))
    cure = hints or " `data.fields` makes these of other fields."
    raise UserError(f"has {keys}, but a row is {SHAPES}.{cure}")


def _has_tokens(fields: Mapping[str, Any]) -> bool:
    return "prompt_tokens" in fields and "completion_tokens" in fields


def _text_beside(fields: Mapping[str, Any]) -> Text | Chat | None:
    """What the tokens of a rollout say, if it is there."""
    if "prompt" not in fields or not isinstance(fields.get("completion"), str):
        return None
    is_finished = fields.get("finished") is not False
    return replace(_prompted(fields, as_chat=False), is_finished=is_finished)


def _has_prompt(fields: Mapping[str, Any]) -> bool:
    return "prompt" in fields and ("completion" in fields or "text" not in fields)


def _taught(row: Row, fields: Mapping[str, Any], as_chat: bool) -> Row:
    """The row with its `teacher_prompt`. Only what follows the prompt is learned then."""
    if _has_tokens(fields) or "messages" in fields or not _has_prompt(fields):
        raise UserError(
            "has a `teacher_prompt`, which stands in place of a `prompt`, but is no row of "
            '{"prompt"} or {"prompt", "completion"}. Give what the student is asked as `prompt`.'
        )
    asked = _teacher_prompt(fields["teacher_prompt"], as_chat)
    if not isinstance(row.content, Chat):
        return replace(row, teacher_prompt=asked)
    answer = len(row.content.messages) - row.content.num_prompt
    if isinstance(asked, Text) and answer > 1:
        raise UserError(
            f"has an answer of {answer} messages, which cannot follow a `teacher_prompt` that is "
            "a string. Give that as a list of messages, too."
        )
    content = replace(row.content, first_scored=row.content.num_prompt)
    return replace(row, content=content, teacher_prompt=asked)


def _teacher_prompt(prompt: Any, as_chat: bool) -> Text | Chat:
    if prompt == "":
        raise UserError("`teacher_prompt` is empty. Leave it out where the teacher is asked alike.")
    if isinstance(prompt, str) and not as_chat:
        return Text(_string(prompt, "teacher_prompt"), None)
    asked = _chat(_messages(_spoken(prompt, "user"), "teacher_prompt"))
    if asked.num_prompt < len(asked.messages):
        raise UserError(
            "`teacher_prompt` ends with a message of the assistant, so that nothing is asked. "
            "End it with what the teacher is to answer."
        )
    return asked


def _prompted(fields: Mapping[str, Any], as_chat: bool) -> Text | Chat:
    prompt, completion = fields["prompt"], fields.get("completion")
    if isinstance(prompt, str) and isinstance(completion, str | None) and not as_chat:
        return Text(
            _string(prompt, "prompt"),
            None if completion is None else _string(completion, "completion"),
        )
    asked = _messages(_spoken(prompt, "user"), "prompt")
    if completion is None:
        return _chat(asked)
    answer = _messages(_spoken(completion, "assistant"), "completion")
    return Chat((*asked, *answer), num_prompt=len(asked), first_scored=len(asked))


def _chat(messages: tuple[Message, ...]) -> Chat:
    num_prompt = len(messages)
    while num_prompt and messages[num_prompt - 1]["role"] == "assistant":
        num_prompt -= 1
    return Chat(messages, num_prompt=num_prompt)


def _key(content: Text | Chat | Tokens, fields: Mapping[str, Any]) -> str:
    """One prompt, one key: a string is the same as a user's message, answers do not count."""
    match content:
        case Text(prompt=prompt, completion=completion):
            asked: Any = _spoken(prompt, "user") if prompt else completion
        case Chat(messages=messages, num_prompt=num_prompt):
            asked = messages[:num_prompt] or messages
        case Tokens(prompt=prompt):
            asked = _spoken(fields.get("prompt", prompt), "user")
    return json.dumps(asked, sort_keys=True, separators=(",", ":"), default=str)


def _spoken(value: Any, role: str) -> Any:
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"`{where}` is {_kind(value)}, expected a string.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"`{where}` holds half of a character at {error.start} (a lone surrogate), "
            "which no tokenizer can read."
        ) from None
    return value


def _messages(value: Any, where: str) -> tuple[Message, ...]:
    if not _is_list(value) or not value:
        wanted = "a list" if where == "messages" else "a string or a list"
        raise UserError(
            f'`{where}` is {_kind(value)}, expected {wanted} of {{"role", "content"}} messages.'
        )
    found = []
    for number, message in enumerate(value):
        name = f"{where}[{number}]"
        if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
            came = f"keys {sorted(message)}" if isinstance(message, Mapping) else _kind(message)
            raise UserError(f'`{name}` has {came}, expected {{"role", "content"}}.')
        _string(message["role"], f"{name}.role")
        _string(message["content"], f"{name}.content")
        found.append({field: one for field, one in message.items() if one is not None})
    return tuple(found)


def _tokens(fields: Mapping[str, Any], name: str) -> tuple[int, ...]:
    value = fields[name]
    if not _is_list(value) or not all(type(one) is int and one >= 0 for one in value):
        raise UserError(f"`{name}` is {_kind(value)}, expected a list of token numbers.")
    return tuple(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    names[bytes] = "binary data"
    empty = "an empty list" if value == [] else ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"the number {value}"
    return empty or names.get(type(value), type(value).__name__)
