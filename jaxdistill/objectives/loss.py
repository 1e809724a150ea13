"""The loss of a run: objectives that share one walk, and those that see all places together."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from jaxdistill.objectives.alignment import align_batch
from jaxdistill.objectives.base import Objective, PositionObjective, objective_names
from jaxdistill.objectives.batch_objective import BatchObjective, VocabEngine
from jaxdistill.objectives.chunk import CHUNK_SIZE
from jaxdistill.objectives.chunked_loss import weighted_loss
from jaxdistill.types import Batch, HiddenSignal, Params

Scalars = dict[str, Float32[Array, ""]]
"""Scalars by the name of what they are of."""


class CombinedLoss:
    """The loss of a run, as sums that add up over micro-batches.

    A term is the values of an objective, one of its parts, or what is only watched.

    Args:
        objectives: All of the run's.
        num_shards: How many devices hold a piece of a batch.
        chunk_rows: How many places the wall looks at together.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        *,
        num_shards: int = 1,
        chunk_size: int = CHUNK_SIZE,
    ):
        named = dict(zip(objective_names(objectives), objectives, strict=True))
        self._position_objectives = {
            k: one for k, one in named.items() if isinstance(one, PositionObjective)
        }
        self._batch_objectives = {
            k: one for k, one in named.items() if isinstance(one, BatchObjective)
        }
        self._diagnostics = [
            (_term_name(k, part), one)
            for k, one in self._position_objectives.items()
            for part in one.diagnostics
        ]
        self._num_shards, self._chunk_size = num_shards, chunk_size

    def denominators(self, batch: Batch) -> Scalars:
        """How much of a batch each term is about: what its sum is divided by."""
        scored = jnp.sum(batch.loss_mask)
        paired = scored if batch.alignment is None else jnp.sum(batch.alignment.span_weight)
        of_rows = [*self._position_objectives.items(), *self._diagnostics]
        found = {name: paired if one.needs_teacher else scored for name, one in of_rows}
        for name, one in self._batch_objectives.items():
            found |= {
                _term_name(name, part): count for part, count in one.denominators(batch).items()
            }
        return {term: jnp.maximum(count, 1) for term, count in found.items()}

    def __call__(
        self,
        modules: Mapping[str, Params],
        student: HiddenSignal,
        teacher: HiddenSignal | None,
        batch: Batch,
        *,
        weights: Scalars,
        denominators: Scalars,
    ) -> tuple[Float32[Array, ""], Scalars]:
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
        loss, sums = self._position_loss(student, teacher, batch, weights, denominators)
        walk = VocabEngine(self._objective_sum, self._num_shards, self._chunk_size)
        for name, one in self._batch_objectives.items():
            assert teacher is not None, "a run without a teacher has no such objective"
            parts = one.sums(modules.get(name, {}), student, teacher, batch, walk)
            for part, value in parts.items():
                term = _term_name(name, part)
                loss += weights[name] * value / denominators[term]
                sums[term] = jax.lax.stop_gradient(value)
        return loss, sums

    def means(self, sums: Scalars, denominators: Scalars) -> Scalars:
        """The mean of each term, and for objectives with parts that of all of them."""
        found = {term: value / denominators[term] for term, value in sums.items()}
        for name, one in self._batch_objectives.items():
            found[name] = jnp.stack(
                [found[_term_name(name, part)] for part in one.term_names]
            ).sum()
        return found

    def _position_loss(
        self,
        student: HiddenSignal,
        teacher: HiddenSignal | None,
        batch: Batch,
        weights: Scalars,
        denominators: Scalars,
    ) -> tuple[Float32[Array, ""], Scalars]:
        """The terms of all objectives that compare row by row, in one walk."""
        if not self._position_objectives:
            return jnp.float32(0), {}
        objectives = tuple(self._position_objectives.values())
        coefficients = jnp.stack(
            [weights[name] / denominators[name] for name in self._position_objectives]
        )
        loss, sums = self._chunked_loss(objectives, coefficients, student, teacher, batch)
        terms = [*self._position_objectives, *(name for name, _ in self._diagnostics)]
        return loss, dict(zip(terms, sums, strict=True))

    def _objective_sum(
        self,
        objective: PositionObjective,
        student: HiddenSignal,
        teacher: HiddenSignal | None,
        batch: Batch,
    ) -> Float32[Array, ""]:
        """What objectives that see all places together have for their way to the wall."""
        return self._chunked_loss((objective,), jnp.ones(1), student, teacher, batch)[0]

    def _chunked_loss(
        self,
        objectives: tuple[PositionObjective, ...],
        coefficients: Float32[Array, " objectives"],
        student: HiddenSignal,
        teacher: HiddenSignal | None,
        batch: Batch,
    ) -> tuple[Float32[Array, ""], Float32[Array, " measures"]]:
        merge = any(objective.needs_span_prefix for objective in objectives)
        debias = any("boundaries" in objective.vocab_needs for objective in objectives)
        rows = align_batch(
            student,
            teacher,
            batch,
            num_shards=self._num_shards,
            with_span_prefix=merge,
            with_span_boundary=debias,
        )
        head = None if teacher is None else teacher.lm_head
        return weighted_loss(
            objectives, coefficients, rows, student.lm_head, head, chunk_size=self._chunk_size
        )


def _term_name(name: str, term: str) -> str:
    return f"{name}_{term}"
