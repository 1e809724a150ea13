"""How much an objective counts: a number, or a line through points as the run goes on."""

from typing import Annotated

import jax.numpy as jnp
from jaxtyping import Array, Float32, Int
from pydantic import AfterValidator, Field

_NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Breakpoints = tuple[tuple[Annotated[int, Field(ge=0)], _NonNegative], ...]


def _check_ascending(points: _Breakpoints) -> _Breakpoints:
    steps = [step for step, _ in points]
    if sorted(set(steps)) != steps:
        raise ValueError(f"the steps {steps} must climb, as in [[0, 1.0], [1000, 0.2]]")
    return points


WeightSchedule = (
    _NonNegative | Annotated[_Breakpoints, Field(min_length=1), AfterValidator(_check_ascending)]
)
"""A constant, or points `[step, weight]`: straight lines between, constant before and after."""


def weight_at(weight: WeightSchedule, step: Int[Array, ""]) -> Float32[Array, ""]:
    """The weight of the update that is made after `step` others."""
    if isinstance(weight, tuple):
        steps, amounts = (jnp.asarray(column, jnp.float32) for column in zip(*weight, strict=True))
        return jnp.interp(step.astype(jnp.float32), steps, amounts)
    return jnp.float32(weight)


def is_always_zero(weight: WeightSchedule) -> bool:
    """Whether it is 0 all the time."""
    return not any(_weight_values(weight))


def format_weight(weight: WeightSchedule) -> str:
    """`0.9`, or `1 to 0.2`."""
    return " to ".join(f"{amount:g}" for amount in _weight_values(weight))


def _weight_values(weight: WeightSchedule) -> list[float]:
    return [amount for _, amount in weight] if isinstance(weight, tuple) else [weight]
