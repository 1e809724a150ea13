"""Rendering of rows as strings for a tokenizer, with the characters to learn.

A row is rendered whole and tokenised once, so that its tokens are those of inference. Tokenising
it in pieces would give other tokens where the pieces meet.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from jaxdistill import align
from jaxdistill.data.chat_template import ChatTemplate
from jaxdistill.data.chat_turns import locate_turns
from jaxdistill.data.rows import Chat, Message, Row, Text
from jaxdistill.errors import UserError

_MIN_CONTENT_SIZE = 16
"""Characters of a content that no header of a message holds."""


class AssistantTurn(NamedTuple):
    """Character ranges of a completion in a rendered string, start included and end excluded.

    Attributes:
        loss_range: Characters to learn: from the end of the generation prompt to the end-of-turn
            token, which is included.
        content_range: The completion alone; its text is the same in every chat template.
        is_finished: True if the end of the turn is learned.
    """

    loss_range: tuple[int, int]
    content_range: tuple[int, int]
    is_finished: bool = True


@dataclass(frozen=True)
class RenderedText:
    """A row as the string that is tokenised, and the completions in it.

    `is_chat` if a chat template wrote the string, with all special tokens. Otherwise the tokenizer
    adds its own, and the end-of-text token is added if it is missing. `contents` are the characters
    of a chat's messages, as far as the template writes them as they are.
    """

    text: str
    turns: tuple[AssistantTurn, ...]
    is_chat: bool
    contents: tuple[tuple[int, int], ...] = ()


class Renderer:
    """A fast tokenizer and its chat template; a slow tokenizer is refused by a `UserError`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self.name = tokenizer.name_or_path or type(tokenizer).__name__
        if not tokenizer.is_fast:
            raise UserError(
                f"tokenizer `{self.name}`: a slow tokenizer does not tell which characters a token "
                "stands for. Use one with a `tokenizer.json`."
            )
        self.chat_template = ChatTemplate(tokenizer, self.name)

    @property
    def identity(self) -> str:
        """Hash of the tokenizer and its chat template."""
        backend: Any = self.tokenizer.backend_tokenizer  # pyright: ignore
        definition = f"{backend.to_str()} {self.tokenizer.chat_template}"
        return hashlib.sha256(definition.encode()).hexdigest()[:12]

    @cached_property
    def token_bytes(self) -> list[bytes | None]:
        """Bytes of each token by its id; None for special tokens. See `align.token_bytes`."""
        return align.token_bytes(self.tokenizer)

    @cached_property
    def text_token_bytes(self) -> list[bytes | None]:
        """Bytes of each token that occurs in tokenised text; None for all other tokens."""
        return align.text_token_bytes(self.tokenizer)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenise texts without adding special tokens."""
        backend: Any = self.tokenizer.backend_tokenizer  # pyright: ignore
        encodings = backend.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, tokens: Sequence[int], *, skip_special: bool = True) -> str:
        """Decode tokens, by default without special tokens, and without clean-up of spaces."""
        text = self.tokenizer.decode(
            list(tokens), skip_special_tokens=skip_special, clean_up_tokenization_spaces=False
        )
        return str(text)

    def end_ids(self, declared: Iterable[int] = ()) -> tuple[int, ...]:
        """Return the ids of all tokens that end a completion.

        They are those that the files of a model declare, EOS, and the end of a turn in the chat
        template, which a base model's files do not name.
        """
        ids = (*declared, self.eos_id, self.end_of_turn_id)
        return tuple(dict.fromkeys(token for token in ids if token is not None))

    @cached_property
    def end_of_turn_id(self) -> int | None:
        """Token that ends an assistant turn: of the chat template if there is one, else EOS."""
        return self.eos_id if self.template_end_id is None else self.template_end_id

    @cached_property
    def template_end_id(self) -> int | None:
        """Token that the chat template writes after an assistant turn; None for none."""
        if not self.chat_template.source:
            return None
        messages = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
        try:
            rendered = self.render(Chat(messages, num_prompt=1, first_scored=1))
        except UserError:  # the template does not render a chat as short as that
            return None
        (turn,) = rendered.turns
        end = rendered.text[turn.content_range[1] : turn.loss_range[1]].strip()
        token_id = self.tokenizer.get_vocab().get(end)
        # Text of a plain token may occur anywhere, and ends nothing.
        return token_id if token_id in self.tokenizer.added_tokens_decoder else None

    @property
    def eos_id(self) -> int | None:
        """Id of the EOS token; None if the tokenizer has none."""
        eos = self.tokenizer.eos_token_id
        return eos if isinstance(eos, int) else None

    def check_chat_template(self, rows: Sequence[Row]) -> None:
        """Raise a UserError if a row is a chat and the tokenizer has no chat template."""
        chat = next((row for row in rows if isinstance(row.content, Chat)), None)
        if chat is not None and not self.tokenizer.chat_template:
            raise UserError(
                f"{chat.source}: tokenizer `{self.name}` has no chat template, which messages "
                "need. Use an instruct model's tokenizer, or rows of plain `prompt` and "
                "`completion` with `data.prompt_template=plain`."
            )

    def render(self, content: Text | Chat) -> RenderedText:
        """Render a row with its completions.

        Raises:
            UserError: if the chat template refuses the row, or changes the text of an assistant
                turn so that it cannot be located.
        """
        if isinstance(content, Text):
            text = content.prompt + (content.completion or "")
            completion = len(content.prompt), len(text)
            turn = AssistantTurn(completion, completion, content.is_finished)
            return RenderedText(text, (turn,), is_chat=False)
        self.chat_template.check_messages(content.messages)
        text = self.chat_template.render(content.messages, content.tools)
        turns = self._locate_turns(content, text)
        return RenderedText(text, turns, True, _locate_contents(content.messages, text))

    def render_prompt(self, content: Text | Chat) -> RenderedText:
        """Render the prompt of a row, for a teacher to complete; nothing of it is learned."""
        if isinstance(content, Text):
            return RenderedText(content.prompt, (), is_chat=False)
        prompt = content.messages[: content.num_prompt]
        self.chat_template.check_messages(prompt)
        text = self.chat_template.render(prompt, content.tools, add_generation_prompt=True)
        return RenderedText(text, (), is_chat=True)

    def _locate_turns(self, content: Chat, text: str) -> tuple[AssistantTurn, ...]:
        """Locate the learned turns in the rendered text, each with the token that ends it."""
        messages, template = content.messages, self.chat_template
        indices = [n for n, message in enumerate(messages) if message["role"] == "assistant"]
        learned = [
            index
            for index in indices
            if index >= content.first_scored and messages[index].get("weight") != 0
        ]

        def render(messages: Sequence[Message], add_generation_prompt: bool) -> str:
            if add_generation_prompt:
                return template.render(messages, content.tools, add_generation_prompt=True)
            return template.render(messages, content.tools).removesuffix(template.chat_end)

        marked = template.marked_turns(messages, content.tools)
        if marked is not None and len(marked) == len(indices):
            ranges = dict(zip(indices, marked, strict=True))
        else:
            body = text.removesuffix(template.chat_end)
            found = locate_turns(messages, learned, body, render)
            ranges = dict(zip(learned, found, strict=True))
            if marked:  # the template marks some of the turns: only these are learned
                ranges = {index: _overlapping(turn, marked) for index, turn in ranges.items()}
                learned = [index for index in learned if ranges[index] is not None]
        turns = []
        for index in learned:
            turn = ranges[index]
            if turn is None:
                raise self._turn_not_found(index)
            is_finished = content.is_finished or index < len(messages) - 1
            turns.append(self._make_turn(text, turn, messages[index], is_finished))
        return tuple(turns)

    def _make_turn(
        self, text: str, turn: tuple[int, int], message: Message, is_finished: bool
    ) -> AssistantTurn:
        """Locate the content in a turn, and leave out white space that the template adds."""
        start, limit = turn
        special = self.chat_template.special_token_pattern
        content = str(message["content"])
        if "tool_calls" in message:  # calls are content, too, in the words of the template
            content = re.sub(f"(\\s*({special}))*\\s*$", "", text[start:limit])
        found = _find_before(content.strip(), re.compile(f"\\s*(?:{special})"), text, turn)
        end = start + len(text[start:limit].rstrip())
        if found is None:  # the template rewrites the content
            return AssistantTurn((start, end), (start, end), is_finished)
        loss_end = max(end, found[1]) if is_finished else found[1]
        return AssistantTurn((start, loss_end), found, is_finished)

    def _turn_not_found(self, index: int) -> UserError:
        return UserError(
            f"`messages[{index}]`: cannot find this turn of the assistant in what the chat "
            f"template of tokenizer `{self.name}` writes. Put `{{% generation %}}` and "
            "`{% endgeneration %}` around what it writes for the assistant."
        )


def _locate_contents(messages: Sequence[Message], text: str) -> tuple[tuple[int, int], ...]:
    """Return the character range of each longer content, found after the one before.

    A short content may be found in a header, such as the name of a role, and is left out.
    """
    ranges = []
    position = 0
    for message in messages:
        content = str(message["content"]).strip()
        start = text.find(content, position)
        if len(content) >= _MIN_CONTENT_SIZE and start >= 0:
            position = start + len(content)
            ranges.append((start, position))
    return tuple(ranges)


def _overlapping(
    turn: tuple[int, int] | None, marked: Sequence[tuple[int, int]]
) -> tuple[int, int] | None:
    """Return the range of the marks that a turn overlaps, from the first to the last."""
    if turn is None:
        return None
    marks = [mark for mark in marked if mark[0] < turn[1] and mark[1] > turn[0]]
    return (marks[0][0], marks[-1][1]) if marks else None


def _find_before(
    content: str, end_pattern: re.Pattern[str], text: str, within: tuple[int, int]
) -> tuple[int, int] | None:
    """Return where the content stands in a part of the text; None if it does not.

    Where it does so more than once, as a short text may in a tag before it, the place before a
    match of `end_pattern` is preferred. (Patterns of the contents would each have to be compiled.)
    """
    start, limit = within
    first = position = text.find(content, start, limit)
    while position >= 0:
        end = position + len(content)
        if end_pattern.match(text, end, limit):
            return position, end
        position = text.find(content, position + 1, limit)
    return None if first < 0 else (first, first + len(content))
