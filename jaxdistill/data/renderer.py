"""From a row to the one string that is tokenised, and the characters of it that are learned.

The string is rendered whole and tokenised once, so that its tokens are those that the model sees
in use; rendering or tokenising in pieces would put other tokens at the seams.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from jaxdistill import align
from jaxdistill.data.rows import Chat, Message, Row, Text
from jaxdistill.errors import UserError


class AssistantTurn(NamedTuple):
    """One answer in a string: half-open ranges of its characters.

    Attributes:
        learned: What is learned of it: from where the answer is asked for to the mark that ends it.
        said: The answer itself, which is the same in every tokenizer's template.
        is_finished: Whether it is learned that the answer ends there.
    """

    loss_range: tuple[int, int]
    content_range: tuple[int, int]
    is_finished: bool = True


@dataclass(frozen=True)
class RenderedText:
    """What is tokenised.

    Attributes:
        text: The whole string.
        turns: Its answers.
        is_chat: Whether a chat template wrote it, with all the special tokens that it wants;
            otherwise the tokenizer adds its own, and an end where there is none.
    """

    text: str
    turns: tuple[AssistantTurn, ...]
    is_chat: bool


class Renderer:
    """Renders rows the way one tokenizer wants them.

    Args:
        tokenizer: A fast tokenizer: the slow ones do not say which characters a token stands for.

    Raises:
        UserError: for a slow tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self.name = tokenizer.name_or_path or type(tokenizer).__name__
        if not tokenizer.is_fast:
            raise UserError(
                f"tokenizer `{self.name}`: a slow tokenizer does not tell which characters a token "
                "stands for. Use one with a `tokenizer.json`."
            )

    @property
    def identity(self) -> str:
        """Names what the tokenizer does, and its chat template."""
        inner: Any = self.tokenizer.backend_tokenizer  # pyright: ignore
        said = f"{inner.to_str()} {self.tokenizer.chat_template}"
        return hashlib.sha256(said.encode()).hexdigest()[:12]

    @cached_property
    def token_bytes(self) -> list[bytes | None]:
        """The bytes of every token by its id; None for marks that stand for no text.

        Raises:
            UserError: for a tokenizer that does not tell.
        """
        return align.token_bytes(self.tokenizer)

    @cached_property
    def text_token_bytes(self) -> list[bytes | None]:
        """The same of those that texts are written in; None for all others (`align.words`)."""
        return align.text_token_bytes(self.tokenizer)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The tokens of texts, without marks around them."""
        inner: Any = self.tokenizer.backend_tokenizer  # pyright: ignore
        found = inner.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in found]

    @property
    def end_of_turn_id(self) -> int | None:
        """The mark that ends an answer: that of the chat template, if there is one, or `eos`."""
        if not self.tokenizer.chat_template:
            return self.eos_id
        messages = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
        rendered = self.render(Chat(messages, num_prompt=1, first_scored=1))
        end = rendered.text[
            rendered.turns[0].content_range[1] : rendered.turns[0].loss_range[1]
        ].strip()
        return self.tokenizer.get_vocab().get(end, self.eos_id)

    @property
    def eos_id(self) -> int | None:
        """The token that ends a text, if the tokenizer has one."""
        eos = self.tokenizer.eos_token_id
        return eos if isinstance(eos, int) else None

    def check_chat_template(self, rows: Sequence[Row]) -> None:
        """See that the tokenizer can write rows of these kinds at all.

        Raises:
            UserError: where it has no chat template and a row has messages.
        """
        chats = (row for row in rows if isinstance(row.content, Chat))
        first = next(chats, None)
        if first is not None and not self.tokenizer.chat_template:
            raise UserError(
                f"{first.source}: tokenizer `{self.name}` has no chat template, which messages need."
                " Use an instruct model's tokenizer, or rows of plain `prompt` and `completion` "
                "with `data.prompt_template=plain`."
            )

    def render(self, content: Text | Chat) -> RenderedText:
        """The whole row, which has an answer.

        Raises:
            UserError: where the chat template refuses the row, or writes it so that the assistant's
                turns cannot be found.
        """
        if isinstance(content, Text):
            text = content.prompt + (content.completion or "")
            answer = len(content.prompt), len(text)
            turn = AssistantTurn(answer, answer, content.is_finished)
            return RenderedText(text, (turn,), is_chat=False)
        whole = self._apply_chat_template(content.messages, add_generation_prompt=False)
        return RenderedText(whole, self._locate_turns(content, whole), is_chat=True)

    def render_prompt(self, content: Text | Chat) -> RenderedText:
        """What a teacher is to continue; nothing of it is learned."""
        if isinstance(content, Text):
            return RenderedText(content.prompt, (), is_chat=False)
        asked = content.messages[: content.num_prompt]
        return RenderedText(
            self._apply_chat_template(asked, add_generation_prompt=True), (), is_chat=True
        )

    def _locate_turns(self, content: Chat, text: str) -> tuple[AssistantTurn, ...]:
        """The assistant's turns, each with the token that ends it."""
        numbers = [
            number
            for number, message in enumerate(content.messages)
            if message["role"] == "assistant" and number >= content.first_scored
        ]
        starts = []
        for number in numbers:
            before = self._apply_chat_template(
                content.messages[:number], add_generation_prompt=True
            )
            if not text.startswith(before):
                raise self._turn_not_found(number)
            starts.append(len(before))
        turns = []
        for number, start, limit in zip(numbers, starts, [*starts[1:], len(text)], strict=True):
            said = f"({re.escape(content.messages[number]['content'].strip())})"
            # Prefer the place where the turn ends: a short answer may occur in a tag before it.
            found = re.compile(f"{said}\\s*(?:{self._special_token_pattern})").search(
                text, start, limit
            )
            found = found or re.compile(said).search(text, start, limit)
            if found is None:
                raise self._turn_not_found(number)
            is_finished = content.is_finished or number < len(content.messages) - 1
            end = found.end() if is_finished else found.end(1)
            turns.append(AssistantTurn((start, end), found.span(1), is_finished))
        return tuple(turns)

    def _turn_not_found(self, number: int) -> UserError:
        return UserError(
            f"`messages[{number}]`: cannot find this turn of the assistant in what the chat "
            f"template of tokenizer `{self.name}` writes. Use a template that writes each turn "
            "as it stands, or set `data.loss_on=all` with `text` rows."
        )

    def _apply_chat_template(
        self, messages: Sequence[Message], *, add_generation_prompt: bool
    ) -> str:
        conversation: list[dict[str, Any]] = [dict(message) for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        except Exception as error:  # noqa: BLE001 (a template is a program: it may raise anything)
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"the chat template of tokenizer `{self.name}` refuses it: {reason}"
            ) from None
        assert isinstance(text, str)
        return text

    @cached_property
    def _special_token_pattern(self) -> str:
        """A pattern for any special token's text; one that never matches where there is none."""
        added = self.tokenizer.added_tokens_decoder.values()
        texts = {str(token.content) for token in added if token.special}
        return "|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)"
