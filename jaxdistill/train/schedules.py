"""Learning-rate schedules from the end of the warm-up to the end of a run."""

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
    """The peak learning rate at every step."""

    type: Literal["constant"] = "constant"

    def after_warmup(self, peak: float, num_steps: int) -> optax.Schedule:
        """Return the learning rate as a function of the steps since the warm-up."""
        return optax.constant_schedule(peak)


@configclass
class Linear:
    """Linear decay from the peak to `final_fraction` of the peak.

    Attributes:
        final_fraction: Learning rate at the end of the run, as a fraction of the peak.
    """

    type: Literal["linear"] = "linear"
    final_fraction: _Fraction = 0.0

    def after_warmup(self, peak: float, num_steps: int) -> optax.Schedule:
        """Return the learning rate as a function of the steps since the warm-up."""
        return optax.linear_schedule(peak, self.final_fraction * peak, num_steps)


@configclass
class Cosine:
    """Cosine decay from the peak to `final_fraction` of the peak, without restarts.

    Loshchilov and Hutter, "SGDR", 2017, https://arxiv.org/abs/1608.03983.

    Attributes:
        final_fraction: Learning rate at the end of the run, as a fraction of the peak.
    """

    type: Literal["cosine"] = "cosine"
    final_fraction: _Fraction = 0.0

    def after_warmup(self, peak: float, num_steps: int) -> optax.Schedule:
        """Return the learning rate as a function of the steps since the warm-up."""
        return optax.cosine_decay_schedule(peak, num_steps, alpha=self.final_fraction)


@configclass
class WarmupStableDecay:
    """The peak, then linear decay to `final_fraction` of the peak over the last `decay_steps`.

    Hu et al., "MiniCPM", 2024, https://arxiv.org/abs/2404.06395.

    Attributes:
        decay_steps: Number of steps at the end of the run over which the learning rate decays.
        final_fraction: Learning rate at the end of the run, as a fraction of the peak.
    """

    type: Literal["warmup_stable_decay"] = "warmup_stable_decay"
    decay_steps: Annotated[int, Field(gt=0)]
    final_fraction: _Fraction = 0.0

    def after_warmup(self, peak: float, num_steps: int) -> optax.Schedule:
        """Return the learning rate as a function of the steps since the warm-up."""
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
    """Half a cosine up to the peak, then half a cosine down, as in PyTorch's `OneCycleLR`.

    Smith and Topin, "Super-Convergence", 2017, https://arxiv.org/abs/1708.07120. It includes a
    warm-up: `warmup_steps` must be 0. optax's own reaches its peak and its end one step later.

    Attributes:
        rise_fraction: Fraction of the run in which the learning rate rises (PyTorch's `pct_start`).
        start_fraction: First learning rate as a fraction of the peak (1 / `div_factor`).
        final_fraction: Last learning rate as a fraction of the peak
            (1 / `div_factor` / `final_div_factor`).
    """

    type: Literal["one_cycle"] = "one_cycle"
    rise_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.3
    start_fraction: _Fraction = 0.04
    final_fraction: _Fraction = 0.0

    def after_warmup(self, peak: float, num_steps: int) -> optax.Schedule:
        """Return the learning rate as a function of the step."""
        peak_step = self.rise_fraction * num_steps - 1  # may lie between two steps

        def learning_rate(step: Any) -> Array:
            up, down = step / max(peak_step, 1e-9), (step - peak_step) / (num_steps - 1 - peak_step)
            start, end = self.start_fraction * peak, self.final_fraction * peak
            rise, fall = _half_cosine(start, peak, up), _half_cosine(peak, end, down)
            return jnp.where(step < peak_step, rise, fall)

        return learning_rate


def _half_cosine(start: float, end: float, fraction: Array | float) -> Array:
    return end + (start - end) / 2 * (1 + jnp.cos(jnp.pi * jnp.clip(fraction, 0, 1)))


LearningRateSchedule = Annotated[
    Constant | Linear | Cosine | WarmupStableDecay | OneCycle, Field(discriminator="type")
]
