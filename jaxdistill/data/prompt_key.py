"""Keys of prompts: rows whose prompts have one key are on one side of the held-out split.

A key is canonical JSON of role, content and tool calls, so that ids of messages and white space
that a chat template strips make no difference.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from jaxdistill.data.messages import is_list, parse_messages
from jaxdistill.data.rows import Chat, Message, Text, Tokens


def prompt_key(content: Text | Chat | Tokens, prompt: Any = None) -> str:
    """Return the key of a row, equal for a string and a user message, and for all completions.

    Of a conversation whose turns are all learned it is what comes before the first of them. Exact
    tokens have that of their `prompt` as text or messages, if it is known.
    """
    match content:
        case Text(prompt=text, completion=completion):
            key: Any = _user_message(text) if text else completion
        case Chat(messages=messages, num_prompt=num_prompt, first_scored=first_scored):
            size = num_prompt if first_scored else _size_of_opening(messages, num_prompt)
            key = messages[:size] or messages
        case Tokens(prompt=tokens):
            key = tokens
            if prompt is not None:
                is_text = isinstance(prompt, str)
                key = _user_message(prompt) if is_text else parse_messages(prompt, "prompt")
    return _dump(key)


def conversation_key(key: str, known: Collection[str]) -> str:
    """Return the shortest of the `known` keys that begins the conversation of a key.

    Rows that hold one conversation turn by turn thereby have one key.
    """
    return next((earlier for earlier in _earlier_keys(key) if earlier in known), key)


def _earlier_keys(key: str) -> Iterator[str]:
    """Yield the keys of the prompts before earlier assistant turns, the shortest first."""
    if '"role":"assistant"' not in key:
        return
    messages = json.loads(key)
    for number in range(1, len(messages)):
        if messages[number]["role"] == "assistant":
            yield _dump(messages[:number])


def _dump(key: Any) -> str:
    if is_list(key) and key and isinstance(key[0], Mapping):
        names = ("role", "content", "tool_calls")
        key = [{name: _strip(m[name]) for name in names if name in m} for m in key]
    return json.dumps(_strip(key), sort_keys=True, separators=(",", ":"), default=str)


def _strip(value: Any) -> Any:
    return value.strip() if isinstance(value, str) else value


def _size_of_opening(messages: Sequence[Message], num_prompt: int) -> int:
    """Return the number of messages before the first assistant turn that follows a user message."""
    roles = [message["role"] for message in messages]
    first_user = roles.index("user") if "user" in roles else len(roles)
    turns = (n for n, role in enumerate(roles) if role == "assistant" and n > first_user)
    return min(next(turns, num_prompt), num_prompt)


def _user_message(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]
