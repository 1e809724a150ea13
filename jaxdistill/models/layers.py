"""The parts of a layer: weights with named axes, norms, the feed-forward part."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxdistill.models.config import Activation, DecoderConfig, NormKind

ACTIVATION_FUNCTIONS: dict[Activation, Callable[[Array], Array]] = {
    Activation.SILU: jax.nn.silu,
    Activation.GELU: lambda x: jax.nn.gelu(x, approximate=False),
    Activation.GELU_TANH: lambda x: jax.nn.gelu(x, approximate=True),
    Activation.RELU: jax.nn.relu,
}


def normal_param(config: DecoderConfig, rngs: nnx.Rngs, **axes: int) -> nnx.Param:
    """A fresh weight; its axes are given as `name=size`, and the names are what shardings read."""
    value = config.initializer_range * jax.random.normal(rngs.params(), tuple(axes.values()))
    return nnx.Param(value, axes=_names(axes))


def constant_param(value: float, **axes: int) -> nnx.Param:
    """A weight that starts at one value: a bias or the scale of a norm."""
    return nnx.Param(jnp.full(tuple(axes.values()), value), axes=_names(axes))


def _names(axes: dict[str, int]) -> tuple[str, ...]:
    return tuple(axes)


class NormLayer(nnx.Module):
    """RMS or layer norm over the last axis; statistics in float32."""

    def __init__(self, config: DecoderConfig, **axis: int):
        self.kind, self.epsilon = config.norm, config.norm_epsilon
        self.scale = constant_param(0.0 if self.kind is NormKind.RMS_PLUS_ONE else 1.0, **axis)
        self.bias = constant_param(0.0, **axis) if self.kind is NormKind.LAYER else None

    def __call__(self, x: Float[Array, "*N C"]) -> Float[Array, "*N C"]:
        """The normalised `x`, in its dtype."""
        value = x.astype(jnp.float32)
        if self.kind is NormKind.LAYER:
            value = value - value.mean(axis=-1, keepdims=True)
        variance = jnp.square(value).mean(axis=-1, keepdims=True)
        scale = self._expand_to_ndim(self.scale, x.ndim)
        scale = scale + 1 if self.kind is NormKind.RMS_PLUS_ONE else scale
        value = value * jax.lax.rsqrt(variance + self.epsilon) * scale
        if self.bias is not None:
            value = value + self._expand_to_ndim(self.bias, x.ndim)
        return value.astype(x.dtype)

    @staticmethod
    def _expand_to_ndim(parameter: nnx.Param, ndim: int) -> Array:
        value = parameter[...].astype(jnp.float32)
        return value.reshape((1,) * (ndim - 1) + value.shape)


class FeedForward(nnx.Module):
    """Two or, gated, three matrices with an activation between them."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.activation = ACTIVATION_FUNCTIONS[config.activation]
        embed, mlp = config.embed_dim, config.mlp_dim
        bias = config.has_mlp_bias
        self.gate = normal_param(config, rngs, embed=embed, mlp=mlp) if config.is_gated else None
        self.gate_bias = constant_param(0.0, mlp=mlp) if config.is_gated and bias else None
        self.up = normal_param(config, rngs, embed=embed, mlp=mlp)
        self.up_bias = constant_param(0.0, mlp=mlp) if bias else None
        self.down = normal_param(config, rngs, mlp=mlp, embed=embed)
        self.down_bias = constant_param(0.0, embed=embed) if bias else None

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """`down(activation(gate(x)) * up(x))`, or `down(activation(up(x)))`."""
        up = apply_linear(x, self.up, self.up_bias)
        if self.gate is None:
            inner = self.activation(up)
        else:
            inner = self.activation(apply_linear(x, self.gate, self.gate_bias)) * up
        return apply_linear(inner, self.down, self.down_bias)


IS_TRANSPOSED = "outputs_first"
"""Metadata of a kernel whose axes are turned so that those it is summed over come last."""


def apply_linear(
    x: Float[Array, "B T *inputs"],
    kernel: nnx.Param,
    bias: nnx.Param | None,
    *,
    num_input_axes: int = 1,
) -> Float[Array, "B T *outputs"]:
    """`x @ kernel + bias`, summed over the last axes of `x` and the first of the kernel.

    Rows and summed axes are merged into one each: with plain matrices XLA:CPU forms the gradients
    without copying transposed operands first (measured: a fifth of a layer's time).
    """
    value, rows = kernel[...], x.shape[:2]
    x = x.reshape(rows[0] * rows[1], -1)
    if kernel.get_metadata().get(IS_TRANSPOSED):
        outputs = value.shape[: value.ndim - num_input_axes]
        result = _matmul_transposed(x, value.reshape(-1, x.shape[1]))
    else:
        outputs = value.shape[num_input_axes:]
        result = x @ value.reshape(x.shape[1], -1)
    if bias is not None:
        result = result + bias[...].reshape(1, -1)
    return result.reshape(*rows, *outputs)


def _matmul_transposed(x: Float[Array, "rows X"], matrix: Float[Array, "Y X"]) -> Array:
    """`x @ matrix.T` where most of the time is spent on reading the matrix.

    XLA:CPU reads it at the speed of memory if it is the first operand and its last axis is
    summed over. The barrier keeps the operands in this order.
    """
    return jax.lax.optimization_barrier(jnp.einsum("yx,rx->yr", matrix, x)).T
