"""Weight of an objective: a constant, or a piecewise linear schedule over steps."""

from typing import Annotated

import jax.numpy as jnp
from jaxtyping import Array, Float32, Int
from pydantic import AfterValidator, Field

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""Annotation of config fields: a finite number from 0."""

_Breakpoints = tuple[tuple[Annotated[int, Field(ge=0)], NonNegative], ...]


def _check_ascending(points: _Breakpoints) -> _Breakpoints:
    steps = [step for step, _ in points]
    if sorted(set(steps)) != steps:
        raise ValueError(f"the steps {steps} must ascend, as in [[0, 1.0], [1000, 0.2]]")
    return points


WeightSchedule = (
    NonNegative | Annotated[_Breakpoints, Field(min_length=1), AfterValidator(_check_ascending)]
)
"""A constant, or points `[step, weight]`: linear between them, constant before and after."""


def weight_at(weight: WeightSchedule, step: Int[Array, ""]) -> Float32[Array, ""]:
    """Return the weight of the update after `step` updates."""
    if isinstance(weight, tuple):
        steps, values = (jnp.asarray(column, jnp.float32) for column in zip(*weight, strict=True))
        return jnp.interp(step.astype(jnp.float32), steps, values)
    return jnp.float32(weight)


def is_always_zero(weight: WeightSchedule) -> bool:
    """Return whether the weight is 0 at every step."""
    return not any(_weight_values(weight))


def format_weight(weight: WeightSchedule) -> str:
    """Format as `0.9`, or `1 to 0.2`."""
    return " to ".join(f"{value:g}" for value in _weight_values(weight))


def _weight_values(weight: WeightSchedule) -> list[float]:
    return [value for _, value in weight] if isinstance(weight, tuple) else [weight]
