"""By rank: what methods share that compare sorted probabilities, of all words or the likeliest."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated

import jax.numpy as jnp
from jaxtyping import Array, Float32
from pydantic import Field, model_validator

from jaxdistill import losses
from jaxdistill.config import configclass
from jaxdistill.objectives.base import PositionFunction, PositionObjective, TokenDistribution


@configclass
class SortedDifference(PositionObjective):
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
    def _check_max_bound(self) -> "SortedDifference":
        if self.max_bound is not None and self.k is None:
            raise ValueError(
                "`max_bound` raises `k`, and there is none. Say with how many words to begin, for "
                "example `k: 256`, or leave `max_bound` out: null sorts all."
            )
        return self

    @property
    def diagnostics(self) -> Mapping[str, PositionFunction]:
        """By how much the value may be too little, where only a part is looked at."""
        return {} if self.k is None else {"bound": self._bound}

    def values(
        self, student: TokenDistribution, teacher: TokenDistribution | None
    ) -> Float32[Array, " R"]:
        """The value, or the least that it can be."""
        return self._memoised_values_and_bounds(student, teacher)[0]

    def _bound(
        self, student: TokenDistribution, teacher: TokenDistribution | None
    ) -> Float32[Array, " R"]:
        return self._memoised_values_and_bounds(student, teacher)[1]

    @abstractmethod
    def _values_and_bounds(
        self, student: TokenDistribution, teacher: TokenDistribution
    ) -> tuple[Float32[Array, " R"], Float32[Array, " R"]]:
        """The value and its bound."""

    def _memoised_values_and_bounds(
        self, student: TokenDistribution, teacher: TokenDistribution | None
    ) -> tuple[Float32[Array, " R"], Float32[Array, " R"]]:
        assert teacher is not None, "the wall shows the teacher to whom needs it"
        return student.memoise(self, lambda: self._values_and_bounds(student, teacher))

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
            return losses.sorted_difference_top_k(p, q, k=self.k)
        return losses.sorted_difference_adaptive(p, q, k=self.k, max_error=max_error)

    def _max_error(self, teacher: TokenDistribution) -> Float32[Array, " R"]:
        """`max_bound` for each row, and no limit for those that do not count."""
        limit = jnp.inf if self.max_bound is None else self.max_bound
        limits = jnp.full(teacher.logits.shape[:1], limit)
        return (
            limits if teacher.is_scored is None else jnp.where(teacher.is_scored, limits, jnp.inf)
        )
