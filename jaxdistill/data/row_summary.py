"""Summary of the rows that were read: their formats, and what in them will not be learned."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from jaxdistill.data.reasoning import REASONING_END
from jaxdistill.data.renderer import Renderer
from jaxdistill.data.rows import Chat, Row, Text
from jaxdistill.data.split import DataSplit
from jaxdistill.errors import UserError

_READ_KEYS = {"role", "content", "weight"}
_MAX_LISTED = 4


def summarize_rows(split: DataSplit, renderer: Renderer) -> str:
    """Describe formats, fields that nobody reads, and rows worth a look, in one line."""
    rows = (*split.train, *split.heldout)
    formats = Counter(row.format for row in rows)
    parts = [", ".join(f"{count:,} of {name}" for name, count in formats.most_common())]
    unread = Counter(name for row in rows for name in _unread_fields(row, renderer))
    if unread:
        parts.append(f"not read: {_list_counts(unread)}")
    if empty := sum(map(_has_empty_completion, rows)):
        parts.append(f"{empty:,} with an empty completion, which teaches to end at once")
    if lost := sum(_loses_reasoning(row, renderer) for row in rows):
        parts.append(f"{lost:,} with reasoning that the chat template leaves out")
    special = re.compile(renderer.chat_template.special_token_pattern)
    marks = Counter(mark for row in rows for mark in set(special.findall(_own_text(row))))
    if marks:
        parts.append(f"text that is read as special tokens: {_list_counts(marks)}")
    if split.bad_rows:
        reasons = Counter(re.sub(r"^.*?(:\d+| row \d+): ", "", line) for line in split.bad_rows)
        parts.append(f"{len(split.bad_rows):,} bad rows left out: {_list_counts(reasons)}")
    return "; ".join(parts)


def _list_counts(counts: Counter[str]) -> str:
    listed = [f"{name} ({count:,})" for name, count in counts.most_common(_MAX_LISTED)]
    return ", ".join([*listed, "…"] if len(counts) > _MAX_LISTED else listed)


def _unread_fields(row: Row, renderer: Renderer) -> Iterator[str]:
    """Yield the fields of a row that neither the parser nor the chat template reads."""
    yield from (f"`{name}`" for name in row.unused_fields)
    if not isinstance(row.content, Chat):
        return
    template = renderer.chat_template
    if row.content.tools and not template.reads("tools"):
        yield "`tools`, which the chat template does not know"
    keys = {str(key) for message in row.content.messages for key in message}
    yield from (
        f"`{key}` of messages, which the chat template does not know"
        for key in sorted(keys - _READ_KEYS)
        if not template.reads(key)
    )


def _has_empty_completion(row: Row) -> bool:
    match row.content:
        case Text(completion=completion):
            return completion is not None and not completion.strip()
        case Chat(messages=messages, first_scored=first_scored):
            return any(
                message["role"] == "assistant"
                and not message["content"].strip()
                and "tool_calls" not in message
                for message in messages[first_scored:]
            )
    return False


def _loses_reasoning(row: Row, renderer: Renderer) -> bool:
    """Return True if the chat template leaves out the reasoning in a turn of the assistant."""
    if not isinstance(row.content, Chat):
        return False
    turns = [m["content"] for m in row.content.messages if m["role"] == "assistant"]
    thoughts = [
        turn.split(REASONING_END)[0].removeprefix("<think>").strip()
        for turn in turns
        if REASONING_END in turn
    ]
    if not thoughts:
        return False
    try:
        text = renderer.render(row.content).text
    except UserError:
        return False
    return any(thought not in text for thought in thoughts)


def _own_text(row: Row) -> str:
    return "\0".join(_texts(row))


def _texts(row: Row) -> Iterable[str]:
    match row.content:
        case Text(prompt=prompt, completion=completion):
            return prompt, completion or ""
        case Chat(messages=messages):
            return (str(message["content"]) for message in messages)
    return ()
