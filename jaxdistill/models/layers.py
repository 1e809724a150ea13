"""Building blocks of a layer: parameters with named axes, norms, the feed-forward network."""

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
    """Create a parameter with normal values; shardings read the names of its `name=size` axes."""
    value = config.initializer_range * jax.random.normal(rngs.params(), tuple(axes.values()))
    return nnx.Param(value, axes=tuple(axes))


def constant_param(value: float, **axes: int) -> nnx.Param:
    """Create a parameter with one value everywhere: a bias, or the scale of a norm."""
    return nnx.Param(jnp.full(tuple(axes.values()), value), axes=tuple(axes))


class NormLayer(nnx.Module):
    """RMS norm or layer norm over the last axis, computed in float32."""

    def __init__(self, config: DecoderConfig, **axis: int):
        self.kind, self.epsilon = config.norm, config.norm_epsilon
        self.scale = constant_param(0.0 if self.kind is NormKind.RMS_PLUS_ONE else 1.0, **axis)
        self.bias = constant_param(0.0, **axis) if self.kind is NormKind.LAYER else None

    def __call__(self, x: Float[Array, "*N C"]) -> Float[Array, "*N C"]:
        """Return the normalised `x`, in the dtype of `x`."""
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
    """The feed-forward network: two linear layers, or three if it is gated."""

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
        """Return `down(activation(gate(x)) * up(x))`; ungated, `down(activation(up(x)))`."""
        up = apply_linear(x, self.up, self.up_bias)
        if self.gate is None:
            inner = self.activation(up)
        else:
            inner = self.activation(apply_linear(x, self.gate, self.gate_bias)) * up
        return apply_linear(inner, self.down, self.down_bias)


IS_TRANSPOSED = "outputs_first"
"""Metadata key of a kernel whose input axes, over which products sum, come last."""


def apply_linear(
    x: Float[Array, "B T *inputs"],
    kernel: nnx.Param,
    bias: nnx.Param | None,
    *,
    num_input_axes: int = 1,
) -> Float[Array, "B T *outputs"]:
    """Return `x @ kernel + bias`, summed over the input axes: last of `x`, first of the kernel.

    Batch and time are merged into one axis, and so are the input axes: with plain matrices
    XLA:CPU computes the gradients without copying transposed operands first (measured: a fifth
    of a layer's time).
    """
    value, (batch, time) = kernel[...], x.shape[:2]
    x = x.reshape(batch * time, -1)
    if kernel.get_metadata().get(IS_TRANSPOSED):
        outputs = value.shape[: value.ndim - num_input_axes]
        result = _matmul_transposed(x, value.reshape(-1, x.shape[1]))
    else:
        outputs = value.shape[num_input_axes:]
        result = x @ value.reshape(x.shape[1], -1)
    if bias is not None:
        result = result + bias[...].reshape(1, -1)
    return result.reshape(batch, time, *outputs)


def _matmul_transposed(x: Float[Array, "rows X"], matrix: Float[Array, "Y X"]) -> Array:
    """Return `x @ matrix.T` at the speed of reading `matrix`.

    XLA:CPU reads a matrix at memory speed if it is the first operand and the product sums over
    its last axis. The barrier keeps the operands in this order.
    """
    return jax.lax.optimization_barrier(jnp.einsum("yx,rx->yr", matrix, x)).T
