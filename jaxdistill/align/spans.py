"""Alignment of the tokens of one text in two tokenizations: spans of equal bytes, or positions."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int

ComparedTokens = Literal["last_token", "first_token", "single_tokens"]


@dataclass(frozen=True)
class AlignmentRule:
    """Rule that decides which tokens of two tokenizers are compared.

    Attributes:
        method: `spans`: spans that cover the same bytes; `positions`: the n-th token of a
            completion with the n-th, whatever text they are.
        average_over: Unit of equal weight in a batch: the span (`groups`) or the example (`rows`);
            None for an objective that has weights of its own.
        compare_at: Where spans of several tokens are compared: at their last tokens; at their
            first tokens, which follow the same text on both sides; or nowhere, so that only spans
            of a single token on both sides are compared.
    """

    method: Literal["spans", "positions"]
    average_over: Literal["groups", "rows"] | None = "groups"
    compare_at: ComparedTokens = "last_token"

    def __str__(self) -> str:
        tokens = f"`{self.method}` ({self.compare_at})"
        return (
            tokens if self.average_over is None else f"{tokens} averaged over {self.average_over}"
        )

    def agrees_with(self, other: "AlignmentRule") -> bool:
        """Return whether one alignment serves both."""
        units = {self.average_over, other.average_over} - {None}
        is_same_place = (self.method, self.compare_at) == (other.method, other.compare_at)
        return is_same_place and len(units) <= 1


class SpanIds(NamedTuple):
    """Span of each token, from 0 in order; -1 for none. Every span has tokens on both sides."""

    student: Int[np.ndarray, " T"]
    teacher: Int[np.ndarray, " S"]

    def select(self, compare_at: ComparedTokens) -> "SpanIds":
        """Set the span of every token that `compare_at` does not compare to -1."""
        if compare_at == "first_token":
            return SpanIds(*(np.where(np.diff(ids, prepend=-1) != 0, ids, -1) for ids in self))
        if compare_at == "single_tokens":
            sizes = [np.bincount(ids[ids >= 0]) for ids in self]
            is_single = np.append((sizes[0] == 1) & (sizes[1] == 1), False)
            new_ids = np.where(is_single, np.cumsum(is_single) - 1, -1)
            return SpanIds(*(new_ids[ids] for ids in self))
        return self


class ByteRanges(NamedTuple):
    """Bytes of a shared text that each token covers, in order: `starts` to before `ends`.

    Several tokens may end on one byte: parts of a character all end where it ends if it is unknown
    which of its bytes each covers.
    """

    starts: Int[np.ndarray, " T"]
    ends: Int[np.ndarray, " T"]


def align_spans(student: ByteRanges, teacher: ByteRanges) -> SpanIds:
    """Find the smallest spans that start and end on the same byte and cover all bytes between.

    Tokens are in no span where the other side does not cover exactly the same bytes: because it
    was truncated, or because its last token continues after the text.
    """
    sides = student, teacher
    student_edges, teacher_edges = (np.union1d(side.starts, side.ends) for side in sides)
    shared_edges = np.intersect1d(student_edges, teacher_edges)
    sizes = np.diff(shared_edges)
    indices = [np.searchsorted(shared_edges, side.ends) - 1 for side in sides]
    is_covered = np.ones(len(sizes), dtype=bool)
    for side, index in zip(sides, indices, strict=True):
        is_inside = (index >= 0) & (index < len(sizes))
        lengths = (side.ends - side.starts)[is_inside]
        is_covered &= np.bincount(index[is_inside], lengths, minlength=len(sizes)) == sizes
    span_ids = np.append(np.where(is_covered, np.cumsum(is_covered) - 1, -1), -1)
    # Tokens before the first shared edge or after the last read the -1 appended at the end.
    return SpanIds(*(span_ids[np.where(index < len(sizes), index, -1)] for index in indices))


def align_positions(
    student_ranks: Int[np.ndarray, " T"], teacher_ranks: Int[np.ndarray, " S"]
) -> SpanIds:
    """Pair the tokens of equal rank; a token without a partner is in no span.

    Ranks increase, except for -1: a token to leave out.
    """
    shared = np.intersect1d(student_ranks[student_ranks >= 0], teacher_ranks[teacher_ranks >= 0])

    def span_ids(ranks: Int[np.ndarray, " T"]) -> Int[np.ndarray, " T"]:
        return np.where(np.isin(ranks, shared), np.searchsorted(shared, ranks), -1)

    return SpanIds(span_ids(student_ranks), span_ids(teacher_ranks))
