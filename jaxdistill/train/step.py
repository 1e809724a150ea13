"""The training step: a pure function of the state, the teacher's parameters and a batch."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from jaxdistill.errors import UserError
from jaxdistill.objectives.base import RowObjective
from jaxdistill.objectives.pair import pair
from jaxdistill.objectives.wall import CHUNK_ROWS, weighted_loss
from jaxdistill.objectives.weight import weight_at
from jaxdistill.sharding import batch_sharding, num_batch_shards, replicated
from jaxdistill.sharding.rules import BATCH_AXES
from jaxdistill.train.state import TrainState
from jaxdistill.types import Batch, Head, Output, Params, Signal

Metrics = dict[str, Array]
StepFunction = Callable[[TrainState, Any, Batch], tuple[TrainState, Metrics]]


def make_step(
    *,
    forward: Callable[[Params, Batch], Output],
    head: Callable[[Params], Head],
    teacher: Callable[[Any, Batch], Signal] | None,
    objectives: Sequence[RowObjective],
    optimizer: optax.GradientTransformation,
    rate: optax.Schedule,
    shardings: TrainState,
    mesh: Mesh,
    accumulate: int = 1,
    chunk_rows: int = CHUNK_ROWS,
) -> StepFunction:
    """The step of a run, to be compiled once by `jit_step`.

    Args:
        forward: The student's hidden states for a micro-batch.
        head: The student's unembedding, from the same parameters.
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
        the mean of each objective in nats, `train/grad_norm` (before clipping),
        `train/param_norm` (after the update), `train/learning_rate`, and the places that were
        scored and read.
    """
    objectives, names = tuple(objectives), _names(objectives)
    watched = [(f"train/{name}", one.compares) for one in objectives for name in one.watched]
    of_pairs = [*(one.compares for one in objectives), *(is_of_pairs for _, is_of_pairs in watched)]
    moves = [isinstance(objective.weight, tuple) for objective in objectives]
    num_groups = num_batch_shards(mesh)
    merge = any(objective.merges for objective in objectives)
    debias = any("boundaries" in objective.lookups for objective in objectives)

    def loss(
        params: Params, batch: Batch, signal: Signal | None, coefficients: Array
    ) -> tuple[Array, Array]:
        student = Signal(forward(params, batch).hidden, head(params))
        rows = pair(student, signal, batch, num_groups=num_groups, merge=merge, debias=debias)
        teacher_head = None if signal is None else signal.head
        return weighted_loss(
            objectives, coefficients, rows, student.head, teacher_head, chunk_rows=chunk_rows
        )

    def step(state: TrainState, teacher_params: Any, batch: Batch) -> tuple[TrainState, Metrics]:
        # The weight of the whole batch comes first: sums over micro-batches then simply add.
        scored = batch.loss_mask.sum()
        paired = scored if batch.pairing is None else batch.pairing.weight.sum()
        counted = jnp.stack([paired if is_of_pairs else scored for is_of_pairs in of_pairs])
        per_place = 1 / jnp.maximum(counted, 1)
        weights = jnp.stack([weight_at(objective.weight, state.step) for objective in objectives])

        def differentiate(micro_batch: Batch) -> Any:
            signal = None if teacher is None else teacher(teacher_params, micro_batch)
            (value, values), gradient = jax.value_and_grad(loss, has_aux=True)(
                state.params,
                micro_batch,
                jax.lax.stop_gradient(signal),
                weights * per_place[: len(names)],
            )
            gradient = jax.lax.with_sharding_constraint(gradient, shardings.params)
            return gradient, value, values

        micro_batches = _micro_batches(batch, accumulate, mesh)
        gradient, value, values = _summed(differentiate, micro_batches)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        metrics = {
            "train/loss": value,
            **dict(zip((*names, *(name for name, _ in watched)), values * per_place, strict=True)),
            **{f"{names[i]}_weight": weights[i] for i in range(len(names)) if moves[i]},
            "train/grad_norm": optax.tree.norm(gradient),
            "train/param_norm": optax.tree.norm(params),
            "train/learning_rate": jnp.asarray(rate(state.step), jnp.float32),
            "train/scored_tokens": scored.astype(jnp.int32),
            "train/tokens": (batch.segment_ids > 0).sum(),
        }
        return TrainState(state.step + 1, params, opt_state), metrics

    return step


def jit_step(
    step: StepFunction, shardings: TrainState, teacher_shardings: Any, mesh: Mesh
) -> StepFunction:
    """`step` compiled at its first call, with everything placed, and its state donated."""
    return jax.jit(
        step,
        in_shardings=(shardings, teacher_shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )


def check_batch_size(batch_size: int, accumulate: int, mesh: Mesh) -> None:
    """Every device must get the same number of sequences of every micro-batch.

    Raises:
        UserError: when it does not.
    """
    pieces = accumulate * num_batch_shards(mesh)
    if batch_size % pieces:
        shards = " * ".join(f"mesh.{axis} {mesh.shape[axis]}" for axis in BATCH_AXES)
        raise UserError(
            f"train.batch_size = {batch_size} cannot be split evenly by accumulate {accumulate} "
            f"* {shards}. Use a multiple of {pieces}."
        )


def _micro_batches(batch: Batch, accumulate: int, mesh: Mesh) -> Batch:
    """Every array `[B, T]` as `[accumulate, B / accumulate, T]`, without moving a row.

    Each device's own rows are dealt out over the micro-batches: cutting the batch into
    consecutive pieces would send whole micro-batches to single devices.
    """
    num_groups = num_batch_shards(mesh)
    placed = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))

    def split(array: Array) -> Array:
        size, length = array.shape
        dealt = array.reshape(num_groups, accumulate, -1, length).swapaxes(0, 1)
        dealt = dealt.reshape(accumulate, size // accumulate, length)
        return jax.lax.with_sharding_constraint(dealt, placed)

    return jax.tree.map(split, batch)


def _summed(function: Callable[[Batch], Any], micro_batches: Batch) -> Any:
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


def _names(objectives: Sequence[RowObjective]) -> list[str]:
    """A metric's name for each; a second objective of one type is numbered."""
    types = [objective.type for objective in objectives]  # pyright: ignore
    seen = [types[:place].count(kind) for place, kind in enumerate(types)]
    return [
        f"train/{kind}_{before + 1}" if before else f"train/{kind}"
        for kind, before in zip(types, seen, strict=True)
    ]
