"""How far two distributions over unlike vocabularies are, row by row, when any word may be any.

Probabilities need not add up to one: those of merged tokens do not. A vocabulary that is shorter
counts as having words of probability 0.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int

_K_GROWTH = 4
"""How many times more words are looked at where some were too few."""


def sorted_difference(p: Float32[Array, "R V"], q: Float32[Array, "R W"]) -> Float32[Array, " R"]:
    """Σ |p₍ᵢ₎ − q₍ᵢ₎| with the i-th largest of either side beside each other; between 0 and 2.

    It is the least that Σ |p − q| can be, however one side's words are renamed. The gradient
    reaches `q` alone; of equal words the first ranks first.

    Reference:
        Boizard et al., "Towards Cross-Tokenizer Distillation: the Universal Logit Distillation
        Loss for LLMs", 2024, https://arxiv.org/abs/2402.12030
    """
    shared = min(p.shape[-1], q.shape[-1])
    p_top, p_rest = _top_and_rest(jax.lax.stop_gradient(p), count=shared)
    q = _sort_descending(q)
    alone = p_rest + jnp.abs(q[:, shared:]).sum(axis=-1)
    return jnp.abs(p_top - q[:, :shared]).sum(axis=-1) + alone


def sorted_difference_top_k(
    p: Float32[Array, "R V"], q: Float32[Array, "R W"], *, k: int
) -> tuple[Float32[Array, " R"], Float32[Array, " R"]]:
    """The least that `sorted_difference` can be, given the `k` largest of both, and its error.

    What lies below differs by no less than its two masses do, and by no more than their sum.

    Returns:
        A lower bound, and by how much the true value may be above it: twice the smaller of the
        masses that were not looked at.
    """
    p = jax.lax.stop_gradient(p)
    p_top, q_top = (jax.lax.top_k(side, min(k, side.shape[-1]))[0] for side in (p, q))
    p_rest, q_rest = (
        jnp.maximum(side.sum(axis=-1) - top.sum(axis=-1), 0)
        for side, top in ((p, p_top), (q, q_top))
    )
    shared = min(p_top.shape[-1], q_top.shape[-1])
    # Where one vocabulary has no more words than this, what is left of the other stands alone.
    alone = p_top[:, shared:].sum(axis=-1) + q_top[:, shared:].sum(axis=-1)
    seen = jnp.abs(p_top[:, :shared] - q_top[:, :shared]).sum(axis=-1) + alone
    return seen + jnp.abs(p_rest - q_rest), 2 * jax.lax.stop_gradient(jnp.minimum(p_rest, q_rest))


def sorted_difference_adaptive(
    p: Float32[Array, "R V"], q: Float32[Array, "R W"], *, k: int, max_error: Float32[Array, " R"]
) -> tuple[Float32[Array, " R"], Float32[Array, " R"]]:
    """`sorted_difference_top_k` of as many words as it takes, for all rows together.

    Of the `k` largest, of four times as many, and so on, until no row's error is above its
    `max_error`; and at last of all, where there is none.
    """
    value, error = sorted_difference_top_k(p, q, k=k)

    def of_more() -> tuple[Float32[Array, " R"], Float32[Array, " R"]]:
        # To find the largest sixteenth takes about as long as to sort all.
        if 16 * _K_GROWTH * k >= max(p.shape[-1], q.shape[-1]):
            return sorted_difference(p, q), jnp.zeros_like(error)
        return sorted_difference_adaptive(p, q, k=_K_GROWTH * k, max_error=max_error)

    return jax.lax.cond(jnp.all(error <= max_error), lambda: (value, error), of_more)


def _top_and_rest(
    x: Float32[Array, "R V"], *, count: int
) -> tuple[Float32[Array, "R K"], Float32[Array, " R"]]:
    """The `count` largest of numbers from 0, the largest first, and the sum of the others."""
    ways = (partial(way, count=count) for way in (_top_and_rest_numpy, _top_and_rest_xla))
    return _dispatch_by_platform(x, *ways)


@jax.custom_vjp
def _sort_descending(x: Float32[Array, "R V"]) -> Float32[Array, "R V"]:
    return _top_and_rest(x, count=x.shape[-1])[0]


def _sort_descending_fwd(
    x: Float32[Array, "R V"],
) -> tuple[Float32[Array, "R V"], Int[Array, "R V"]]:
    return _dispatch_by_platform(x, _stable_sort_numpy, _stable_sort_xla)


def _dispatch_by_platform(
    x: Float32[Array, "R V"], by_numpy: Callable[[Array], Any], by_xla: Callable[[Array], Any]
) -> Any:
    """NumPy's way on one CPU device of several cores.

    Called by a program for several devices, or on a single core, it would wait forever.
    """
    if jax.device_count() > 1 or _num_cores() == 1:
        return by_xla(x)
    return jax.lax.platform_dependent(x, cpu=by_numpy, default=by_xla)


def _top_and_rest_xla(
    x: Float32[Array, "R V"], *, count: int
) -> tuple[Float32[Array, "R K"], Float32[Array, " R"]]:
    x = -jax.lax.sort(-x)
    return x[:, :count], x[:, count:].sum(axis=-1)


def _stable_sort_xla(x: Float32[Array, "R V"]) -> tuple[Float32[Array, "R V"], Int[Array, "R V"]]:
    words = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    x, order = jax.lax.sort((-x, words), num_keys=1, is_stable=True)
    return -x, order


def _top_and_rest_numpy(
    x: Float32[Array, "R V"], *, count: int
) -> tuple[Float32[Array, "R K"], Float32[Array, " R"]]:
    """As `_largest_by_xla`; NumPy sorts a vocabulary many times as fast as XLA:CPU does."""
    others = x.shape[-1] - count

    def part(rows: np.ndarray) -> None:
        if others:
            rows.partition(others, axis=-1)
        rows[..., others:].sort(axis=-1)

    def largest(x: Array) -> tuple[np.ndarray, np.ndarray]:
        rows = _apply_threaded(part, np.array(x))
        return np.flip(rows[..., others:], axis=-1), rows[..., :others].sum(axis=-1)

    shapes = _shape_dtype(x[:, :count], x.dtype), _shape_dtype(x[:, 0], x.dtype)
    return jax.pure_callback(largest, shapes, x, vmap_method="broadcast_all")


def _stable_sort_numpy(x: Float32[Array, "R V"]) -> tuple[Float32[Array, "R V"], Int[Array, "R V"]]:
    """As `_order_by_xla`, where a number and its word are one integer: such sort fast and stably.

    Floats from 0 on are in the order of their bits.
    """

    def sort(x: Array) -> tuple[np.ndarray, np.ndarray]:
        bits = np.asarray(x).view(np.uint32).astype(np.uint64)
        keys = (~bits << 32) | np.arange(x.shape[-1], dtype=np.uint64)
        _apply_threaded(lambda rows: rows.sort(axis=-1), keys)
        return (~(keys >> 32)).astype(np.uint32).view(np.float32), keys.astype(np.int32)

    shapes = _shape_dtype(x, x.dtype), _shape_dtype(x, jnp.int32)
    return jax.pure_callback(sort, shapes, x, vmap_method="broadcast_all")


def _apply_threaded(function: Callable[[np.ndarray], None], rows: np.ndarray) -> np.ndarray:
    """The rows, changed in their places; all cores share them, for the device waits meanwhile."""
    parts = np.array_split(rows, _num_cores())
    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(function, parts))
    return rows


def _num_cores() -> int:
    """Those that this process may use, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _shape_dtype(x: Array, dtype: jax.typing.DTypeLike) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, dtype)


def _sort_descending_bwd(
    order: Int[Array, "R V"], cotangent: Float32[Array, "R V"]
) -> tuple[Float32[Array, "R V"]]:
    rows = jax.lax.broadcasted_iota(jnp.int32, order.shape, 0)
    return (jnp.zeros_like(cotangent).at[rows, order].set(cotangent, unique_indices=True),)


_sort_descending.defvjp(_sort_descending_fwd, _sort_descending_bwd)
