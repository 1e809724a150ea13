"""Distances of attention distributions, per query, in float32."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Float32

_SMALLEST = 1e-12
"""Smallest probability that a logarithm is taken of."""


def squared_difference(
    teacher: Float[Array, "*N S"], student: Float[Array, "*N S"]
) -> Float32[Array, "*N"]:
    """Sum of (p - q)² over keys."""
    return jnp.sum(jnp.square(teacher.astype(jnp.float32) - student.astype(jnp.float32)), axis=-1)


def kl(teacher: Float[Array, "*N S"], student: Float[Array, "*N S"]) -> Float32[Array, "*N"]:
    """KL(p‖q) over the keys that the student sees, in nats.

    Keys of probability 0, outside of the student's window, do not count: the teacher's distribution
    is that over the others. A probability below 1e-12 counts as that, without a gradient.
    """
    q = student.astype(jnp.float32)
    p = jnp.where(q > 0, teacher.astype(jnp.float32), 0)
    p = p / jnp.maximum(jnp.sum(p, axis=-1, keepdims=True), _SMALLEST)
    log_p, log_q = (jnp.log(jnp.maximum(x, _SMALLEST)) for x in (p, q))
    return jnp.sum(p * (log_p - log_q), axis=-1)
