"""Tensors of a file into parameters: checked all at once, then read a few at a time."""

import os
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding

from jaxdistill.hub.source import Source
from jaxdistill.hub.tensor_validation import validate_tensors
from jaxdistill.hub.tensors import LazyTensor, check_dtype, check_range
from jaxdistill.models import TensorRule, abstract_params

_ALIGNMENT_BYTES = 64
_MAX_THREADS = 4


def load_params(
    source: Source, *, dtype: str | None = "float32", shardings: Any = None
) -> dict[str, Any]:
    """Read a model's tensors into its parameters.

    Each parameter is filled slice by slice into one host buffer for each of its shards, and cast
    on the way, one parameter after the other and a few of its layers at a time, for NumPy copies,
    turns and casts at the speed of one core. A shard that no device of this process holds is not
    made, and a tensor that no shard wants is not read.

    Args:
        source: The model.
        dtype: Of all parameters; None keeps each as it is stored (where tensors that we stack
            differ, the narrowest dtype that holds them all, and float32 for float64).
        shardings: The tree of the parameters with a `jax.sharding.Sharding` for each; None puts
            them on the default device.

    Raises:
        UserError: Tensors are missing, unexpected, of the wrong shape or of an unknown dtype, or
            `dtype` is none to compute with.
    """
    check_dtype(dtype)
    tensors = validate_tensors(source)
    shapes = abstract_params(source.config)
    params: dict[str, Any] = {}
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as threads:
        for rule in source.family.tensor_rules(source.config):
            pieces = [
                (layer, name, tensors[name])
                for layer, name in rule.tensor_names(source.config.num_layers)
            ]
            held = np.dtype(dtype or _common_dtype(tensor for *_, tensor in pieces))
            fillings = [
                _ShardBuffers(_get_leaf(shapes, path).shape, held, _get_leaf(shardings, path))
                for path in rule.paths
            ]
            deque(
                threads.map(
                    partial(_read_into_buffers, rule, fillings, held), *zip(*pieces, strict=True)
                ),
                0,
            )
            for path, filling in zip(rule.paths, fillings, strict=True):
                _set_leaf(params, path, filling.to_array())
    return params


def _read_into_buffers(
    rule: TensorRule,
    param_buffers: Sequence["_ShardBuffers"],
    dtype: np.dtype,
    layer: int | None,
    name: str,
    lazy_tensor: LazyTensor,
) -> None:
    """Read one tensor into the parameters that it is a part of."""
    if any(filling.holds_layer(layer) for filling in param_buffers):
        tensor = lazy_tensor.read()
        check_range(name, tensor, dtype)
        for filling, array in zip(param_buffers, rule.to_params(tensor), strict=True):
            filling.copy_in(layer, array)


class _ShardBuffers:
    """A parameter on its way in: one buffer for each distinct shard on this process's devices."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, sharding: Sharding | None):
        self.shape = shape
        self.sharding = sharding
        # With no sharding given there is one shard, which is everything, and no chosen device.
        everything = {None: (slice(None),) * len(shape)}
        devices = sharding.addressable_devices_indices_map(shape) if sharding else everything
        self.bounds = {
            device: _shard_bounds(index or (), shape) for device, index in devices.items()
        }
        self.buffers = {
            bounds: _aligned_empty(tuple(stop - start for start, stop in bounds), dtype)
            for bounds in set(self.bounds.values())
        }

    def holds_layer(self, layer: int | None) -> bool:
        """Whether any shard here holds some of this layer (None: the array is not stacked)."""
        return layer is None or any(first <= layer < last for (first, last), *_ in self.buffers)

    def copy_in(self, layer: int | None, array: np.ndarray) -> None:
        """Copy what each shard holds of an array, cast to its dtype."""
        for bounds, buffer in self.buffers.items():
            if layer is None:
                buffer[...] = array[tuple(slice(*bound) for bound in bounds)]
                continue
            (first, last), *inner = bounds
            if first <= layer < last:
                buffer[layer - first] = array[tuple(slice(*bound) for bound in inner)]

    def to_array(self) -> jax.Array:
        """The whole array on its devices; the buffers are given away."""
        buffers, self.buffers = self.buffers, {}
        shards = [jax.device_put(buffers[bounds], device) for device, bounds in self.bounds.items()]
        # The next parameter's buffers wait until these are on the device.
        jax.block_until_ready(shards)
        if self.sharding is None:
            return shards[0]
        return jax.make_array_from_single_device_arrays(self.shape, self.sharding, shards)


def _shard_bounds(slices: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Where a shard begins and ends on each axis."""
    return tuple(cut.indices(size)[:2] for cut, size in zip(slices, shape, strict=True))


def _aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Memory that JAX takes over as it is on a CPU: it copies what is not aligned."""
    num_bytes = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(num_bytes + _ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT_BYTES
    return memory[start : start + num_bytes].view(dtype).reshape(shape)


def _common_dtype(tensors: Iterable[LazyTensor]) -> jnp.dtype:
    dtypes = {"float32" if tensor.dtype == "float64" else tensor.dtype for tensor in tensors}
    return jnp.result_type(*dtypes)


def _get_leaf(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree and tree[key]
    return tree


def _set_leaf(tree: dict[str, Any], path: tuple[str, ...], leaf: jax.Array) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = leaf
