"""Balance of objectives by the magnitude of their gradients, where `train.balance` asks for it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32

from jaxdistill.objectives.base import Objective
from jaxdistill.objectives.loss import Scalars
from jaxdistill.objectives.weight_schedule import is_always_zero
from jaxdistill.taps import Widths
from jaxdistill.types import Batch, HiddenSignal, Params

_ROUNDING = 1e-5
"""Norm, as a share of the largest, below which a gradient is the rounding of a zero."""


@dataclass(frozen=True)
class GradientBalance:
    """Gradients of the objectives at the last hidden state of the student that all depend on.

    Attributes:
        layer: Layer whose output that is, numbered as in `Taps`.
        width: Width of the student's hidden states.
        signal: `(params, batch, offsets={layer: offset}) -> signal` of the student.
    """

    layer: int
    width: int
    signal: Callable[..., HiddenSignal]

    def squared_norms(
        self,
        losses: Mapping[str, Callable[[HiddenSignal], Float32[Array, ""]]],
        params: Params,
        batch: Batch,
    ) -> Scalars:
        """Return the squared norm of each loss's gradient; it adds up over micro-batches.

        The student's forward pass is shared; each loss has a backward pass of its own.
        """

        def signal_of(offset: Array) -> HiddenSignal:
            return self.signal(params, batch, offsets={self.layer: offset})

        zeros = jnp.zeros((*batch.tokens.shape, self.width), jnp.float32)
        signal, pull_back = jax.vjp(signal_of, zeros)

        def squared_norm(loss: Callable[[HiddenSignal], Any]) -> Float32[Array, ""]:
            # Tables of the vocabulary are integers.
            (gradient,) = pull_back(jax.grad(loss, allow_int=True)(signal))
            return jnp.sum(jnp.square(gradient))

        return {name: squared_norm(loss) for name, loss in losses.items()}


def last_shared_layer(objectives: Iterable[Objective], student: Widths) -> int:
    """Return the last layer that all objectives with a weight depend on, once they are bound."""
    return min(one.deepest_layer(student) for one in objectives if not is_always_zero(one.weight))


def balanced_weights(weights: Scalars, squared_norms: Scalars) -> Scalars:
    """Return weights w·m/n, so that gradients of norm n have the same norm m at equal w.

    m is the mean of the norms, weighted by w, so that the whole gradient keeps its size. Objectives
    of weight 0, or whose gradient is rounding beside the largest, keep their weight and do not
    count.

    Minixhofer et al. divide by the norm at the last layer's parameters ("Universal Cross-Tokenizer
    Distillation via Approximate Likelihood Matching", 2025, https://arxiv.org/abs/2503.20083).
    """
    w = jnp.stack([weights[name] for name in weights])
    squares = {name: jnp.float32(0) for name in weights} | squared_norms
    norms = jnp.sqrt(jnp.stack([squares[name] for name in weights]))
    is_finite = (w != 0) & jnp.isfinite(norms)
    is_counted = is_finite & (norms > _ROUNDING * jnp.max(jnp.where(is_finite, norms, 0)))
    total = jnp.sum(jnp.where(is_counted, w, 0))
    mean = jnp.sum(jnp.where(is_counted, w * norms, 0)) / jnp.where(total > 0, total, 1)
    balanced = jnp.where(is_counted, w * mean / jnp.where(is_counted, norms, 1), w)
    return dict(zip(weights, balanced, strict=True))
