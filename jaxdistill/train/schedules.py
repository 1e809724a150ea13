"""How the learning rate goes from its peak to the end of a run; the curves are optax's."""

from typing import Annotated, Literal

import optax
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
    """A straight line down to `final_fraction` of the peak."""

    type: Literal["linear"] = "linear"
    final_fraction: _Fraction = 0.0

    def after_warmup(self, peak: float, num_steps: int) -> optax.Schedule:
        """The rate by step."""
        return optax.linear_schedule(peak, self.final_fraction * peak, num_steps)


@configclass
class Cosine:
    """Half a cosine down to `final_fraction` of the peak.

    Loshchilov and Hutter, "SGDR", 2017, https://arxiv.org/abs/1608.03983.
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


Schedule = Annotated[Constant | Linear | Cosine | WarmupStableDecay, Field(discriminator="type")]
