"""The loss of a run: the weighted sum of its objectives."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from jaxdistill.objectives.alignment import example_mean_weight, teacher_weight
from jaxdistill.objectives.base import Objective, PositionObjective, objective_names
from jaxdistill.objectives.batch_objective import BatchObjective
from jaxdistill.objectives.chunk import CHUNK_SIZE
from jaxdistill.objectives.engine import VocabEngine
from jaxdistill.types import Batch, HiddenSignal, Params

Scalars = dict[str, Float32[Array, ""]]
"""Scalars by the name of an objective or a term.

A term has a sum of its own: a position objective, one of its diagnostics (`uld_bound`), or one of
the terms of a batch objective (`dskd_teacher_space_kl`)."""


class CombinedLoss:
    """The loss of a run, as sums that add up over micro-batches; arguments as `VocabEngine`."""

    def __init__(
        self, objectives: Sequence[Objective], *, num_shards: int = 1, chunk_size: int = CHUNK_SIZE
    ):
        named = list(zip(objective_names(objectives), objectives, strict=True))
        self._position_objectives = {k: o for k, o in named if isinstance(o, PositionObjective)}
        self._batch_objectives = {k: o for k, o in named if isinstance(o, BatchObjective)}
        self._diagnostics = {
            _term_name(name, diagnostic): objective
            for name, objective in self._position_objectives.items()
            for diagnostic in objective.diagnostics
        }
        self._engine = VocabEngine(num_shards, chunk_size)

    def denominators(self, batch: Batch) -> Scalars:
        """Return the divisor of the sum of each term: the total weight of a batch, at least 1."""
        counts = {
            name: _total_weight(objective, batch)
            for name, objective in (self._position_objectives | self._diagnostics).items()
        }
        for name, objective in self._batch_objectives.items():
            for term, count in objective.denominators(batch).items():
                counts[_term_name(name, term)] = count
        return {term: jnp.maximum(count, 1) for term, count in counts.items()}

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
        """Compute the loss of a batch or micro-batch, and the sum of each term.

        Gradients reach the modules and the student, never the teacher.

        Args:
            modules: Trainable modules of objectives, by objective (`init_modules`).
            student: Signal of the student.
            teacher: Signal of the teacher; None where no objective needs it.
            batch: The batch or micro-batch.
            weights: Weight of each objective.
            denominators: Divisor of each term, from the whole batch.
        """
        teacher = jax.lax.stop_gradient(teacher)
        loss, sums = self._position_loss(student, teacher, batch, weights, denominators)
        for name, objective in self._batch_objectives.items():
            assert teacher is not None, "needs teacher logits"
            own_modules = modules.get(name, {})
            terms = objective.sums(own_modules, student, teacher, batch, self._engine)
            for term, value in terms.items():
                term = _term_name(name, term)
                loss += weights[name] * value / denominators[term]
                sums[term] = jax.lax.stop_gradient(value)
        return loss, sums

    def means(self, sums: Scalars, denominators: Scalars) -> Scalars:
        """Return the mean of each term, and of each batch objective the sum of its means."""
        means = {term: value / denominators[term] for term, value in sums.items()}
        for name, objective in self._batch_objectives.items():
            terms = [means[_term_name(name, term)] for term in objective.term_names]
            means[name] = jnp.stack(terms).sum()
        return means

    def _position_loss(
        self,
        student: HiddenSignal,
        teacher: HiddenSignal | None,
        batch: Batch,
        weights: Scalars,
        denominators: Scalars,
    ) -> tuple[Float32[Array, ""], Scalars]:
        """Compute the terms of all position objectives in one loop over the vocabulary."""
        names, objectives = list(self._position_objectives), self._position_objectives.values()
        if not names:
            return jnp.float32(0), {}
        coefficients = jnp.stack([weights[name] / denominators[name] for name in names])
        arguments = tuple(objectives), coefficients, student, teacher, batch
        loss, sums = self._engine.weighted_loss(*arguments)
        return loss, dict(zip([*names, *self._diagnostics], sums, strict=True))


def _total_weight(objective: PositionObjective, batch: Batch) -> Float32[Array, ""]:
    """Sum the weights of the objective's values; with two tokenizers, spans have their weight."""
    if not objective.needs_teacher:
        return jnp.sum(batch.loss_mask)
    is_averaged = objective.averages_examples and batch.alignment is None
    return jnp.sum(example_mean_weight(batch) if is_averaged else teacher_weight(batch))


def _term_name(objective: str, term: str) -> str:
    return f"{objective}_{term}"
