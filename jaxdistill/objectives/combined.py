"""The loss of a run: objectives that share one walk, and those that see all places together."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from jaxdistill.objectives.base import Objective, RowObjective, names
from jaxdistill.objectives.chunk import CHUNK_ROWS
from jaxdistill.objectives.pair import pair
from jaxdistill.objectives.wall import weighted_loss
from jaxdistill.objectives.whole import Walk, WholeObjective
from jaxdistill.types import Batch, Params, Signal

Numbers = dict[str, Float32[Array, ""]]
"""Scalars by the name of what they are of."""


class Combined:
    """The loss of a run, as sums that add up over micro-batches.

    A term is the values of an objective, one of its parts, or what is only watched.

    Args:
        objectives: All of the run's.
        num_groups: How many devices hold a piece of a batch.
        chunk_rows: How many places the wall looks at together.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        *,
        num_groups: int = 1,
        chunk_rows: int = CHUNK_ROWS,
    ):
        named = dict(zip(names(objectives), objectives, strict=True))
        self._of_rows = {k: one for k, one in named.items() if isinstance(one, RowObjective)}
        self._whole = {k: one for k, one in named.items() if isinstance(one, WholeObjective)}
        self._watched = [
            (_term(k, part), one) for k, one in self._of_rows.items() for part in one.watched
        ]
        self._num_groups, self._chunk_rows = num_groups, chunk_rows

    def counts(self, batch: Batch) -> Numbers:
        """How much of a batch each term is about: what its sum is divided by."""
        scored = jnp.sum(batch.loss_mask)
        paired = scored if batch.pairing is None else jnp.sum(batch.pairing.weight)
        of_rows = [*self._of_rows.items(), *self._watched]
        found = {name: paired if one.compares else scored for name, one in of_rows}
        for name, one in self._whole.items():
            found |= {_term(name, part): count for part, count in one.counts(batch).items()}
        return {term: jnp.maximum(count, 1) for term, count in found.items()}

    def __call__(
        self,
        modules: Mapping[str, Params],
        student: Signal,
        teacher: Signal | None,
        batch: Batch,
        *,
        weights: Numbers,
        counts: Numbers,
    ) -> tuple[Float32[Array, ""], Numbers]:
        """What a batch, or a part of it, adds to the loss, and to the sum of each term.

        Gradients reach the modules and the student, and never the teacher.

        Args:
            modules: What objectives learn, by their names (`init_modules`).
            student: What the student says.
            teacher: What the teacher says; None where no objective asks.
            batch: What they read.
            weights: Of each objective.
            counts: Of each term, in the whole batch.
        """
        teacher = jax.lax.stop_gradient(teacher)
        loss, sums = self._walk(student, teacher, batch, weights, counts)
        walk = Walk(self._compare, self._num_groups, self._chunk_rows)
        for name, one in self._whole.items():
            assert teacher is not None, "a run without a teacher has no such objective"
            parts = one.sums(modules.get(name, {}), student, teacher, batch, walk)
            for part, value in parts.items():
                term = _term(name, part)
                loss += weights[name] * value / counts[term]
                sums[term] = jax.lax.stop_gradient(value)
        return loss, sums

    def means(self, sums: Numbers, counts: Numbers) -> Numbers:
        """The mean of each term, and for objectives with parts that of all of them."""
        found = {term: value / counts[term] for term, value in sums.items()}
        for name, one in self._whole.items():
            found[name] = jnp.stack([found[_term(name, part)] for part in one.parts]).sum()
        return found

    def _walk(
        self,
        student: Signal,
        teacher: Signal | None,
        batch: Batch,
        weights: Numbers,
        counts: Numbers,
    ) -> tuple[Float32[Array, ""], Numbers]:
        """The terms of all objectives that compare row by row, in one walk."""
        if not self._of_rows:
            return jnp.float32(0), {}
        objectives = tuple(self._of_rows.values())
        coefficients = jnp.stack([weights[name] / counts[name] for name in self._of_rows])
        loss, sums = self._weighted(objectives, coefficients, student, teacher, batch)
        terms = [*self._of_rows, *(name for name, _ in self._watched)]
        return loss, dict(zip(terms, sums, strict=True))

    def _compare(
        self, objective: RowObjective, student: Signal, teacher: Signal | None, batch: Batch
    ) -> Float32[Array, ""]:
        """What objectives that see all places together have for their way to the wall."""
        return self._weighted((objective,), jnp.ones(1), student, teacher, batch)[0]

    def _weighted(
        self,
        objectives: tuple[RowObjective, ...],
        coefficients: Float32[Array, " objectives"],
        student: Signal,
        teacher: Signal | None,
        batch: Batch,
    ) -> tuple[Float32[Array, ""], Float32[Array, " measures"]]:
        merge = any(objective.merges for objective in objectives)
        debias = any("boundaries" in objective.lookups for objective in objectives)
        rows = pair(
            student, teacher, batch, num_groups=self._num_groups, merge=merge, debias=debias
        )
        head = None if teacher is None else teacher.head
        return weighted_loss(
            objectives, coefficients, rows, student.head, head, chunk_rows=self._chunk_rows
        )


def _term(name: str, part: str) -> str:
    return f"{name}_{part}"
