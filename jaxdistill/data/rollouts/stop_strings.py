"""Stop: answers that end before a text, in tokens that say no more and end there."""

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

from jaxdistill.data.renderer import Renderer
from jaxdistill.data.rows import Row, Text


@dataclass(frozen=True)
class StopStrings:
    """Where answers end, whatever a teacher wrote behind.

    Attributes:
        texts: An answer ends before the first of these.
        templates: How the teacher's tokenizer wants rows.
        eos_ids: The tokens that end an answer; at least one.
    """

    strings: Sequence[str]
    renderer: Renderer
    eos_ids: Collection[int]

    def truncate(self, row: Row, completion: Sequence[int]) -> list[int]:
        """An answer without what begins with a stop text; as it is where there is none.

        The tokens before it stay those that the teacher wrote, but for one that holds its beginning
        and something before that (a full stop and the line break that ends the answer): that is
        written anew. The mark that ends answers to such prompts follows, so that the end is learned
        as if the teacher had come to it. Where nothing but spaces is left, nothing is: such a row
        has no answer.

        Args:
            row: What was asked.
            answer: The tokens that were written.
        """
        text = self._decode(completion)
        found = [place for one in self.strings if (place := text.find(one)) >= 0]
        if not found:
            return list(completion)
        said = text[: min(found)]
        return (
            [*self._tokens_of_prefix(completion, said), self._end_token(row)]
            if said.strip()
            else []
        )

    def _tokens_of_prefix(self, completion: Sequence[int], prefix: str) -> list[int]:
        """Tokens that say `said`, with which the answer begins, and mostly are its own."""
        tokens, tokenizer = list(completion), self.renderer.tokenizer

        def num_letters(size: int) -> int:
            return len(self._decode(tokens[:size]))

        whole = bisect_right(range(len(tokens) + 1), len(prefix), key=num_letters) - 1
        for size in range(whole, -1, -1):
            before = self._decode(tokens[:size])
            if prefix.startswith(before):
                rest = tokenizer.encode(prefix[len(before) :], add_special_tokens=False)
                # Some tokenizers write a space before whatever they encode alone.
                if self._decode([*tokens[:size], *rest]) == prefix:
                    return [*tokens[:size], *rest]
        return tokens[:whole]

    def _end_token(self, row: Row) -> int:
        is_plain = isinstance(row.content, Text)
        wanted = self.renderer.eos_id if is_plain else self._end_of_turn_id
        return wanted if wanted in self.eos_ids and wanted is not None else min(self.eos_ids)

    @cached_property
    def _end_of_turn_id(self) -> int | None:
        return self.renderer.end_of_turn_id

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(
            self.renderer.tokenizer.decode(
                list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )
