"""Sorted difference (ULD) of two distributions over different vocabularies, per position.

Probabilities need not add up to 1, as those of spans of several tokens do not. The shorter
vocabulary counts as if padded with tokens of probability 0.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int

_K_GROWTH = 4
"""Factor by which `k` grows while an error is too large."""


class BoundedValue(NamedTuple):
    """Lower bound of a value and its largest error: value ≤ true value ≤ value + max_error."""

    value: Float32[Array, " R"]
    max_error: Float32[Array, " R"]


def sorted_difference(p: Float32[Array, "R V"], q: Float32[Array, "R W"]) -> Float32[Array, " R"]:
    """Σ |p₍ᵢ₎ − q₍ᵢ₎| over the i-th largest probability of each side; between 0 and 2.

    This is the minimum of Σ |p − q| over all ways to pair tokens of one side with tokens of the
    other. The gradient reaches `q` alone; of equal probabilities the first ranks first
    (Boizard et al., 2024, https://arxiv.org/abs/2402.12030).
    """
    num_shared = min(p.shape[-1], q.shape[-1])
    p_top, p_rest = _top_and_rest(jax.lax.stop_gradient(p), count=num_shared)
    q = _sort_descending(q)
    unpaired = p_rest + jnp.abs(q[:, num_shared:]).sum(axis=-1)
    return jnp.abs(p_top - q[:, :num_shared]).sum(axis=-1) + unpaired


def sorted_difference_top_k(
    p: Float32[Array, "R V"], q: Float32[Array, "R W"], *, k: int
) -> BoundedValue:
    """Return the least value that `sorted_difference` can have, given the `k` largest of each side.

    The remaining tokens differ by at least the difference of their two masses, and by at most
    their sum. So the error is at most twice the smaller mass.
    """
    p = jax.lax.stop_gradient(p)
    p_top, q_top = (jax.lax.top_k(probs, min(k, probs.shape[-1]))[0] for probs in (p, q))
    p_rest, q_rest = (
        jnp.maximum(probs.sum(axis=-1) - top.sum(axis=-1), 0)
        for probs, top in ((p, p_top), (q, q_top))
    )
    num_shared = min(p_top.shape[-1], q_top.shape[-1])
    # A vocabulary smaller than `k` leaves tokens of the other side without a partner.
    unpaired = p_top[:, num_shared:].sum(axis=-1) + q_top[:, num_shared:].sum(axis=-1)
    paired = jnp.abs(p_top[:, :num_shared] - q_top[:, :num_shared]).sum(axis=-1)
    max_error = 2 * jax.lax.stop_gradient(jnp.minimum(p_rest, q_rest))
    return BoundedValue(paired + unpaired + jnp.abs(p_rest - q_rest), max_error)


def sorted_difference_adaptive(
    p: Float32[Array, "R V"], q: Float32[Array, "R W"], *, k: int, max_error: Float32[Array, " R"]
) -> BoundedValue:
    """Return `sorted_difference_top_k` of the smallest sufficient k, for all positions together.

    k grows by factors of four until no position's error exceeds its `max_error`; in the end all
    tokens are sorted, without error.
    """
    bounded = sorted_difference_top_k(p, q, k=k)

    def with_larger_k() -> BoundedValue:
        # Finding the largest sixteenth takes about as long as sorting all.
        if 16 * _K_GROWTH * k >= max(p.shape[-1], q.shape[-1]):
            return BoundedValue(sorted_difference(p, q), jnp.zeros_like(bounded.max_error))
        return sorted_difference_adaptive(p, q, k=_K_GROWTH * k, max_error=max_error)

    is_sufficient = jnp.all(bounded.max_error <= max_error)
    return jax.lax.cond(is_sufficient, lambda: bounded, with_larger_k)


def _top_and_rest(
    x: Float32[Array, "R V"], *, count: int
) -> tuple[Float32[Array, "R N"], Float32[Array, " R"]]:
    """Return the `count` largest numbers of each row, all ≥ 0, and the sum of the others."""
    return _dispatch_by_platform(
        x, partial(_top_and_rest_numpy, count=count), partial(_top_and_rest_xla, count=count)
    )


@jax.custom_vjp
def _sort_descending(x: Float32[Array, "R V"]) -> Float32[Array, "R V"]:
    return _top_and_rest(x, count=x.shape[-1])[0]


def _sort_descending_fwd(
    x: Float32[Array, "R V"],
) -> tuple[Float32[Array, "R V"], Int[Array, "R V"]]:
    return _dispatch_by_platform(x, _stable_sort_numpy, _stable_sort_xla)


def _sort_descending_bwd(
    order: Int[Array, "R V"], cotangent: Float32[Array, "R V"]
) -> tuple[Float32[Array, "R V"]]:
    rows = jax.lax.broadcasted_iota(jnp.int32, order.shape, 0)
    return (jnp.zeros_like(cotangent).at[rows, order].set(cotangent, unique_indices=True),)


_sort_descending.defvjp(_sort_descending_fwd, _sort_descending_bwd)


def _dispatch_by_platform(
    x: Float32[Array, "R V"], by_numpy: Callable[[Array], Any], by_xla: Callable[[Array], Any]
) -> Any:
    """Apply `by_numpy` in a program for one CPU device of several cores, `by_xla` elsewhere.

    NumPy sorts a vocabulary many times as fast as XLA:CPU. Its callback would deadlock in a
    program for several devices, or on a single core.
    """
    if jax.device_count() > 1 or _num_cores() == 1:
        return by_xla(x)
    return jax.lax.platform_dependent(x, cpu=by_numpy, default=by_xla)


def _top_and_rest_xla(
    x: Float32[Array, "R V"], *, count: int
) -> tuple[Float32[Array, "R N"], Float32[Array, " R"]]:
    x = -jax.lax.sort(-x)
    return x[:, :count], x[:, count:].sum(axis=-1)


def _stable_sort_xla(x: Float32[Array, "R V"]) -> tuple[Float32[Array, "R V"], Int[Array, "R V"]]:
    token_ids = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    x, order = jax.lax.sort((-x, token_ids), num_keys=1, is_stable=True)
    return -x, order


def _top_and_rest_numpy(
    x: Float32[Array, "R V"], *, count: int
) -> tuple[Float32[Array, "R N"], Float32[Array, " R"]]:
    """Return what `_top_and_rest_xla` does; a tenth of the time of `_stable_sort_numpy`.

    16 rows of 262,144 numbers took 12 ms on two cores, and 105 ms with the keys of a stable sort.
    The teacher's side needs no order, so it does not pay for them (see docs/performance.md).
    """
    num_others = x.shape[-1] - count

    def sort_top(rows: np.ndarray) -> None:
        if num_others:
            rows.partition(num_others, axis=-1)
        rows[..., num_others:].sort(axis=-1)

    def top_and_rest(x: Array) -> tuple[np.ndarray, np.ndarray]:
        rows = _apply_threaded(sort_top, np.array(x))
        return np.flip(rows[..., num_others:], axis=-1), rows[..., :num_others].sum(axis=-1)

    shapes = jax.eval_shape(partial(_top_and_rest_xla, count=count), x)
    return jax.pure_callback(top_and_rest, shapes, x, vmap_method="broadcast_all")


def _stable_sort_numpy(x: Float32[Array, "R V"]) -> tuple[Float32[Array, "R V"], Int[Array, "R V"]]:
    """Return what `_stable_sort_xla` does, from integer keys of a number's bits and its index.

    Such keys sort fast and stably. Floats ≥ 0 have the order of their bits.
    """

    def sort(x: Array) -> tuple[np.ndarray, np.ndarray]:
        bits = np.asarray(x).view(np.uint32).astype(np.uint64)
        keys = (~bits << 32) | np.arange(x.shape[-1], dtype=np.uint64)
        _apply_threaded(lambda rows: rows.sort(axis=-1), keys)
        return (~(keys >> 32)).astype(np.uint32).view(np.float32), keys.astype(np.int32)

    shapes = jax.eval_shape(_stable_sort_xla, x)
    return jax.pure_callback(sort, shapes, x, vmap_method="broadcast_all")


def _apply_threaded(function: Callable[[np.ndarray], None], rows: np.ndarray) -> np.ndarray:
    """Change rows in place on all cores, which are idle while the device waits."""
    parts = np.array_split(rows, _num_cores())
    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(function, parts))
    return rows


def _num_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
