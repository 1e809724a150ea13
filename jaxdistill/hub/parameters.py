"""Loader of parameters: validates all tensors, then reads a few at a time."""

import os
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
from jaxdistill.models import TensorRule
from jaxdistill.models.tensor_rules import ParamPath
from jaxdistill.types import Params

_ALIGNMENT_BYTES = 64
_MAX_THREADS = 4


def load_params(
    source: Source, *, dtype: str | None = "float32", shardings: Params | None = None
) -> Params:
    """Read a model's tensors into its parameters.

    One parameter after the other is copied into host buffers, one per shard, and cast on the way.
    A few layers are read in parallel, since NumPy copies, transposes and casts on one core. Shards
    of other processes are not allocated, and tensors that belong only to them are not read.

    Args:
        source: The model.
        dtype: Dtype of all parameters; None keeps each as stored. Stacked layers then share the
            narrowest dtype that holds them all, and float64 becomes float32.
        shardings: Tree of the parameters with a `jax.sharding.Sharding` for each; None for the
            default device.

    Raises:
        UserError: Tensors are missing, unexpected, of the wrong shape or of an unknown dtype, or
            `dtype` is not a dtype of parameters.
    """
    check_dtype(dtype)
    tensors = validate_tensors(source)
    shapes = source.language_model.abstract_params()
    params: dict[str, Any] = {}
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as threads:
        for rule in source.family.tensor_rules(source.language_model.config):
            layers, names = zip(
                *rule.tensor_names(source.language_model.widths.layers), strict=True
            )
            rule_tensors = [tensors[name] for name in names]
            param_dtype = np.dtype(dtype or _common_dtype(rule_tensors))
            buffers = [
                _ShardBuffers(get_leaf(shapes, path).shape, param_dtype, get_leaf(shardings, path))
                for path in rule.paths
            ]
            read = partial(_read_into_buffers, rule, buffers, param_dtype)
            for _ in threads.map(read, layers, names, rule_tensors):
                pass  # raises what a thread raised
            for path, param_buffers in zip(rule.paths, buffers, strict=True):
                _set_leaf(params, path, param_buffers.to_array())
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
    if any(buffers.holds_layer(layer) for buffers in param_buffers):
        tensor = lazy_tensor.read()
        check_range(name, tensor, dtype)
        for buffers, array in zip(param_buffers, rule.to_params(tensor), strict=True):
            buffers.copy_in(layer, array)


class _ShardBuffers:
    """Host buffers of a parameter, one for each distinct shard of this process's devices."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, sharding: Sharding | None):
        self.shape = shape
        self.sharding = sharding
        # Without a sharding there is one shard, the whole array, and no chosen device.
        unsharded = {None: (slice(None),) * len(shape)}
        devices = sharding.addressable_devices_indices_map(shape) if sharding else unsharded
        self.bounds = {
            device: _shard_bounds(index or (), shape) for device, index in devices.items()
        }
        self.buffers = {
            bounds: _aligned_empty(tuple(stop - start for start, stop in bounds), dtype)
            for bounds in set(self.bounds.values())
        }

    def holds_layer(self, layer: int | None) -> bool:
        """Return True if a local shard overlaps this layer (None: the array is not stacked)."""
        return layer is None or any(first <= layer < last for (first, last), *_ in self.buffers)

    def copy_in(self, layer: int | None, array: np.ndarray) -> None:
        """Copy each shard's part of an array, cast to its dtype."""
        for bounds, buffer in self.buffers.items():
            if layer is None:
                buffer[...] = array[tuple(slice(*bound) for bound in bounds)]
                continue
            (first, last), *inner = bounds
            if first <= layer < last:
                buffer[layer - first] = array[tuple(slice(*bound) for bound in inner)]

    def to_array(self) -> jax.Array:
        """Move the buffers to their devices and return the array that they form."""
        buffers, self.buffers = self.buffers, {}
        shards = [jax.device_put(buffers[bounds], device) for device, bounds in self.bounds.items()]
        # Before the next parameter's buffers are allocated, these are on the device.
        jax.block_until_ready(shards)
        if self.sharding is None:
            return shards[0]
        return jax.make_array_from_single_device_arrays(self.shape, self.sharding, shards)


def _shard_bounds(slices: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Return start and end of a shard on each axis."""
    return tuple(part.indices(size)[:2] for part, size in zip(slices, shape, strict=True))


def _aligned_empty(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Allocate memory that JAX on a CPU adopts without a copy, which needs alignment."""
    num_bytes = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(num_bytes + _ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT_BYTES
    return memory[start : start + num_bytes].view(dtype).reshape(shape)


def _common_dtype(tensors: Iterable[LazyTensor]) -> jnp.dtype:
    dtypes = {"float32" if tensor.dtype == "float64" else tensor.dtype for tensor in tensors}
    return jnp.result_type(*dtypes)


def get_leaf(tree: Params | None, path: ParamPath) -> Any:
    """Return the leaf at a path; None if there is no tree."""
    for key in path:
        tree = tree and tree[key]
    return tree


def _set_leaf(tree: dict[str, Any], path: ParamPath, leaf: jax.Array) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = leaf
