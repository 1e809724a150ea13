"""Rows, as the rest of the path knows them: what one says, and how a teacher reads it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jaxdistill.errors import UserError

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
    """Exact tokens, as a rollout left them.

    Attributes:
        prompt: What was asked.
        completion: What was written.
        text: What both say, where the file has that, too: for a reader of another tokenizer.
    """

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    text: Text | Chat | None = field(default=None, repr=False)


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

    source: str
    row_id: int
    prompt_key: str
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
    def has_completion(self) -> bool:
        """Whether there is something to learn, without a teacher's help."""
        match self.content:
            case Text(completion=completion):
                return completion is not None
            case Chat(messages=messages, num_prompt=num_prompt):
                return len(messages) > num_prompt
            case Tokens():
                return True


def apply_teacher_prompt(row: Row) -> Row:
    """The row as a teacher reads it: with the prompt that is its own, if any, and the same answer.

    Between a chat and a plain prompt the spaces around an answer do not count: a plain prompt is
    followed by one, as by any word.
    """
    asked, content = row.teacher_prompt, row.content
    if asked is None or isinstance(content, Tokens):
        return row
    if isinstance(asked, Text):
        read: Text | Chat = Text(
            asked.prompt, _plain_completion(content, asked), content.is_finished
        )
    else:
        turns, size = (*asked.messages, *_completion_messages(content)), len(asked.messages)
        read = Chat(turns, size, first_scored=size, is_finished=content.is_finished)
    return replace(row, content=read, teacher_prompt=None)


def _plain_completion(content: Text | Chat, teacher_prompt: Text) -> str | None:
    if isinstance(content, Text):
        return content.completion
    turns = _completion_messages(content)
    return _space_after_prompt(teacher_prompt.prompt, turns[0]["content"]) if turns else None


def _completion_messages(content: Text | Chat) -> tuple[Message, ...]:
    """The answer as messages; none where it has still to be written."""
    if isinstance(content, Chat):
        return content.messages[content.num_prompt :]
    return () if content.completion is None else (_assistant_message(content.completion.strip()),)


def _assistant_message(completion: str) -> Message:
    return {"role": "assistant", "content": completion}


def _space_after_prompt(prompt: str, completion: str) -> str:
    """A chat's answer as it stands behind a plain prompt."""
    said = completion.strip()
    return said if not said or prompt[-1:].isspace() else f" {said}"


def with_completion(row: Row, completion: str, *, is_finished: bool) -> Row:
    """The row with another answer, as text.

    Spaces around the answer count as in `for_teacher`.

    Raises:
        UserError: for a row whose prompt is exact tokens.
    """
    match row.content:
        case Text(prompt=prompt):
            if isinstance(row.teacher_prompt, Chat):
                completion = _space_after_prompt(prompt, completion)
            return replace(row, content=Text(prompt, completion, is_finished))
        case Chat(messages=messages, num_prompt=num_prompt):
            said = completion.strip() if isinstance(row.teacher_prompt, Text) else completion
            told = (*messages[:num_prompt], _assistant_message(said))
            return replace(row, content=Chat(told, num_prompt, num_prompt, is_finished))
        case Tokens():
            raise UserError(f"{row.source}: {TOKENS_NOT_PORTABLE}")


TOKENS_NOT_PORTABLE = (
    "exact tokens are those of one tokenizer, and here the teacher reads others: its tokenizer is "
    "not the student's, or rows have a `teacher_prompt`. Give the row as text: "
    '{"prompt", "completion"} or {"messages"}.'
)


def readable_prompt(row: Row) -> str:
    """What a row asks, as a person reads it: a chat's last message; nothing where it asks nothing.

    Rows of exact tokens say it where their file has a readable `prompt`, too.
    """
    said = json.loads(row.prompt_key)
    if not row.has_prompt or not isinstance(said[-1], dict):
        return ""
    return str(said[-1].get("content", ""))
