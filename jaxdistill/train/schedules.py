"""How the learning rate goes on from its peak to the end of a run; most curves are optax's."""

from typing import Annotated, Any, Literal

import jax.numpy as jnp
import optax
from jaxtyping import Array
from pydantic import Field

from jaxdistill.config import configclass
from jaxdistill.errors import UserError

_Fraction = Annotated[float, Field(ge=0, le=1)]


@configclass
class Constant:
    """The peak, to the end."""

    type: Literal["constant"] = "constant"

    def after_warmup(self, peak: float, num_steps: int) -> optax.Schedule:
        """The rate by step."""
        return optax.constant_schedule(peak)


@configclass
class Linear:
    """A straight line down to `final_fraction` of the peak.

    Attributes:
        final_fraction: Of the peak, where it ends.
    """

    type: Literal["linear"] = "linear"
    final_fraction: _Fraction = 0.0

    def after_warmup(self, peak: float, num_steps: int) -> optax.Schedule:
        """The rate by step."""
        return optax.linear_schedule(peak, self.final_fraction * peak, num_steps)


@configclass
class Cosine:
    """Half a cosine down to `final_fraction` of the peak.

    Loshchilov and Hutter, "SGDR", 2017, https://arxiv.org/abs/1608.03983.

    Attributes:
        final_fraction: Of the peak, where it ends.
    """

    type: Literal["cosine"] = "cosine"
    final_fraction: _Fraction = 0.0

    def after_warmup(self, peak: float, num_steps: int) -> optax.Schedule:
        """The rate by step."""
        return optax.cosine_decay_schedule(peak, num_steps, alpha=self.final_fraction)


@configclass
class WarmupStableDecay:
    """The peak, then a straight line to `final_fraction` of it over the last `decay_steps`.

    Hu et al., "MiniCPM", 2024, https://arxiv.org/abs/2404.06395.

    Attributes:
        decay_steps: How many steps before the end the decay begins.
        final_fraction: Of the peak, where it ends.
    """

    type: Literal["warmup_stable_decay"] = "warmup_stable_decay"
    decay_steps: Annotated[int, Field(gt=0)]
    final_fraction: _Fraction = 0.0

    def after_warmup(self, peak: float, num_steps: int) -> optax.Schedule:
        """The rate by step.

        Raises:
            UserError: when the decay is longer than the run.
        """
        if self.decay_steps > num_steps:
            raise UserError(
                f"schedule.decay_steps = {self.decay_steps} is more than the {num_steps} steps "
                "that are left after the warm-up. Lower it, or train for longer."
            )
        decay = optax.linear_schedule(peak, self.final_fraction * peak, self.decay_steps)
        stable = optax.constant_schedule(peak)
        return optax.join_schedules([stable, decay], [num_steps - self.decay_steps])


@configclass
class OneCycle:
    """Half a cosine up to the peak and half a cosine down, as PyTorch's `OneCycleLR` has it.

    Smith and Topin, "Super-Convergence", 2017, https://arxiv.org/abs/1708.07120. It has a warm-up
    in it, and takes no other. optax's own has its peak and its end a step later.

    Attributes:
        rise_fraction: The part of the run in which the rate climbs (PyTorch's `pct_start`).
        start_fraction: Of the peak, where it begins (1 / `div_factor`).
        final_fraction: Of the peak, where it ends (1 / `div_factor` / `final_div_factor`).
    """

    type: Literal["one_cycle"] = "one_cycle"
    rise_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.3
    start_fraction: _Fraction = 0.04
    final_fraction: _Fraction = 0.0

    def after_warmup(self, peak: float, num_steps: int) -> optax.Schedule:
        """The rate by step."""
        top = self.rise_fraction * num_steps - 1  # the step of the peak; it may lie between two

        def rate(step: Any) -> Array:
            up, down = step / max(top, 1e-9), (step - top) / (num_steps - 1 - top)
            start, end = self.start_fraction * peak, self.final_fraction * peak
            climb, descent = _half_cosine(start, peak, up), _half_cosine(peak, end, down)
            return jnp.where(step < top, climb, descent)

        return rate


def _half_cosine(start: float, end: float, fraction: Array | float) -> Array:
    return end + (start - end) / 2 * (1 + jnp.cos(jnp.pi * jnp.clip(fraction, 0, 1)))


LearningRateSchedule = Annotated[
    Constant | Linear | Cosine | WarmupStableDecay | OneCycle, Field(discriminator="type")
]
