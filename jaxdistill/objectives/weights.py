"""Weights of positions in a loss, and the view of a batch that the teacher reads."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from jaxdistill.types import Batch


def as_jax_arrays(batch: Batch) -> Any:
    """Return a `Batch` of JAX arrays, where `Batch` may also hold NumPy arrays."""
    return jax.tree.map(jnp.asarray, batch)


def teacher_batch(batch: Batch) -> Batch:
    """Return the batch as the teacher reads it."""
    return batch if batch.alignment is None else batch.alignment.teacher


def teacher_weight(batch: Batch) -> Float32[Array, "B T"]:
    """Return the weight of the comparison with the teacher at each of the student's positions."""
    return jnp.asarray(batch.loss_mask if batch.alignment is None else batch.alignment.span_weight)


def example_mean_weight(batch: Batch) -> Float32[Array, "B T"]:
    """Return the weight of each position in the mean over its example; 0 if not compared."""
    weight = teacher_weight(batch)
    total = segment_sums(weight, batch)
    return weight / jnp.where(total > 0, total, 1)


def segment_sums(values: Float32[Array, "B T"], batch: Batch) -> Float32[Array, "B T"]:
    """Sum the values of each position's segment."""
    segment_ids = jnp.asarray(batch.segment_ids)
    add = partial(jax.ops.segment_sum, num_segments=values.shape[1] + 1)
    return jnp.take_along_axis(jax.vmap(add)(values, segment_ids), segment_ids, axis=1)
