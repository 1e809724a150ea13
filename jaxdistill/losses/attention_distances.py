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
    """KL(p‖q) over keys, in nats; keys that the teacher does not attend to count nothing.

    A probability below 1e-12, such as that of a key outside of the student's window, counts as
    that, without a gradient.
    """
    p, q = teacher.astype(jnp.float32), student.astype(jnp.float32)
    log_p, log_q = (jnp.log(jnp.maximum(x, _SMALLEST)) for x in (p, q))
    return jnp.sum(p * (log_p - log_q), axis=-1)
