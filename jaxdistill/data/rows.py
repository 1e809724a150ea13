"""The shapes that a row may have.

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
from dataclasses import dataclass, field, replace
from typing import Any

from jaxdistill.errors import UserError, nearest

SHAPES = (
    '{"text"}, {"prompt", "completion"}, {"messages": [{"role", "content"}]} '
    'or {"prompt_tokens", "completion_tokens"}'
)
_KEYS = (
    *("text", "prompt", "completion", "messages", "prompt_tokens", "completion_tokens"),
    "teacher_prompt",
)

Message = Mapping[str, Any]
"""A turn: `role`, `content`, and whatever else the chat template knows how to use."""


@dataclass(frozen=True)
class Text:
    """Plain strings.

    Attributes:
        prompt: What is asked.
        completion: The answer; None where it has still to be written.
        is_finished: Whether the answer ends there, or was broken off.
    """

    prompt: str
    completion: str | None
    is_finished: bool = field(default=True, repr=False)


@dataclass(frozen=True)
class Chat:
    """Messages for the tokenizer's chat template.

    Attributes:
        messages: The whole conversation.
        num_prompt: How many of them, from the first, are what a teacher is asked; assistant's
            turns at the end are its answer.
        first_scored: The message from which on the assistant's turns are learned.
        is_finished: Whether the last turn ends there, or was broken off.
    """

    messages: tuple[Message, ...]
    num_prompt: int
    first_scored: int = 0
    is_finished: bool = field(default=True, repr=False)


@dataclass(frozen=True)
class Tokens:
    """Exact tokens, as a rollout left them."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """One row of a source.

    Attributes:
        place: Where it stands, for messages ("rows.jsonl:12").
        row_id: Its number among all rows of the run.
        key: Its prompt as canonical JSON: rows of one key are never on both sides of the split.
        content: What it says.
        teacher_prompt: What a teacher is asked in place of its prompt, where that differs.
    """

    place: str
    row_id: int
    key: str
    content: Text | Chat | Tokens
    teacher_prompt: Text | Chat | None = None

    @property
    def has_prompt(self) -> bool:
        """Whether there is something that a teacher could answer."""
        match self.content:
            case Text(prompt="") | Chat(num_prompt=0) | Tokens(prompt=()):
                return False
        return True

    @property
    def has_answer(self) -> bool:
        """Whether there is something to learn, without a teacher's help."""
        match self.content:
            case Text(completion=completion):
                return completion is not None
            case Chat(messages=messages, num_prompt=num_prompt):
                return len(messages) > num_prompt
            case Tokens():
                return True


def for_teacher(row: Row) -> Row:
    """The row as a teacher reads it: with the prompt that is its own, if any, and the same answer.

    Between a chat and a plain prompt the spaces around an answer do not count: a plain prompt is
    followed by one, as by any word.
    """
    asked, content = row.teacher_prompt, row.content
    if asked is None or isinstance(content, Tokens):
        return row
    if isinstance(asked, Text):
        read: Text | Chat = Text(asked.prompt, _plain_answer(content, asked), content.is_finished)
    else:
        turns, size = (*asked.messages, *_turns(content)), len(asked.messages)
        read = Chat(turns, size, first_scored=size, is_finished=content.is_finished)
    return replace(row, content=read, teacher_prompt=None)


def _plain_answer(content: Text | Chat, asked: Text) -> str | None:
    if isinstance(content, Text):
        return content.completion
    turns = _turns(content)
    return _behind(asked.prompt, turns[0]["content"]) if turns else None


def _turns(content: Text | Chat) -> tuple[Message, ...]:
    """The answer as messages; none where it has still to be written."""
    if isinstance(content, Chat):
        return content.messages[content.num_prompt :]
    return () if content.completion is None else (_turn(content.completion.strip()),)


def _turn(answer: str) -> Message:
    return {"role": "assistant", "content": answer}


def _behind(prompt: str, answer: str) -> str:
    """A chat's answer as it stands behind a plain prompt."""
    said = answer.strip()
    return said if not said or prompt[-1:].isspace() else f" {said}"


def answered(row: Row, answer: str, *, is_finished: bool) -> Row:
    """The row with another answer, as text.

    Spaces around the answer count as in `for_teacher`.

    Raises:
        UserError: for a row whose prompt is exact tokens.
    """
    match row.content:
        case Text(prompt=prompt):
            if isinstance(row.teacher_prompt, Chat):
                answer = _behind(prompt, answer)
            return replace(row, content=Text(prompt, answer, is_finished))
        case Chat(messages=messages, num_prompt=num_prompt):
            said = answer.strip() if isinstance(row.teacher_prompt, Text) else answer
            told = (*messages[:num_prompt], _turn(said))
            return replace(row, content=Chat(told, num_prompt, num_prompt, is_finished))
        case Tokens():
            raise UserError(f"{row.place}: {ONE_TOKENIZER}")


ONE_TOKENIZER = (
    "exact tokens are those of one tokenizer, and here the teacher reads others: its tokenizer is "
    "not the student's, or rows have a `teacher_prompt`. Give the row as text: "
    '{"prompt", "completion"} or {"messages"}.'
)


def asked(row: Row) -> str:
    """What a row asks, as a person reads it: a chat's last message; nothing where it asks nothing.

    Rows of exact tokens say it where their file has a readable `prompt`, too.
    """
    said = json.loads(row.key)
    if not row.has_prompt or not isinstance(said[-1], dict):
        return ""
    return str(said[-1].get("content", ""))


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
        return Tokens(*(_tokens(fields, name) for name in ("prompt_tokens", "completion_tokens")))
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
    raise UserError(f"has {keys}, but a row is {SHAPES}.{hints}")


def _has_tokens(fields: Mapping[str, Any]) -> bool:
    return "prompt_tokens" in fields and "completion_tokens" in fields


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
