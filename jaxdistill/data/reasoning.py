"""Reasoning of the assistant, `<think>…</think>` before its answer: kept, masked or dropped."""

import re
from dataclasses import replace
from typing import Literal

from jaxdistill.data.renderer import AssistantTurn, RenderedText
from jaxdistill.data.rows import REASONING_KEYS, Chat, Message, Row, Text

Reasoning = Literal["keep", "mask", "drop"]
"""`keep`: learned where the chat template writes it. `mask`: read, not learned. `drop`: removed."""

REASONING_END = "</think>"

_SPAN = re.compile(r"<think>.*?</think>\s*", re.DOTALL)


def drop_reasoning(row: Row) -> Row:
    """Return the row without the reasoning in its assistant turns; exact tokens are unchanged."""
    match row.content:
        case Text(completion=str(completion)):
            content = replace(row.content, completion=_SPAN.sub("", completion))
        case Chat(messages=messages):
            content = replace(row.content, messages=tuple(map(_without_reasoning, messages)))
        case content:
            pass
    return replace(row, content=content)


def mask_reasoning(rendered: RenderedText) -> RenderedText:
    """Return the text with turns that are learned from the end of their reasoning on."""
    turns = tuple(_after_reasoning(rendered.text, turn) for turn in rendered.turns)
    return replace(rendered, turns=turns)


def _without_reasoning(message: Message) -> Message:
    if message["role"] != "assistant":
        return message
    kept = {key: value for key, value in message.items() if key not in REASONING_KEYS}
    return {**kept, "content": _SPAN.sub("", message["content"])}


def _after_reasoning(text: str, turn: AssistantTurn) -> AssistantTurn:
    start, end = turn.loss_range
    found = text.rfind(REASONING_END, start, end)
    if found < 0:
        return turn
    answer = text[found + len(REASONING_END) : end]
    return turn._replace(loss_range=(end - len(answer.lstrip()), end))
