"""Keys of prompts: rows whose prompts have one key are on one side of the held-out split.

A key is canonical JSON of role, content and tool calls, so that ids of messages and white space
that a chat template strips make no difference.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdistill.data.messages import is_list, parse_messages
from jaxdistill.data.rows import Chat, Message, Row, Text, Tokens, completion_messages


def prompt_key(content: Text | Chat | Tokens, prompt: Any = None) -> str:
    """Return the key of a row, equal for a string and a user message, and for all completions.

    Exact tokens have that of their `prompt` as text or messages, if it is known.
    """
    match content:
        case Text(prompt=text, completion=completion):
            key: Any = _user_message(text) if text else completion
        case Chat(messages=messages, num_prompt=num_prompt):
            key = messages[:num_prompt] or messages
        case Tokens(prompt=tokens):
            key = tokens
            if prompt is not None:
                is_text = isinstance(prompt, str)
                key = _user_message(prompt) if is_text else parse_messages(prompt, "prompt")
    return _dump(key)


def conversation_keys(rows: Sequence[Row]) -> list[str]:
    """Return the key of each row; rows that hold one conversation turn by turn share theirs.

    A row continues another one if that one's prompt and completion begin its own prompt.
    """
    whole: dict[str, str] = {}
    for row in rows:
        if row.has_completion and not isinstance(row.content, Tokens):
            whole.setdefault(_whole_key(row.content), row.prompt_key)
    return [_first_key(row.prompt_key, whole) for row in rows]


def _whole_key(content: Text | Chat) -> str:
    if isinstance(content, Chat):
        return _dump(content.messages)
    return _dump([*_user_message(content.prompt), *completion_messages(content)])


def _first_key(key: str, whole: Mapping[str, str]) -> str:
    """Return the key of the shortest conversation that the prompt of a key continues."""
    if '"role":"assistant"' not in key:
        return key
    messages = json.loads(key)
    sizes = (n for n in range(1, len(messages)) if messages[n - 1]["role"] == "assistant")
    keys = (_dump(messages[:n]) for n in sizes)
    return next((whole[earlier] for earlier in keys if earlier in whole), key)


def _dump(key: Any) -> str:
    if is_list(key) and key and isinstance(key[0], Mapping):
        names = ("role", "content", "tool_calls")
        key = [{name: _strip(m[name]) for name in names if name in m} for m in key]
    return json.dumps(_strip(key), sort_keys=True, separators=(",", ":"), default=str)


def _strip(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _user_message(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]
