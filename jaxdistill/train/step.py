"""Training step: a pure function of the train state, the teacher's parameters and a batch."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from jaxdistill.errors import UserError
from jaxdistill.objectives.base import Objective, objective_names
from jaxdistill.objectives.chunk import CHUNK_SIZE
from jaxdistill.objectives.loss import CombinedLoss
from jaxdistill.objectives.weight_schedule import weight_at
from jaxdistill.sharding import (
    BATCH_MESH_AXES,
    batch_sharding,
    num_batch_shards,
    replicated_sharding,
)
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

    Returns:
        `(state, frozen, batch) -> (state, metrics)`. Metrics are scalars: `train/loss`, the
        mean of each objective and of its parts in nats, the weight of each objective whose weight
        is scheduled, `train/grad_norm` (before clipping), `train/param_norm` (of the student after
        the update), `train/learning_rate`, `train/scored_tokens` and `train/tokens`.
    """
    combined = CombinedLoss(objectives, num_shards=num_batch_shards(mesh), chunk_size=chunk_size)
    named = dict(zip(objective_names(objectives), objectives, strict=True))
    scheduled = [name for name, each in named.items() if isinstance(each.weight, tuple)]

    def step(state: TrainState, frozen: Frozen, batch: Batch) -> tuple[TrainState, Metrics]:
        # Denominators are those of the whole batch, so that sums over micro-batches simply add.
        denominators = combined.denominators(batch)
        weights = {name: weight_at(each.weight, state.step) for name, each in named.items()}

        def differentiate(micro_batch: Batch) -> _MicroBatchSums:
            teacher = (
                None if teacher_signal is None else teacher_signal(frozen.teacher, micro_batch)
            )

            def loss_and_terms(params: Params, modules: Params) -> tuple[Array, Metrics]:
                return combined(
                    modules,
                    student_signal(params, micro_batch),
                    teacher,
                    micro_batch,
                    frozen=frozen.objectives,
                    weights=weights,
                    denominators=denominators,
                )

            grad = jax.value_and_grad(loss_and_terms, argnums=(0, 1), has_aux=True)
            (loss, terms), (param_grads, module_grads) = grad(state.params, state.modules)
            gradient = {**param_grads, **module_grads}
            gradient = jax.lax.with_sharding_constraint(gradient, shardings.trainable)
            return _MicroBatchSums(gradient, loss, terms)

        micro_batches = _split_micro_batches(batch, accumulate, mesh)
        sums = _sum_over_micro_batches(differentiate, micro_batches)
        updates, opt_state = optimizer.update(sums.gradient, state.opt_state, state.trainable)
        trainable: Any = optax.apply_updates(state.trainable, updates)
        next_state = state.with_values(state.step + 1, trainable, opt_state)
        metrics = {
            "loss": sums.loss,
            **combined.means(sums.terms, denominators),
            **{f"{name}_weight": weights[name] for name in scheduled},
            "grad_norm": optax.tree.norm(sums.gradient),
            "param_norm": optax.tree.norm(next_state.params),
            "learning_rate": jnp.asarray(learning_rate(state.step), jnp.float32),
            "scored_tokens": batch.loss_mask.sum().astype(jnp.int32),
            "tokens": (batch.segment_ids > 0).sum(),
        }
        return next_state, {f"train/{name}": value for name, value in metrics.items()}

    return step


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


def check_batch_size(batch_size: int, accumulate: int, mesh: Mesh) -> None:
    """Raise UserError unless every device gets as many sequences of every micro-batch."""
    divisor = accumulate * num_batch_shards(mesh)
    if batch_size % divisor:
        shards = " * ".join(f"mesh.{axis} {mesh.shape[axis]}" for axis in BATCH_MESH_AXES)
        raise UserError(
            f"train.batch_size = {batch_size} cannot be split evenly by accumulate {accumulate} "
            f"* {shards}. Use a multiple of {divisor}."
        )


def _split_micro_batches(batch: Batch, accumulate: int, mesh: Mesh) -> Batch:
    """Reshape every array `[B, T]` to `[accumulate, B / accumulate, T]`; no sequence moves.

    The sequences of each device are divided among the micro-batches. Consecutive slices of the
    batch would put a whole micro-batch on a single device.
    """
    num_shards = num_batch_shards(mesh)
    sharding = NamedSharding(mesh, PartitionSpec(None, BATCH_MESH_AXES))

    def split(array: Array) -> Array:
        size, length = array.shape
        by_shard = array.reshape(num_shards, accumulate, -1, length).swapaxes(0, 1)
        micro_batches = by_shard.reshape(accumulate, size // accumulate, length)
        return jax.lax.with_sharding_constraint(micro_batches, sharding)

    return jax.tree.map(split, batch)


def _sum_over_micro_batches(
    function: Callable[[Batch], _MicroBatchSums], micro_batches: Batch
) -> _MicroBatchSums:
    """Return the float32 sum of `function` over micro-batches, computed one after the other."""

    def add(sums: _MicroBatchSums, micro_batch: Batch) -> tuple[_MicroBatchSums, None]:
        values = function(micro_batch)
        return jax.tree.map(lambda total, x: total + x.astype(total.dtype), sums, values), None

    first = jax.tree.map(lambda array: array[0], micro_batches)
    shapes = jax.eval_shape(function, first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), shapes)
    return jax.lax.scan(add, zeros, micro_batches)[0]
