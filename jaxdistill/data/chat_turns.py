"""Turns of the assistant in a rendered chat, found by what the chat template renders.

A turn is what the first n + 1 messages render beyond the first n with their generation prompt. A
template may render earlier messages otherwise once others follow (without their reasoning, for
example), so both are compared with the whole chat.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jaxdistill.data.rows import Message
from jaxdistill.errors import UserError

RenderFunction = Callable[[Sequence[Message], bool], str]
"""Renders messages, and the generation prompt after them if the second argument is True."""

_QUESTION = ({"role": "user", "content": "a"},)


def locate_turns(
    messages: Sequence[Message], indices: Sequence[int], text: str, render: RenderFunction
) -> list[tuple[int, int] | None]:
    """Return the character range of each turn in `text`, which renders all messages.

    A range starts after the generation prompt and ends before what the template renders for the
    next message. It is None for a turn that is not found.
    """
    ranges: list[tuple[int, int] | None] = []
    position = 0
    for index in indices:
        start = _turn_start(messages, index, text, position, render)
        if start is None:
            ranges.append(None)
            continue
        is_last = index == len(messages) - 1
        position = len(text) if is_last else _prefix_end(messages, index + 1, text, start, render)
        ranges.append((start, position))
    return ranges


def _turn_start(
    messages: Sequence[Message], index: int, text: str, position: int, render: RenderFunction
) -> int | None:
    """Return where the turn at `index` starts, at `position` or later."""
    try:
        before = render(messages[:index], True) if index else None
    except UserError:  # a template may refuse a system message alone
        before = None
    if before is None:
        return _unprompted_start(messages, index, text, position, render)
    if text.startswith(before):
        return len(before)
    plain = render(messages[:index], False)
    common = common_size(before, text)
    if common >= len(plain):  # the template opens a written turn otherwise than one to write
        return common
    end = _prefix_end(messages, index, text, position, render)
    return end + common_size(before[len(plain) :], text[end:])


def _prefix_end(
    messages: Sequence[Message], count: int, text: str, position: int, render: RenderFunction
) -> int:
    """Return where the first `count` messages end in `text`, at `position` or later."""
    prefix = render(messages[:count], False)
    common = common_size(prefix, text)
    content = _content(messages[count - 1]).strip()
    if common == len(prefix) or (content and common >= position and content not in prefix[common:]):
        return common
    return _suffix_end(prefix, text, position)


def _suffix_end(prefix: str, text: str, position: int) -> int:
    """Return where the longest suffix of `prefix` that occurs after `position` ends."""
    low, high = 0, len(prefix)
    while low < high:
        size = (low + high + 1) // 2
        if text.find(prefix[-size:], position) >= 0:
            low = size
        else:
            high = size - 1
    return text.find(prefix[-low:], position) + low if low else position


def _unprompted_start(
    messages: Sequence[Message], index: int, text: str, position: int, render: RenderFunction
) -> int | None:
    """Return the start of a turn whose generation prompt cannot be rendered with what is before.

    It follows the generation prompt that a question has; without one, it is the content's start.
    """
    prompt = render(_QUESTION, True).removeprefix(render(_QUESTION, False))
    found = text.find(prompt, position)
    if prompt and found >= 0:
        return found + len(prompt)
    first, second = (
        render([*messages[:index], {**messages[index], "content": content}], False)
        for content in ("a", "b")
    )
    before = first[: common_size(first, second)]
    return len(before.rstrip()) if text.startswith(before) else None


def _content(message: Message) -> str:
    content: Any = message.get("content")
    return content if isinstance(content, str) else ""


def common_size(first: str, second: str) -> int:
    """Return the number of characters with which both texts start."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
