"""How one Hugging Face tensor and our parameters hold the same numbers.

A rule is data, not code: a shape to view the tensor in and an order of its axes. Both directions
are worked out from it, so import and export cannot disagree, and no bit can change.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

ParamPath = tuple[str, ...]
"""Where a parameter is in the nested dicts, such as `("layers", "attention", "query")`."""


@dataclass(frozen=True)
class TensorRule:
    """One tensor of a Hugging Face file and the parameter, or parameters, that it holds.

    Read: reshape the tensor to `view`, then transpose by `order`. Where Hugging Face fuses
    several of our parameters into one tensor, `paths` has several members, and the first axis
    after the transpose counts them.

    Args:
        name: The tensor's name. `{i}` stands for the layer: the tensor is slice `i` of a
            parameter that is stacked over the layers.
        paths: The parameter's path, or several for a fused tensor.
        shape: The tensor's shape in the file.
        view: The shape, of as many numbers, to view the tensor in.
        order: The axes of the view in our order.
    """

    name: str
    paths: tuple[ParamPath, ...]
    shape: tuple[int, ...]
    view_shape: tuple[int, ...]
    axis_order: tuple[int, ...]

    @property
    def is_stacked(self) -> bool:
        """Whether the tensor is one layer's slice of stacked parameters."""
        return "{i}" in self.name

    def tensor_names(self, num_layers: int) -> Iterator[tuple[int | None, str]]:
        """The layer (None where the parameter is not stacked) and name of each tensor."""
        if not self.is_stacked:
            yield None, self.name
            return
        for layer in range(num_layers):
            yield layer, self.name.replace("{i}", str(layer))

    def to_params(self, tensor: np.ndarray) -> tuple[np.ndarray, ...]:
        """The parameters in a tensor, one for each of `paths` (views where possible)."""
        array = tensor.reshape(self.view_shape).transpose(self.axis_order)
        return tuple(array) if len(self.paths) > 1 else (array,)

    def to_hf_tensor(self, *arrays: np.ndarray) -> np.ndarray:
        """The tensor that holds the parameters: the inverse of `to_params`."""
        array = np.stack(arrays) if len(self.paths) > 1 else arrays[0]
        return array.transpose(np.argsort(self.axis_order)).reshape(self.shape)


def identity_rule(name: str, path: ParamPath, *shape: int) -> TensorRule:
    """A tensor that is our parameter as it stands: an embedding, a norm, a bias."""
    return TensorRule(name, (path,), shape, shape, tuple(range(len(shape))))


def flattened_rule(name: str, path: ParamPath, *shape: int) -> TensorRule:
    """A tensor that is our parameter of this shape with all axes merged: a bias of heads."""
    return TensorRule(name, (path,), (int(np.prod(shape)),), shape, tuple(range(len(shape))))


def linear_rule(
    name: str, path: ParamPath, input_shape: tuple[int, ...], output_shape: tuple[int, ...]
) -> TensorRule:
    """A torch `Linear` weight `[outputs, inputs]`, which we keep as `[*inputs, *outputs]`."""
    axes = tuple(range(len(output_shape) + len(input_shape)))
    return TensorRule(
        name,
        (path,),
        (int(np.prod(output_shape)), int(np.prod(input_shape))),
        (*output_shape, *input_shape),
        axes[len(output_shape) :] + axes[: len(output_shape)],
    )
