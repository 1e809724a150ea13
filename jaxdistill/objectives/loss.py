"""The loss of a run: the weighted sum of its objectives."""

from collections.abc import Mapping, Sequence
from copy import copy
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from jaxdistill.objectives.alignment import align_batch
from jaxdistill.objectives.base import (
    CHUNK_SIZE,
    LossContext,
    Objective,
    PositionTerm,
    objective_names,
)
from jaxdistill.objectives.chunked_loss import weighted_loss
from jaxdistill.types import Batch, HiddenSignal, Params

Scalars = dict[str, Float32[Array, ""]]
"""Scalars by the name of an objective or a term.

A term has a sum of its own: a position objective, one of its diagnostics (`uld_bound`), or one of
several terms of an objective (`dskd_teacher_space_kl`)."""


class _NamedTerm(NamedTuple):
    """A position term with its name and its coefficient in the loss."""

    name: str
    coefficient: Float32[Array, ""]
    term: PositionTerm


class CombinedLoss:
    """The loss of a run, as sums that add up over micro-batches.

    Args:
        objectives: Objectives, whose weighted sum it is.
        num_shards: Number of devices that hold a part of the batch.
        chunk_size: Positions of each shard that are projected at a time.
    """

    def __init__(
        self, objectives: Sequence[Objective], *, num_shards: int = 1, chunk_size: int = CHUNK_SIZE
    ):
        self._objectives = dict(zip(objective_names(objectives), objectives, strict=True))
        self._num_shards, self._chunk_size = num_shards, chunk_size

    def only(self, name: str) -> "CombinedLoss":
        """Return the loss of one objective."""
        loss = copy(self)
        loss._objectives = {name: self._objectives[name]}
        return loss

    def denominators(self, batch: Batch) -> Scalars:
        """Return the divisor of the sum of each term: the total weight of a batch, at least 1."""
        return {
            _term_name(name, term): jnp.maximum(count, 1)
            for name, objective in self._objectives.items()
            for term, count in objective.denominators(batch).items()
        }

    def __call__(
        self,
        modules: Mapping[str, Params],
        student: HiddenSignal,
        teacher: HiddenSignal | None,
        batch: Batch,
        *,
        frozen: Mapping[str, Params] = MappingProxyType({}),
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
            frozen: Arrays of objectives that were fitted before training, by objective.
            weights: Weight of each objective.
            denominators: Divisor of each term, from the whole batch.
        """
        teacher, frozen = jax.lax.stop_gradient((teacher, dict(frozen)))
        loss, sums = jnp.float32(0), {}
        walks: dict[tuple[int, ...], list[_NamedTerm]] = {}
        for name, objective in self._objectives.items():
            own = modules.get(name, {}), frozen.get(name, {})
            context = LossContext(student, teacher, batch, *own, self._num_shards, self._chunk_size)
            for term_name, term in objective.terms(context).items():
                full_name = _term_name(name, term_name)
                coefficient = weights[name] / denominators[full_name]
                if isinstance(term, PositionTerm):
                    walk = walks.setdefault(tuple(map(id, term[1:])), [])
                    walk.append(_NamedTerm(full_name, coefficient, term))
                else:
                    # An objective of weight 0 may be infinite without harm.
                    loss += jnp.where(coefficient == 0, 0, coefficient * term)
                    sums[full_name] = jax.lax.stop_gradient(term)
        for walk in walks.values():
            walk_loss, walk_sums = self._walk(walk)
            loss, sums = loss + walk_loss, sums | walk_sums
        return loss, sums

    def means(self, sums: Scalars, denominators: Scalars) -> Scalars:
        """Return the mean of each term, and of an objective of several terms their sum."""
        means = {term: value / denominators[term] for term, value in sums.items()}
        for name, objective in self._objectives.items():
            terms = [means[_term_name(name, term)] for term in objective.term_names]
            means[name] = jnp.stack(terms).sum()
        return means

    def _walk(self, walk: Sequence[_NamedTerm]) -> tuple[Float32[Array, ""], Scalars]:
        """Compute terms of the same signals in one walk over the vocabulary."""
        objectives = tuple(one.term.objective for one in walk)
        _, student, teacher, batch = walk[0].term
        positions = align_batch(
            student, teacher, batch, num_shards=self._num_shards, objectives=objectives
        )
        lm_heads = student.lm_head, None if teacher is None else teacher.lm_head
        coefficients = jnp.stack([one.coefficient for one in walk])
        arguments = objectives, coefficients, positions, *lm_heads
        loss, sums = weighted_loss(*arguments, chunk_size=self._chunk_size)
        names = [one.name for one in walk]
        for name, _, term in walk:
            names += [_term_name(name, diagnostic) for diagnostic in term.objective.diagnostics]
        return loss, dict(zip(names, sums, strict=True))


def _term_name(objective: str, term: str) -> str:
    return f"{objective}_{term}" if term else objective
