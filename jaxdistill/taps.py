"""Taps: hidden states and attention that a forward pass returns from inside of a model."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import NamedTuple

from jaxtyping import Array, Float, Float32

from jaxdistill.pytree import pytree


class Widths(NamedTuple):
    """Sizes of what can be tapped.

    Attributes:
        hidden: Width of the hidden states.
        layers: Number of layers.
        query: Width of the queries of all heads together.
        key_value: Width of the keys of all key/value heads together, and of the values.
    """

    hidden: int
    layers: int
    query: int
    key_value: int


@dataclass(frozen=True)
class Taps:
    """The layers of which a forward pass returns something; layers count from 1.

    Layers that are not named run as without taps and store nothing more.

    Attributes:
        hidden: Layers whose output is returned, numbered as `hidden_states` of `transformers`: 0 is
            the input of the first layer, and the last layer's output has passed the final norm.
        attention: Layers whose attention probabilities are returned, of every head.
        mean_attention: Layers whose attention probabilities are returned as a mean over heads.
        projections: Layers whose queries, keys and values are returned, before rotation.
    """

    hidden: tuple[int, ...] = ()
    attention: tuple[int, ...] = ()
    mean_attention: tuple[int, ...] = ()
    projections: tuple[int, ...] = ()

    def __or__(self, other: "Taps") -> "Taps":
        """Return the taps of both."""
        names = (field.name for field in fields(self))
        return Taps(*(tuple(sorted({*getattr(self, n), *getattr(other, n)})) for n in names))

    @property
    def hidden_layers(self) -> frozenset[int]:
        """Layers whose output is read: those of `hidden`, and those before an opened layer."""
        opened = (*self.attention, *self.mean_attention, *self.projections)
        return frozenset(self.hidden) | {layer - 1 for layer in opened}


NO_TAPS = Taps()
NO_OFFSETS: Mapping[int, Array] = MappingProxyType({})


class Projections(NamedTuple):
    """Queries, keys and values of one layer, with all heads side by side."""

    query: Float[Array, "B T X"]
    key: Float[Array, "B T Y"]
    value: Float[Array, "B T Y"]


@pytree
@dataclass(frozen=True)
class TapValues:
    """Values that a forward pass returned for its `Taps`, each by layer."""

    hidden: dict[int, Float[Array, "B T D"]] = field(default_factory=dict)
    attention: dict[int, Float32[Array, "B H T T"]] = field(default_factory=dict)
    mean_attention: dict[int, Float32[Array, "B T T"]] = field(default_factory=dict)
    projections: dict[int, Projections] = field(default_factory=dict)
