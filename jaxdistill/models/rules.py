"""How one Hugging Face tensor and our parameters hold the same numbers.

A rule is data, not code: a shape to view the tensor in and an order of its axes. Both directions
are worked out from it, so import and export cannot disagree, and no bit can change.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

Path = tuple[str, ...]
"""Where a parameter is in the nested dicts, such as `("layers", "attention", "query")`."""


@dataclass(frozen=True)
class Rule:
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
    paths: tuple[Path, ...]
    shape: tuple[int, ...]
    view: tuple[int, ...]
    order: tuple[int, ...]

    @property
    def is_stacked(self) -> bool:
        """Whether the tensor is one layer's slice of stacked parameters."""
        return "{i}" in self.name

    def names(self, num_layers: int) -> Iterator[tuple[int | None, str]]:
        """The layer (None where the parameter is not stacked) and name of each tensor."""
        if not self.is_stacked:
            yield None, self.name
            return
        for layer in range(num_layers):
            yield layer, self.name.replace("{i}", str(layer))

    def to_ours(self, tensor: np.ndarray) -> tuple[np.ndarray, ...]:
        """The parameters in a tensor, one for each of `paths` (views where possible)."""
        array = tensor.reshape(self.view).transpose(self.order)
        return tuple(array) if len(self.paths) > 1 else (array,)

    def to_hf(self, *arrays: np.ndarray) -> np.ndarray:
        """The tensor that holds the parameters: the inverse of `to_ours`."""
        array = np.stack(arrays) if len(self.paths) > 1 else arrays[0]
        return array.transpose(np.argsort(self.order)).reshape(self.shape)


def same(name: str, path: Path, *shape: int) -> Rule:
    """A tensor that is our parameter as it stands: an embedding, a norm, a bias."""
    return Rule(name, (path,), shape, shape, tuple(range(len(shape))))


def flattened(name: str, path: Path, *shape: int) -> Rule:
    """A tensor that is our parameter of this shape with all axes merged: a bias of heads."""
    return Rule(name, (path,), (int(np.prod(shape)),), shape, tuple(range(len(shape))))


def linear(name: str, path: Path, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> Rule:
    """A torch `Linear` weight `[outputs, inputs]`, which we keep as `[*inputs, *outputs]`."""
    axes = tuple(range(len(outputs) + len(inputs)))
    return Rule(
        name,
        (path,),
        (int(np.prod(outputs)), int(np.prod(inputs))),
        (*outputs, *inputs),
        axes[len(outputs) :] + axes[: len(outputs)],
    )
