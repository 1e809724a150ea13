"""By rank: what methods share that compare sorted probabilities, of all words or the likeliest."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated

import jax.numpy as jnp
from jaxtyping import Array, Float32
from pydantic import Field, model_validator

from jaxdistill import losses
from jaxdistill.config import configclass
from jaxdistill.objectives.base import RowFunction, RowLogits, RowObjective


@configclass
class ByRank(RowObjective):
    """A method that compares words by how likely they are, and may look at the likeliest alone.

    Args:
        k: Look only at so many of the likeliest words; null sorts all. It gives the least that the
            sum over all words can be, and the bound that is recorded says by how much that may be
            too little.
        max_bound: Look at four times as many, and again, until no bound is above this; at 0 all
            are sorted in the end. Places that are compared together (a chunk, or a few of it on a
            CPU) look at as many as the most uncertain of them needs. Null leaves it at `k`.
    """

    k: Annotated[int, Field(gt=0)] | None = None
    max_bound: Annotated[float, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _has_a_beginning(self) -> "ByRank":
        if self.max_bound is not None and self.k is None:
            raise ValueError(
                "`max_bound` raises `k`, and there is none. Say with how many words to begin, for "
                "example `k: 256`, or leave `max_bound` out: null sorts all."
            )
        return self

    @property
    def watched(self) -> Mapping[str, RowFunction]:
        """By how much the value may be too little, where only a part is looked at."""
        return {} if self.k is None else {"bound": self._bound}

    def row_values(self, student: RowLogits, teacher: RowLogits | None) -> Float32[Array, " R"]:
        """The value, or the least that it can be."""
        return self._compared(student, teacher)[0]

    def _bound(self, student: RowLogits, teacher: RowLogits | None) -> Float32[Array, " R"]:
        return self._compared(student, teacher)[1]

    @abstractmethod
    def _compare(
        self, student: RowLogits, teacher: RowLogits
    ) -> tuple[Float32[Array, " R"], Float32[Array, " R"]]:
        """The value and its bound."""

    def _compared(
        self, student: RowLogits, teacher: RowLogits | None
    ) -> tuple[Float32[Array, " R"], Float32[Array, " R"]]:
        assert teacher is not None, "the wall shows the teacher to whom needs it"
        return student.once(self, lambda: self._compare(student, teacher))

    def _sorted_difference(
        self,
        p: Float32[Array, "R V"],
        q: Float32[Array, "R W"],
        max_error: Float32[Array, " R"],
    ) -> tuple[Float32[Array, " R"], Float32[Array, " R"]]:
        """The difference, or the least that it can be, and by how much that may be too little."""
        if self.k is None:
            return losses.sorted_difference(p, q), jnp.zeros_like(max_error)
        if self.max_bound is None:
            return losses.sorted_difference_of_top(p, q, k=self.k)
        return losses.sorted_difference_within(p, q, k=self.k, max_error=max_error)

    def _max_error(self, teacher: RowLogits) -> Float32[Array, " R"]:
        """`max_bound` for each row, and no limit for those that do not count."""
        limit = jnp.inf if self.max_bound is None else self.max_bound
        limits = jnp.full(teacher.logits.shape[:1], limit)
        return limits if teacher.counts is None else jnp.where(teacher.counts, limits, jnp.inf)
