"""Reasoning of the assistant, `<think>…</think>` before its answer: kept, masked or dropped."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from jaxdistill.data.renderer import AssistantTurn, RenderedText
from jaxdistill.data.rows import REASONING_KEYS, Chat, Message, Row, Text

Reasoning = Literal["keep", "mask", "drop"]
"""`keep`: learned where the chat template writes it. `mask`: read, not learned. `drop`: removed."""

REASONING_END = "</think>"

_START, _MAX_OPENING = "<think>", 16

DecodeFunction = Callable[[Sequence[int]], str]


def drop_reasoning(row: Row) -> Row:
    """Return the row without the reasoning in its assistant turns; exact tokens are unchanged."""
    match row.content:
        case Text(completion=str(completion)):
            content = replace(row.content, completion=_answer(completion))
        case Chat(messages=messages):
            content = replace(row.content, messages=tuple(map(_without_reasoning, messages)))
        case content:
            pass
    return replace(row, content=content)


def mask_reasoning(rendered: RenderedText) -> RenderedText:
    """Return the text with turns that are learned from the end of their reasoning on."""
    turns = tuple(_after_reasoning(rendered.text, turn) for turn in rendered.turns)
    return replace(rendered, turns=turns)


def num_reasoning_tokens(tokens: Sequence[int], prompt_size: int, decode: DecodeFunction) -> int:
    """Return how many tokens of a completion are its reasoning, all if it was cut off inside."""
    completion = tokens[prompt_size:]
    total = decode(completion).count(REASONING_END)
    if not total:
        is_open = _is_open(decode(tokens[max(0, prompt_size - _MAX_OPENING) :]))
        return len(completion) if is_open else 0
    sizes = range(len(completion) + 1)
    return bisect_left(sizes, total, key=lambda n: decode(completion[:n]).count(REASONING_END))


def _without_reasoning(message: Message) -> Message:
    if message["role"] != "assistant":
        return message
    kept = {key: value for key, value in message.items() if key not in REASONING_KEYS}
    return {**kept, "content": _answer(message["content"])}


def _answer(text: str) -> str:
    """Return what follows the reasoning, which a template's prompt may have opened."""
    return text.rsplit(REASONING_END, 1)[1].lstrip() if REASONING_END in text else text


def _after_reasoning(text: str, turn: AssistantTurn) -> AssistantTurn:
    start, end = turn.loss_range
    if REASONING_END not in text[start:end]:
        is_open = _is_open(text[max(0, start - _MAX_OPENING) : end])
        return turn._replace(loss_range=(end, end)) if is_open else turn
    return turn._replace(loss_range=(end - len(_answer(text[start:end])), end))


def _is_open(text: str) -> bool:
    """Return True if reasoning begins in a text and does not end."""
    return _START in text.rsplit(REASONING_END, 1)[-1]
