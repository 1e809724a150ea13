"""Overflow of activations: numbers that the dtype of the parameters cannot hold."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from jaxdistill.models import LanguageModel
from jaxdistill.types import Batch, Params


def overflows(
    model: LanguageModel,
    params: Params,
    batch: Batch,
    *,
    out_sharding: jax.sharding.Sharding | None = None,
) -> Bool[np.ndarray, "B T"]:
    """Return True where the final hidden state has NaN or infinity; False at padding.

    Infinity anywhere before makes it so, since norms turn infinity into NaN. All False if a
    parameter is not finite: then the dtype is not at fault.
    """
    compute = jax.jit(
        partial(_nonfinite_positions, model),
        out_shardings=out_sharding,
        # Otherwise XLA may keep sums in float32 that PyTorch rounds to float16.
        compiler_options={"xla_allow_excess_precision": False},
    )
    is_bad, is_damaged = jax.device_get(compute(params, batch))
    return is_bad & ~is_damaged


def _nonfinite_positions(
    model: LanguageModel, params: Params, batch: Batch
) -> tuple[Bool[Array, "B T"], Bool[Array, ""]]:
    hidden = model.forward_batch(params, batch).hidden
    is_bad = ~jnp.isfinite(hidden).all(axis=-1) & (jnp.asarray(batch.segment_ids) > 0)
    is_finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]
    return is_bad, ~jnp.stack(is_finite).all()
