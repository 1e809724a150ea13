"""Messages of a chat, from the forms that data sets have to the one that chat templates read.

| form      | keys of a message                                                            |
|-----------|------------------------------------------------------------------------------|
| OpenAI    | `role`, `content` (text, null or parts of text), `tool_calls`, `weight`      |
| ShareGPT  | `from`, `value`                                                              |

One conversation gives one text in every file format. Tool arguments that are a JSON string are
parsed. Null counts as absent at any depth, because a columnar file adds it; within a JSON string it
is the author's own.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdistill.data.rows import Message
from jaxdistill.errors import UserError, did_you_mean

ROLES = ("system", "developer", "user", "assistant", "tool")

_CALL_ROLES = ("function_call", "tool_call")  # an assistant's message whose text is the call
_ROLE_ALIASES = {
    "human": "user",
    **dict.fromkeys(("gpt", "chatgpt", "bing", "bard", "bot", "ai", "model"), "assistant"),
    **dict.fromkeys(_CALL_ROLES, "assistant"),
    **dict.fromkeys(("function", "observation", "tool_response", "ipython"), "tool"),
}
_KEY_ALIASES = {"from": "role", "value": "content"}

# Keys by which data sets leave a turn of the assistant out of the loss, and the value that does.
_LEFT_OUT_BY = {
    **dict.fromkeys(("weight", "train", "training", "trainable", "loss", "loss_mask"), False),
    "mask": True,
}


def parse_messages(value: Any, field_name: str) -> tuple[Message, ...]:
    """Parse a list of messages, which may be a JSON string; messages of errors name `field_name`.

    A turn that is not to be learned has `weight: 0` in the result, and no other has a weight.

    Raises:
        UserError: if it is no such list, or a role is unknown.
    """
    is_column = field_name in ("messages", "conversations")
    value = parse_json(value, field_name) if is_column else value
    if not is_list(value) or not value:
        expected = "a list" if is_column else "a string or a list"
        raise UserError(
            f"`{field_name}` is {describe_type(value)}, expected {expected} of "
            '{"role", "content"} messages.'
        )
    return tuple(
        _parse_message(message, f"{field_name}[{number}]") for number, message in enumerate(value)
    )


def parse_tools(value: Any, field_name: str) -> tuple[Mapping[str, Any], ...]:
    """Parse the tools that a chat offers: a list of objects, which may be a JSON string.

    Raises:
        UserError: if it is no such list.
    """
    value = parse_json(value, field_name)
    tools = [parse_json(tool, field_name) for tool in value] if is_list(value) else [value]
    if not all(isinstance(tool, Mapping) for tool in tools):
        raise UserError(
            f"`{field_name}` is {describe_type(value)}, expected a list of objects, one for each "
            "tool."
        )
    return tuple(drop_nulls(tool, field_name) for tool in tools)


def _parse_message(message: Any, name: str) -> Message:
    if not isinstance(message, Mapping):
        raise UserError(f'`{name}` has {describe_type(message)}, expected {{"role", "content"}}.')
    parsed: dict[str, Any] = drop_nulls(message, name)
    for alias, key in _KEY_ALIASES.items():
        if alias in parsed and key not in parsed:
            parsed[key] = parsed.pop(alias)
    if "role" not in parsed:
        raise UserError(f'`{name}` has keys {sorted(parsed)}, expected {{"role", "content"}}.')
    given_role = _parse_role(parsed["role"], f"{name}.role")
    parsed["role"] = _ROLE_ALIASES.get(given_role, given_role)
    _parse_calls(parsed, name, is_call=given_role in _CALL_ROLES)
    is_null = "content" in message or "value" in message
    if "content" not in parsed and not ("tool_calls" in parsed or is_null):
        raise UserError(f'`{name}` has keys {sorted(parsed)}, expected {{"role", "content"}}.')
    parsed["content"] = _parse_content(parsed.get("content", ""), f"{name}.content")
    is_learned = _parse_weights(parsed, name)
    return {"role": parsed.pop("role"), "content": parsed.pop("content"), **parsed} | (
        {} if is_learned else {"weight": 0}
    )


def _parse_role(role: Any, name: str) -> str:
    normalized = check_string(role, name).strip().lower()
    if normalized in ROLES or normalized in _ROLE_ALIASES:
        return normalized
    expected = ", ".join(ROLES[:-1])
    hint = did_you_mean(normalized, [*ROLES, *_ROLE_ALIASES])
    raise UserError(f"`{name}` is {role[:40]!r}, expected {expected} or {ROLES[-1]}.{hint}")


def _parse_content(content: Any, name: str) -> str:
    """Return the text of a message; parts of text are joined."""
    if not is_list(content):
        return check_string(content, name)
    texts: list[str] = []
    if not all(isinstance(part, Mapping) for part in content):
        raise UserError(
            f"`{name}` is a list, expected a string or a list of parts such as "
            '{"type": "text", "text": "…"}. Write a list as JSON text.'
        )
    for number, part in enumerate(content):
        kind = part.get("type", "text")
        if kind != "text":
            raise UserError(
                f"`{name}[{number}]` is a part of type {str(kind)[:40]!r}, and only text is read. "
                "Leave such rows out: `data.bad_rows=drop`."
            )
        texts.append(check_string(part.get("text"), f"{name}[{number}].text"))
    return "".join(texts)


def _parse_calls(message: dict[str, Any], name: str, *, is_call: bool) -> None:
    """Put all calls of tools under `tool_calls`, with their arguments as objects."""
    calls: Any = message.get("tool_calls", [])
    calls = parse_json(calls, f"{name}.tool_calls")
    old_call = message.pop("function_call", None)  # the older form of OpenAI
    if old_call is not None and not calls:
        calls = [{"type": "function", "function": old_call}]
    if is_call and not calls:
        content = parse_json(message.pop("content", None), name)
        calls = [
            {"type": "function", "function": call}
            for call in (content if is_list(content) else [content])
        ]
    if not is_list(calls):
        raise UserError(f"`{name}.tool_calls` is {describe_type(calls)}, expected a list.")
    message.pop("tool_calls", None)
    if calls:
        message["tool_calls"] = [
            _parse_call(call, f"{name}.tool_calls[{number}]") for number, call in enumerate(calls)
        ]


def _parse_call(call: Any, name: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UserError(
            f'`{name}` is {describe_type(call)} without a name, expected {{"function": {{"name", '
            '"arguments"}}}.'
        )
    parsed = {**function, "arguments": function.get("arguments", {})}
    arguments = parsed["arguments"]
    if isinstance(arguments, str):
        parsed["arguments"] = parse_json(arguments or "{}", f"{name}.arguments")
    if not isinstance(parsed["arguments"], Mapping):
        raise UserError(
            f"`{name}.arguments` is {describe_type(parsed['arguments'])}, expected an object."
        )
    return {**call, "function": parsed} if "function" in call else parsed


def _parse_weights(message: dict[str, Any], name: str) -> bool:
    """Remove the keys that weigh a message, and return whether it is to be learned."""
    is_learned = True
    for key in [key for key in _LEFT_OUT_BY if key in message]:
        value = message.pop(key)
        if value not in (0, 1):
            raise UserError(
                f"`{name}.{key}` is {value!r}, expected 1 (the turn is learned) or 0 (it is not)."
            )
        is_learned &= bool(value) != _LEFT_OUT_BY[key]
    return is_learned or message["role"] != "assistant"


def parse_json(value: Any, name: str) -> Any:
    """Return the value of a JSON string, and any other value unchanged."""
    if not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value)
    except ValueError as error:
        raise UserError(f"`{name}` is a string that is no JSON: {error}.") from None
    _check_strings(parsed, name)
    return parsed


def drop_nulls(value: Any, name: str) -> Any:
    """Return a value without the keys that are null, at any depth; texts are checked."""
    if isinstance(value, str):
        return check_string(value, name)
    if isinstance(value, Mapping):
        return {key: drop_nulls(item, name) for key, item in value.items() if item is not None}
    return [drop_nulls(item, name) for item in value] if is_list(value) else value


def _check_strings(value: Any, name: str) -> None:
    if isinstance(value, str):
        check_string(value, name)
    for item in (*value, *value.values()) if isinstance(value, Mapping) else ():
        _check_strings(item, name)
    for item in value if is_list(value) else ():
        _check_strings(item, name)


def check_string(value: Any, field_name: str) -> str:
    """Return the value, or raise a UserError if it is no text that a tokenizer can read."""
    if not isinstance(value, str):
        raise UserError(f"`{field_name}` is {describe_type(value)}, expected a string.")
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"`{field_name}` holds half of a character at {error.start} (a lone surrogate), "
            "which no tokenizer can read."
        ) from None
    return value


def is_list(value: Any) -> bool:
    """Return True for a list or a tuple, not for text."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def describe_type(value: Any) -> str:
    """Return what a value is, in words of JSON."""
    if is_list(value) and not value:
        return "an empty list"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"the number {value}"
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
    names[bytes] = "binary data"
    return names.get(type(value), type(value).__name__)
