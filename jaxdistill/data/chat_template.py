"""A tokenizer's chat template: what it writes for messages, and what it leaves out."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from jaxdistill.data.chat_turns import common_size
from jaxdistill.data.rows import REASONING_KEYS, Message
from jaxdistill.data.template_limits import (
    TemplateLimitError,
    check_rendered_size,
    limit_rendering,
)
from jaxdistill.errors import UserError

_GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
_QUESTION: Message = {"role": "user", "content": "Hi."}
_CALL = {"id": "a" * 9, "type": "function", "function": {"name": "f", "arguments": {}}}

_TIME: ContextVar[datetime | None] = ContextVar("_TIME", default=None)


@contextmanager
def template_time(time: datetime) -> Iterator[None]:
    """Let chat templates that ask for the time read this one, instead of the clock."""
    token = _TIME.set(time)
    try:
        yield
    finally:
        _TIME.reset(token)


# Templates read the clock by `strftime_now(format)`, and are given plain values only, no functions.
_TIME_FORMAT = re.compile(r"strftime_now\(\s*(?:'([^']*)'|\"([^\"]*)\")")
_TIME_MACRO = (
    "{%- macro strftime_now(form) %}{%- if form not in _times %}"
    "{{- raise_exception('strftime_now takes a format in quotes here, not a variable') }}"
    "{%- endif %}{{- _times[form] }}{%- endmacro %}{{ '' }}"
)


def _with_text_arguments(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function", call)
    arguments = json.dumps(function.get("arguments", {}), ensure_ascii=False)
    with_text = {**function, "arguments": arguments}
    return {**call, "function": with_text} if "function" in call else with_text


class ChatTemplate:
    """The chat template of a tokenizer; messages of errors call the tokenizer `name`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str):
        self._tokenizer = tokenizer
        self._name = name
        self._writes_by_role = {"user": True, "assistant": True}
        self._limit_error: UserError | None = None
        self._is_tried = False

    @property
    def source(self) -> str | None:
        """Source text of the template; None if there is none."""
        template: Any = self._tokenizer.chat_template
        return template if isinstance(template, str | None) else str(template)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] = (),
        *,
        add_generation_prompt: bool = False,
    ) -> str:
        """Render messages, perhaps with the prompt of a turn to generate.

        Raises:
            UserError: if the template refuses the messages.
        """
        return self._apply(self._to_conversation(messages), tools, add_generation_prompt)

    def marked_turns(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
    ) -> Sequence[tuple[int, int]] | None:
        """Return what the template itself marks as generated; None if it marks nothing."""
        source = self._source_for(tools)
        if not source or not _GENERATION_MARK.search(source):
            return None
        special_tokens: dict[str, Any] = dict(self._tokenizer.special_tokens_map)
        with limit_rendering():
            rendered: Any = render_jinja_template(
                conversations=[self._to_conversation(messages)],
                tools=[dict(tool) for tool in tools] or None,
                return_assistant_tokens_mask=True,
                **{**special_tokens, "chat_template": source, **self._time_arguments(source)},
            )
        _, (marked,) = rendered
        return marked

    def check_messages(self, messages: Sequence[Message]) -> None:
        """Raise a UserError if the template silently leaves out all that a message holds."""
        for index, message in enumerate(messages):
            role = str(message["role"])
            if "tool_calls" in message and not message["content"] and not self.reads("tool_calls"):
                raise UserError(
                    f"`messages[{index}]`: the chat template of tokenizer `{self._name}` leaves "
                    "calls of tools out, so that nothing of this turn is left. Use the template of "
                    "a model that calls tools."
                )
            if not self._writes_role(role):
                nearest = " Write it as `system`." if role == "developer" else ""
                raise UserError(
                    f"`messages[{index}]`: the chat template of tokenizer `{self._name}` leaves "
                    f"messages of role `{role}` out.{nearest}"
                )

    def reads(self, name: str) -> bool:
        """Return True if the template names a key of a message or an argument such as `tools`."""
        # `transformers` gives reasoning to a template by each of these names.
        names = REASONING_KEYS if name in REASONING_KEYS else (name,)
        return re.search(rf"\b({'|'.join(map(re.escape, names))})\b", self.source or "") is not None

    @cached_property
    def chat_end(self) -> str:
        """Text that the template adds after the last turn of a chat, not after each turn."""
        chat = (_QUESTION, {"role": "assistant", "content": "Hello."})
        try:
            last = self.render(chat)
            followed = self.render((*chat, _QUESTION))
        except UserError:
            return ""
        start = common_size(last, followed)
        for special in re.finditer(self.special_token_pattern, last):
            if special.start() < start < special.end():
                start = special.start()
        return "" if "Hello." in last[start:] else last[start:]

    @cached_property
    def special_token_pattern(self) -> str:
        """Regular expression for any special token; matches nothing if there is none."""
        added = self._tokenizer.added_tokens_decoder.values()
        texts = {str(token.content) for token in added if token.special}
        return "|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)"

    def _writes_role(self, role: str) -> bool:
        if role not in self._writes_by_role:
            answer = {"role": role, "content": "42"}
            call = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
            chat = (_QUESTION, call, answer) if role == "tool" else (answer, _QUESTION)
            try:
                self._writes_by_role[role] = "42" in self.render(chat)
            except UserError:  # it says so itself, for every row with this role
                self._writes_by_role[role] = True
        return self._writes_by_role[role]

    def _to_conversation(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Return messages in the form that the template reads, without what concerns the loss."""
        conversation = [
            {key: value for key, value in message.items() if key != "weight"}
            for message in messages
        ]
        for message in conversation:
            if "tool_calls" in message and self._reads_text_arguments:
                message["tool_calls"] = list(map(_with_text_arguments, message["tool_calls"]))
            if self._reads_parts:
                message["content"] = [{"type": "text", "text": message["content"]}]
        return conversation

    @cached_property
    def _reads_parts(self) -> bool:
        """True if the template reads content as a list of parts, and loses it as text."""
        parts = [{"type": "text", "text": "42"}]
        text, listed = (self._try_probe({**_QUESTION, "content": c}) for c in ("42", parts))
        return "42" not in text and "42" in listed

    @cached_property
    def _reads_text_arguments(self) -> bool:
        """True if the template refuses calls of tools unless their arguments are text."""
        call = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
        as_text = {**call, "tool_calls": [_with_text_arguments(_CALL)]}
        question = dict(_QUESTION)
        return not self._try_probe(question, call) and bool(self._try_probe(question, as_text))

    def _try_probe(self, *conversation: Mapping[str, Any]) -> str:
        try:
            return self._apply(list(map(dict, conversation)), (), add_generation_prompt=False)
        except UserError:
            return ""

    def _source_for(self, tools: Sequence[Any]) -> str | None:
        """Return the template that is used with these tools, where a tokenizer has several."""
        if not isinstance(self._tokenizer.chat_template, dict):
            return self.source
        return self._tokenizer.get_chat_template(tools=list(tools) or None)

    def _time_arguments(self, source: str | None) -> dict[str, Any]:
        """Return arguments by which a template reads the time of `template_time`."""
        if source is None or "strftime_now" not in source:
            return {}
        time = _TIME.get() or datetime.now()
        forms = {first or second for first, second in _TIME_FORMAT.findall(source)}
        times = {form: time.strftime(form) for form in forms}
        return {"chat_template": f"{_TIME_MACRO}{source}", "_times": times}

    def _apply(
        self,
        conversation: list[dict[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool,
    ) -> str:
        if self._limit_error is not None:  # not once more for every row
            raise self._limit_error
        try:
            # The first rendering is also limited in memory, while no other thread needs any.
            with limit_rendering(limits_memory=not self._is_tried):
                text = self._tokenizer.apply_chat_template(
                    conversation,
                    tools=[dict(tool) for tool in tools] or None,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    **self._time_arguments(self._source_for(tools)),
                )
            assert isinstance(text, str)
            check_rendered_size(text, [*conversation, *tools])
            self._is_tried = True
        except TemplateLimitError as error:
            limit_error = UserError(
                f"the chat template of tokenizer `{self._name}` is not usable: {error}. Give the "
                "model another template."
            )
            if not self._is_tried:  # else only this row is too much
                self._limit_error = limit_error
            raise limit_error from None
        except Exception as error:  # noqa: BLE001 (a template is a program: it may raise anything)
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"the chat template of tokenizer `{self._name}` refuses it: {reason}"
            ) from None
        return text
