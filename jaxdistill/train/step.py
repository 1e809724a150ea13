"""The training step: a pure function of the state, the teacher's parameters and a batch."""

from collections.abc import Callable, Sequence
from typing import Any

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
from jaxdistill.sharding import batch_sharding, num_batch_shards, replicated_sharding
from jaxdistill.sharding.logical_axes import BATCH_MESH_AXES
from jaxdistill.train.state import TrainState
from jaxdistill.types import Batch, HiddenSignal, Params

Metrics = dict[str, Array]
StepFunction = Callable[[TrainState, Any, Batch], tuple[TrainState, Metrics]]


def make_step(
    *,
    student_signal: Callable[[Params, Batch], HiddenSignal],
    teacher_signal: Callable[[Any, Batch], HiddenSignal] | None,
    objectives: Sequence[Objective],
    optimizer: optax.GradientTransformation,
    learning_rate: optax.Schedule,
    shardings: TrainState,
    mesh: Mesh,
    accumulate: int = 1,
    chunk_size: int = CHUNK_SIZE,
) -> StepFunction:
    """The step of a run, to be compiled once by `jit_step`.

    Args:
        student: What the student says of a micro-batch, from its parameters.
        teacher: What the teacher says of a micro-batch, from its own parameters; it runs here,
            outside the gradient. None when no objective asks for one.
        objectives: What is minimised: the sum of `weight` times the mean over scored places, or
            over the pairs of places that are compared. A weight that moves is recorded, too.
        optimizer: What turns a gradient into an update.
        rate: The learning rate by step, for the record.
        shardings: Where the state lies; a gradient lies where its parameter does.
        mesh: The mesh that the batch is split over.
        accumulate: How many micro-batches a batch is read in, one after the other. It changes
            the memory that is needed, and not the result.
        chunk_rows: How many places the wall looks at together.

    Returns:
        `(state, teacher_params, batch) -> (state, metrics)`. Metrics are scalars: `train/loss`,
        the mean of each objective in nats and of its parts, `train/grad_norm` (before clipping),
        `train/param_norm` (of the student, after the update), `train/learning_rate`, and the
        places that were scored and read.
    """
    combined = CombinedLoss(objectives, num_shards=num_batch_shards(mesh), chunk_size=chunk_size)
    named = dict(zip(objective_names(objectives), objectives, strict=True))

    def step(state: TrainState, teacher_params: Any, batch: Batch) -> tuple[TrainState, Metrics]:
        # The weight of the whole batch comes first: sums over micro-batches then simply add.
        counts = combined.denominators(batch)
        weights = {name: weight_at(one.weight, state.step) for name, one in named.items()}

        def differentiate(micro_batch: Batch) -> Any:
            signal = None if teacher_signal is None else teacher_signal(teacher_params, micro_batch)

            def loss(params: Params, modules: Params) -> tuple[Array, Metrics]:
                said = student_signal(params, micro_batch)
                return combined(
                    modules, said, signal, micro_batch, weights=weights, denominators=counts
                )

            grad = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
            (value, sums), (of_params, of_modules) = grad(state.params, state.modules)
            gradient = {**of_params, **of_modules}
            gradient = jax.lax.with_sharding_constraint(gradient, shardings.trainable)
            return gradient, value, sums

        micro_batches = _split_micro_batches(batch, accumulate, mesh)
        gradient, value, sums = _sum_over_micro_batches(differentiate, micro_batches)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.trainable)
        trained: Any = optax.apply_updates(state.trainable, updates)
        after = state.with_values(state.step + 1, trained, opt_state)
        recorded = {
            "loss": value,
            **combined.means(sums, counts),
            **{f"{n}_weight": weights[n] for n, one in named.items() if _is_weight_scheduled(one)},
            "grad_norm": optax.tree.norm(gradient),
            "param_norm": optax.tree.norm(after.params),
            "learning_rate": jnp.asarray(learning_rate(state.step), jnp.float32),
            "scored_tokens": batch.loss_mask.sum().astype(jnp.int32),
            "tokens": (batch.segment_ids > 0).sum(),
        }
        return after, {f"train/{name}": number for name, number in recorded.items()}

    return step


def jit_step(
    step: StepFunction, shardings: TrainState, teacher_shardings: Any, mesh: Mesh
) -> StepFunction:
    """`step` compiled at its first call, with everything placed, and its state donated."""
    return jax.jit(
        step,
        in_shardings=(shardings, teacher_shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated_sharding(mesh)),
        donate_argnums=0,
    )


def check_batch_size(batch_size: int, accumulate: int, mesh: Mesh) -> None:
    """Every device must get the same number of sequences of every micro-batch.

    Raises:
        UserError: when it does not.
    """
    pieces = accumulate * num_batch_shards(mesh)
    if batch_size % pieces:
        shards = " * ".join(f"mesh.{axis} {mesh.shape[axis]}" for axis in BATCH_MESH_AXES)
        raise UserError(
            f"train.batch_size = {batch_size} cannot be split evenly by accumulate {accumulate} "
            f"* {shards}. Use a multiple of {pieces}."
        )


def _split_micro_batches(batch: Batch, accumulate: int, mesh: Mesh) -> Batch:
    """Every array `[B, T]` as `[accumulate, B / accumulate, T]`, without moving a row.

    Each device's own rows are dealt out over the micro-batches: cutting the batch into
    consecutive pieces would send whole micro-batches to single devices.
    """
    num_shards = num_batch_shards(mesh)
    placed = NamedSharding(mesh, PartitionSpec(None, BATCH_MESH_AXES))

    def split(array: Array) -> Array:
        size, length = array.shape
        dealt = array.reshape(num_shards, accumulate, -1, length).swapaxes(0, 1)
        dealt = dealt.reshape(accumulate, size // accumulate, length)
        return jax.lax.with_sharding_constraint(dealt, placed)

    return jax.tree.map(split, batch)


def _sum_over_micro_batches(function: Callable[[Batch], Any], micro_batches: Batch) -> Any:
    """The sum, in float32, of what `function` says of each micro-batch, one after the other."""

    def add(sums: Any, micro_batch: Batch) -> tuple[Any, None]:
        values = function(micro_batch)
        return jax.tree.map(
            lambda total, part: total + part.astype(total.dtype), sums, values
        ), None

    first = jax.tree.map(lambda array: array[0], micro_batches)
    shapes = jax.eval_shape(function, first)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), shapes)
    return jax.lax.scan(add, zeros, micro_batches)[0]


def _is_weight_scheduled(objective: Objective) -> bool:
    return isinstance(objective.weight, tuple)
