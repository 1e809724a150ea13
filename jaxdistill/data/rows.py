"""Parsed rows of a source: plain text, chats or exact tokens, and the teacher's own prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jaxdistill.errors import UserError

Message = Mapping[str, Any]
"""A message: `role`, `content`, and any other key that the chat template uses.

A turn of the assistant that is not to be learned has `weight: 0`. See `data.messages`.
"""

REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
"""Keys of a message that hold its reasoning apart from its content."""

TOKENS_NOT_PORTABLE = (
    "exact tokens are those of one tokenizer, and here the teacher reads others: its tokenizer is "
    "not the student's, or rows have a `teacher_prompt`. Give the row as text: "
    '{"prompt", "completion"} or {"messages"}.'
)
"""Error message for rows of exact tokens where the teacher needs text."""


# Keep the names of the next three classes and their fields: `DataSplit.digest` hashes their `repr`,
# and a run folder with another digest is refused.


@dataclass(frozen=True)
class Text:
    """A plain prompt and its completion.

    Attributes:
        prompt: Text before the completion; empty where all is learned.
        completion: Text to learn; None until a rollout writes it.
        is_finished: False if generation was cut off.
    """

    prompt: str
    completion: str | None
    is_finished: bool = field(default=True, repr=False)


@dataclass(frozen=True)
class Chat:
    """Messages for the tokenizer's chat template.

    Attributes:
        messages: The whole conversation.
        num_prompt: Number of leading messages that form the prompt; assistant turns after them
            are the completion.
        first_scored: Index of the first message that may be learned; only assistant turns are.
        is_finished: False if generation of the last turn was cut off.
        tools: Tools that the chat template is given.
    """

    messages: tuple[Message, ...]
    num_prompt: int
    first_scored: int = 0
    is_finished: bool = field(default=True, repr=False)
    tools: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Tokens:
    """Exact token ids, as a rollout generated them; `text` serves another tokenizer, if known."""

    prompt: tuple[int, ...]
    completion: tuple[int, ...]
    text: Text | Chat | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Row:
    """A row of a source.

    Attributes:
        source: File and line of the row, for messages ("rows.jsonl:12").
        row_id: Index among all rows of the run.
        prompt_key: The prompt as canonical JSON. Rows with equal keys are on one side of the split.
        content: Prompt and completion.
        teacher_prompt: Prompt for the teacher, if it differs from the student's.
        teacher_tokens: Prompt and completion in the tokens of the teacher that wrote it.
        format: Name of the row's format (see `data.row_formats`).
        unused_fields: Fields of the source that are not read.
    """

    source: str
    row_id: int
    prompt_key: str
    content: Text | Chat | Tokens
    teacher_prompt: Text | Chat | None = None
    teacher_tokens: Tokens | None = None
    format: str = ""
    unused_fields: tuple[str, ...] = ()

    @property
    def has_prompt(self) -> bool:
        """True if a teacher could complete the row."""
        match self.content:
            case Text(prompt="") | Chat(num_prompt=0) | Tokens(prompt=()):
                return False
        return True

    @property
    def has_completion(self) -> bool:
        """True if the row can be learned without a rollout."""
        match self.content:
            case Text(completion=completion):
                return completion is not None
            case Chat(messages=messages, first_scored=first_scored):
                return any(message["role"] == "assistant" for message in messages[first_scored:])
            case Tokens():
                return True


def require_completions(rows: Sequence[Row]) -> None:
    """Raise a UserError that names all rows without a completion, if there are any."""
    lines = [
        f"{row.source}: a prompt without a completion{_unused_fields_note(row)}. Add a "
        "`completion` (or a last message of the assistant), or let the teacher write it: "
        "`data.rollout.type=teacher`."
        for row in rows
        if not row.has_completion
    ]
    if lines:
        raise UserError(*lines)


def _unused_fields_note(row: Row) -> str:
    """Name the first field that is not read, which may be the completion."""
    if not row.unused_fields:
        return ""
    name = row.unused_fields[0]
    return f". `{name}` is not read: `data.fields={{completion: '{{{name}}}'}}` learns it"


def apply_teacher_prompt(row: Row) -> Row:
    """Return the row as the teacher reads it: its `teacher_prompt`, then the same completion.

    A completion that it wrote stays in its own tokens: its chat template may write another one, for
    example without the reasoning. A row without a `teacher_prompt`, or of exact tokens, is returned
    unchanged. Between a chat and a plain prompt,
    white space around the completion is adapted: a space follows a plain prompt.
    """
    prompt, content = row.teacher_prompt, row.content
    if row.teacher_tokens is not None:
        return replace(row, content=row.teacher_tokens, teacher_prompt=None)
    if prompt is None or isinstance(content, Tokens):
        return row
    messages = completion_messages(content)
    if isinstance(prompt, Chat):
        size = len(prompt.messages)
        content = Chat((*prompt.messages, *messages), size, size, content.is_finished, prompt.tools)
    elif isinstance(content, Text):
        content = replace(content, prompt=prompt.prompt)
    else:
        completion = _space_after(prompt.prompt, messages[0]["content"]) if messages else None
        content = Text(prompt.prompt, completion, content.is_finished)
    return replace(row, content=content, teacher_prompt=None)


def with_completion(row: Row, completion: str, *, is_finished: bool) -> Row:
    """Return the row with another completion, given as text.

    White space around the completion is treated as in `apply_teacher_prompt`.

    Raises:
        UserError: for a row whose prompt is exact tokens.
    """
    match row.content:
        case Text(prompt=prompt):
            if isinstance(row.teacher_prompt, Chat):
                completion = _space_after(prompt, completion)
            return replace(row, content=Text(prompt, completion, is_finished))
        case Chat(messages=messages, num_prompt=num_prompt):
            if isinstance(row.teacher_prompt, Text):
                completion = completion.strip()
            messages = (*messages[:num_prompt], _assistant_message(completion))
            chat = replace(
                row.content, messages=messages, first_scored=num_prompt, is_finished=is_finished
            )
            return replace(row, content=chat)
        case Tokens():
            raise UserError(f"{row.source}: {TOKENS_NOT_PORTABLE}")


def readable_prompt(row: Row) -> str:
    """Return the text of the prompt: of a chat, the content of its last message.

    It is empty for a row without a prompt, and for exact tokens without text.
    """
    content = row.content.text if isinstance(row.content, Tokens) else row.content
    match content:
        case Text(prompt=prompt):
            return prompt
        case Chat(messages=messages, num_prompt=num_prompt) if num_prompt:
            return str(messages[num_prompt - 1]["content"])
    return ""


def completion_messages(content: Text | Chat | Tokens) -> tuple[Message, ...]:
    """Return the completion as messages; none for exact tokens, or until it is written."""
    match content:
        case Chat(messages=messages, num_prompt=num_prompt):
            return messages[num_prompt:]
        case Text(completion=str(completion)):
            return (_assistant_message(completion.strip()),)
    return ()


def _assistant_message(completion: str) -> Message:
    return {"role": "assistant", "content": completion}


def _space_after(prompt: str, completion: str) -> str:
    """Strip a chat's completion, and put a space before it unless the plain prompt ends in one."""
    stripped = completion.strip()
    return stripped if not stripped or prompt[-1:].isspace() else f" {stripped}"
