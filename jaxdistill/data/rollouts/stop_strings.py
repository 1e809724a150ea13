"""Stop strings: truncation of generated completions before given texts."""

from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from jaxdistill.data.renderer import Renderer
from jaxdistill.data.rows import Row, Text


@dataclass(frozen=True)
class StopStrings:
    """Strings that end a completion, which is in tokens of `renderer`.

    There is at least one of `eos_ids`, tokens that end a completion, if there are strings.
    """

    strings: Sequence[str]
    renderer: Renderer
    eos_ids: Collection[int]

    def truncate(self, row: Row, completion: Sequence[int]) -> list[int]:
        """Truncate a completion before the first stop string, and end it there.

        The tokens before the stop string stay as generated. A token that holds both the start of
        the string and text before it (a full stop with a line break) is replaced by tokens of that
        text. An end token is appended, so that the end is learned as if the teacher had ended
        there.

        Returns:
            The tokens; unchanged without a stop string, empty if only white space is before it.
        """
        text = self.renderer.decode(completion)
        starts = [start for string in self.strings if (start := text.find(string)) >= 0]
        if not starts:
            return list(completion)
        prefix = text[: min(starts)]
        if not prefix.strip():
            return []
        return [*self._tokens_of_prefix(completion, prefix), self._end_token(row)]

    def _tokens_of_prefix(self, completion: Sequence[int], prefix: str) -> list[int]:
        """Return tokens that decode to a prefix of the completion, generated ones if possible."""
        tokens, decode = list(completion), self.renderer.decode
        sizes = range(len(tokens) + 1)
        num_whole = bisect_right(sizes, len(prefix), key=lambda n: len(decode(tokens[:n]))) - 1
        for size in range(num_whole, -1, -1):
            kept, text = tokens[:size], decode(tokens[:size])
            if prefix.startswith(text):
                rest = self.renderer.tokenizer.encode(prefix[len(text) :], add_special_tokens=False)
                # Some tokenizers put a space before a text that is encoded alone.
                if decode([*kept, *rest]) == prefix:
                    return [*kept, *rest]
        return tokens[:num_whole]

    def _end_token(self, row: Row) -> int:
        is_plain = isinstance(row.content, Text)
        end_id = self.renderer.eos_id if is_plain else self.renderer.end_of_turn_id
        return end_id if end_id is not None and end_id in self.eos_ids else next(iter(self.eos_ids))
