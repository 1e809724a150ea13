"""Rules that map the tensors of a Hugging Face file to our parameters and back.

A rule is data: a shape to view the tensor in, and an order of its axes. Import and export are both
derived from it, so they cannot disagree, and no bit changes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

ParamPath = tuple[str, ...]
"""The keys of a parameter in the nested dicts, such as `("layers", "attention", "query")`."""


@dataclass(frozen=True)
class TensorRule:
    """The mapping of one tensor to its parameter, or to several if Hugging Face fuses them.

    Args:
        name: Name of the tensor. `{i}` stands for the layer: the tensor is slice `i` of a
            parameter that is stacked over the layers.
        paths: Path of the parameter; several for a fused tensor.
        shape: Shape of the tensor in the file.
        view_shape: Shape to which the tensor is reshaped first.
        axis_order: Order in which the axes are then transposed. In a fused tensor, the first
            axis of the result counts the parameters.
    """

    name: str
    paths: tuple[ParamPath, ...]
    shape: tuple[int, ...]
    view_shape: tuple[int, ...]
    axis_order: tuple[int, ...]

    @property
    def is_stacked(self) -> bool:
        """True if the tensor is one layer of stacked parameters."""
        return "{i}" in self.name

    def tensor_names(self, num_layers: int) -> Iterator[tuple[int | None, str]]:
        """Yield the layer (None if the parameter is not stacked) and the name of each tensor."""
        if not self.is_stacked:
            yield None, self.name
            return
        for layer in range(num_layers):
            yield layer, self.name.replace("{i}", str(layer))

    def to_params(self, tensor: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the parameters that a tensor holds, one for each of `paths`; views if possible."""
        array = tensor.reshape(self.view_shape).transpose(self.axis_order)
        return tuple(array) if len(self.paths) > 1 else (array,)

    def to_hf_tensor(self, *arrays: np.ndarray) -> np.ndarray:
        """Return the tensor that holds these parameters: the inverse of `to_params`."""
        array = np.stack(arrays) if len(self.paths) > 1 else arrays[0]
        return array.transpose(np.argsort(self.axis_order)).reshape(self.shape)


def identity_rule(name: str, path: ParamPath, *shape: int) -> TensorRule:
    """Return the rule of a tensor that equals its parameter: an embedding, a norm, a bias."""
    return TensorRule(name, (path,), shape, shape, tuple(range(len(shape))))


def flattened_rule(name: str, path: ParamPath, *shape: int) -> TensorRule:
    """Return the rule of a tensor that has all axes of its parameter merged: a bias of heads."""
    return TensorRule(name, (path,), (int(np.prod(shape)),), shape, tuple(range(len(shape))))


def linear_rule(
    name: str, path: ParamPath, input_shape: tuple[int, ...], output_shape: tuple[int, ...]
) -> TensorRule:
    """Return the rule of a torch `Linear` weight `[outputs, inputs]`, ours `[inputs, outputs]`."""
    axes = tuple(range(len(output_shape) + len(input_shape)))
    return TensorRule(
        name,
        (path,),
        (int(np.prod(output_shape)), int(np.prod(input_shape))),
        (*output_shape, *input_shape),
        axes[len(output_shape) :] + axes[: len(output_shape)],
    )
