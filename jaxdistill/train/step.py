"""Training step: a pure function of the train state, the teacher's parameters and a batch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array

from jaxdistill.objectives.base import Objective, objective_names
from jaxdistill.objectives.chunk import CHUNK_SIZE
from jaxdistill.objectives.loss import CombinedLoss
from jaxdistill.objectives.weight_schedule import is_always_zero, weight_at
from jaxdistill.sharding import batch_sharding, num_batch_shards, replicated_sharding
from jaxdistill.train.balance import GradientBalance, balanced_weights
from jaxdistill.train.micro_batches import split_micro_batches, sum_over_micro_batches
from jaxdistill.train.state import TrainState
from jaxdistill.types import Batch, HiddenSignal, Params

Metrics = dict[str, Array]


class Frozen(NamedTuple):
    """Arrays that a step reads and does not train.

    Attributes:
        teacher: Parameters of the teacher; None for no teacher.
        objectives: Arrays of objectives that were fitted before training, by objective.
    """

    teacher: Params | None = None
    objectives: Params = {}  # noqa: RUF012 - never changed


StepFunction = Callable[[TrainState, Frozen, Batch], tuple[TrainState, Metrics]]
"""`(state, frozen, batch) -> (state, metrics)`."""

SignalFunction = Callable[[Any, Batch], HiddenSignal]
"""`(parameters, batch) -> signal` of one model."""


class _MicroBatchSums(NamedTuple):
    """Share of a micro-batch in the gradient, in the loss and in the sum of each loss term."""

    gradient: Params
    loss: Array
    terms: Metrics


def make_step(
    *,
    student_signal: SignalFunction,
    teacher_signal: SignalFunction | None,
    objectives: Sequence[Objective],
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    shardings: TrainState,
    mesh: Mesh,
    accumulate: int = 1,
    chunk_size: int = CHUNK_SIZE,
    balance: GradientBalance | None = None,
) -> StepFunction:
    """Build the training step of a run, to be compiled by `jit_step`.

    Args:
        student_signal: Signal of the student for a micro-batch.
        teacher_signal: Signal of the teacher, outside the gradient; None for no teacher.
        objectives: Objectives to minimise. The loss is the sum of `weight` times the mean of each
            objective over scored positions, or over spans where student and teacher are compared.
        optimizer: Optimizer of the student and of the objectives' modules.
        learning_rate: Learning rate by step, for the record: the optimizer has its own.
        shardings: Shardings of the state; a gradient has the sharding of its parameter.
        mesh: Mesh that the batch is split over.
        accumulate: Number of micro-batches, computed one after the other.
        chunk_size: Number of positions whose logits are in memory at once.
        balance: Gradients by which the weights are balanced; None for weights as they are.

    Returns:
        `(state, frozen, batch) -> (state, metrics)`. Metrics are scalars: `train/loss`, the
        mean of each objective and of its parts, the weight of each objective whose weight
        is scheduled or balanced, `train/grad_norm` (before clipping), `train/param_norm` (of the
        student after the update), `train/learning_rate`, `train/scored_tokens` and `train/tokens`.
    """
    combined = CombinedLoss(objectives, num_shards=num_batch_shards(mesh), chunk_size=chunk_size)
    named = dict(zip(objective_names(objectives), objectives, strict=True))
    balanced = [name for name, one in named.items() if not is_always_zero(one.weight)]
    changing = [name for name, one in named.items() if balance or isinstance(one.weight, tuple)]

    def step(state: TrainState, frozen: Frozen, batch: Batch) -> tuple[TrainState, Metrics]:
        loss = _BatchLoss(combined, teacher_signal, state, frozen, combined.denominators(batch))
        weights = {name: weight_at(each.weight, state.step) for name, each in named.items()}
        micro_batches = split_micro_batches(batch, accumulate, mesh)
        if balance is not None:
            norms = partial(loss.squared_norms, balance, balanced)
            weights = balanced_weights(weights, sum_over_micro_batches(norms, micro_batches))

        def differentiate(micro_batch: Batch) -> _MicroBatchSums:
            sums = loss.differentiate(student_signal, weights, micro_batch)
            gradient = jax.lax.with_sharding_constraint(sums.gradient, shardings.trainable)
            return sums._replace(gradient=gradient)

        sums = sum_over_micro_batches(differentiate, micro_batches)
        updates, opt_state = optimizer.update(sums.gradient, state.opt_state, state.trainable)
        trainable: Any = optax.apply_updates(state.trainable, updates)
        next_state = state.with_values(state.step + 1, trainable, opt_state)
        metrics = {
            "loss": sums.loss,
            **combined.means(sums.terms, loss.denominators),
            **{f"{name}_weight": weights[name] for name in changing},
            "grad_norm": optax.tree.norm(sums.gradient),
            "param_norm": optax.tree.norm(next_state.params),
            "learning_rate": jnp.asarray(learning_rate(state.step), jnp.float32),
            "scored_tokens": batch.loss_mask.sum().astype(jnp.int32),
            "tokens": (batch.segment_ids > 0).sum(),
        }
        return next_state, {f"train/{name}": value for name, value in metrics.items()}

    return step


@dataclass(frozen=True)
class _BatchLoss:
    """The loss of the micro-batches of one step.

    Its denominators are those of the whole batch, so that sums over micro-batches simply add.
    """

    combined: CombinedLoss
    teacher_signal: SignalFunction | None
    state: TrainState
    frozen: Frozen
    denominators: Metrics

    def differentiate(
        self, student_signal: SignalFunction, weights: Metrics, micro_batch: Batch
    ) -> _MicroBatchSums:
        """Compute the loss and its gradient."""
        teacher = self._teacher(micro_batch)

        def loss_and_terms(params: Params, modules: Params) -> tuple[Array, Metrics]:
            signal = student_signal(params, micro_batch)
            return self._evaluate(self.combined, modules, signal, teacher, micro_batch, weights)

        grad = jax.value_and_grad(loss_and_terms, argnums=(0, 1), has_aux=True)
        (loss, terms), gradients = grad(self.state.params, self.state.modules)
        return _MicroBatchSums({**gradients[0], **gradients[1]}, loss, terms)

    def squared_norms(
        self, balance: GradientBalance, names: Sequence[str], micro_batch: Batch
    ) -> Metrics:
        """Compute the squared norms of the objectives' gradients for their balance."""
        teacher = self._teacher(micro_batch)

        def loss_of(name: str, signal: HiddenSignal) -> Array:
            combined, weights = self.combined.only(name), {name: jnp.float32(1)}
            modules = self.state.modules
            return self._evaluate(combined, modules, signal, teacher, micro_batch, weights)[0]

        losses = {name: partial(loss_of, name) for name in names}
        return balance.squared_norms(losses, self.state.params, micro_batch)

    def _teacher(self, micro_batch: Batch) -> HiddenSignal | None:
        if self.teacher_signal is None:
            return None
        return self.teacher_signal(self.frozen.teacher, micro_batch)

    def _evaluate(
        self,
        combined: CombinedLoss,
        modules: Params,
        student: HiddenSignal,
        teacher: HiddenSignal | None,
        micro_batch: Batch,
        weights: Metrics,
    ) -> tuple[Array, Metrics]:
        return combined(
            modules,
            student,
            teacher,
            micro_batch,
            frozen=self.frozen.objectives,
            weights=weights,
            denominators=self.denominators,
        )


def jit_step(
    step: StepFunction, shardings: TrainState, teacher_shardings: Any, mesh: Mesh
) -> StepFunction:
    """Return `step` compiled at its first call, with all shardings fixed and its state donated."""
    frozen_shardings: Any = Frozen(teacher_shardings, replicated_sharding(mesh))  # pyright: ignore
    return jax.jit(
        step,
        in_shardings=(shardings, frozen_shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated_sharding(mesh)),
        donate_argnums=0,
    )
