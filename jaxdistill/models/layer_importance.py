"""Importance of each layer: the cosine distance between its input and its output."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdistill.losses.hidden_distances import cosine_distance
from jaxdistill.models.config import DecoderConfig
from jaxdistill.models.decoder import forward_batch
from jaxdistill.models.execution import Execution
from jaxdistill.types import Batch, Params


class ImportanceSums(NamedTuple):
    """Sums over positions that add over batches; `distances / weight` is the importance.

    Attributes:
        distances: Sum of loss mask × cosine distance, for each layer.
        weight: Sum of the loss mask.
    """

    distances: Float[Array, " L"]
    weight: Float[Array, ""]


@partial(jax.jit, static_argnames=("config", "execution"))
def importance_sums(
    config: DecoderConfig, execution: Execution, params: Params, batch: Batch
) -> ImportanceSums:
    """Sum 1 - cos(hidden state entering the layer, hidden state leaving it) over positions.

    Positions count as often as their labels do in a loss (`batch.loss_mask`). Nothing of size
    layers × positions × width is kept: the distance is computed inside the scan over layers.

    Reference: Men et al., "ShortGPT: Layers in Large Language Models are More Redundant Than You
    Expect", 2024, https://arxiv.org/abs/2403.03853, where it is called Block Influence.
    """
    output = forward_batch(
        config, params, batch, execution=execution, layer_summary=cosine_distance
    )
    mask = jnp.asarray(batch.loss_mask, jnp.float32)
    return ImportanceSums((output.layer_summaries * mask[None]).sum(axis=(1, 2)), mask.sum())
