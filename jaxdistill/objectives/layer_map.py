"""Layer maps: the layer of the teacher that each tapped layer of the student is compared with."""

from typing import Annotated, Literal

from pydantic import Field

from jaxdistill.config import configclass
from jaxdistill.errors import UserError
from jaxdistill.taps import Widths

_Layer = Annotated[int, Field(ge=0)]
LayerPairs = tuple[tuple[_Layer, _Layer], ...]
"""Pairs of a student's and a teacher's layer, counted from 1; 0 is the input of the first layer."""


@configclass
class EveryLayer:
    """Every n-th layer of the student, with the teacher's at the same relative depth.

    Attributes:
        every: The number n.
    """

    every: Annotated[int, Field(gt=0)]


LayerMap = (
    Literal["uniform", "last", "first_last", "searched"]
    | EveryLayer
    | Annotated[LayerPairs, Field(min_length=1)]
)
"""A rule that pairs layers, or the pairs."""


def make_layer_pairs(
    layer_map: LayerMap, count: int, student: Widths, teacher: Widths, *, first_layer: int
) -> LayerPairs:
    """Return the pairs of a layer map for two models.

    `uniform` pairs `count` evenly spaced layers of the student with those of the same relative
    depth, i·L_T/L_S rounded; `last` the last `count` layers; `first_last` the first and the last
    ones. For `searched`, the layers of the student are those of `uniform`, and so are the
    teacher's until they are searched.

    Raises:
        UserError: If there is no such layer; the first one is `first_layer`.
    """
    sizes = student.layers, teacher.layers
    match layer_map:
        case "last":
            chosen = range(min(count, *sizes))
            return tuple((sizes[0] - i, sizes[1] - i) for i in reversed(chosen))
        case "first_last":
            return ((1, 1), sizes) if sizes[0] > 1 else (sizes,)
        case tuple():
            return _check_pairs(layer_map, student, teacher, first_layer)
        case EveryLayer(every=every):
            layers = range(every, sizes[0] + 1, every)
            if not layers:
                raise UserError(
                    f"layers: every {every} layers there is none: the student has {sizes[0]}. "
                    "Take a smaller number."
                )
        case _:
            count = min(count, sizes[0])
            layers = [max(1, round(i * sizes[0] / count)) for i in range(1, count + 1)]
    return tuple((layer, max(1, round(layer * sizes[1] / sizes[0]))) for layer in layers)


def _check_pairs(
    pairs: LayerPairs, student: Widths, teacher: Widths, first_layer: int
) -> LayerPairs:
    for pair in pairs:
        for layer, owner, widths in zip(
            pair, ("student", "teacher"), (student, teacher), strict=True
        ):
            if not first_layer <= layer <= widths.layers:
                raise UserError(
                    f"layers: {list(pair)} names layer {layer} of the {owner}, which has layers "
                    f"{first_layer} to {widths.layers}. A pair is [student's layer, teacher's]."
                )
    if len(set(pairs)) < len(pairs):
        raise UserError(f"layers: {[list(pair) for pair in pairs]} names a pair twice.")
    return pairs
