"""AdamW with warm-up, a schedule, clipping, and weight decay where it belongs; all of it optax."""

from collections.abc import Mapping
from typing import Annotated, Any

import jax
import optax
from pydantic import Field

from jaxdistill.config import configclass
from jaxdistill.errors import UserError
from jaxdistill.train.schedules import Cosine, LearningRateSchedule, OneCycle

_Moment = Annotated[float, Field(ge=0, lt=1)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@configclass
class AdamW:
    """Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019.

    https://arxiv.org/abs/1711.05101.

    Attributes:
        learning_rate: The rate at its peak.
        schedule: How it goes on from there.
        warmup_steps: Over how many steps it climbs there first, in a straight line.
        b1: The decay of the running mean of the gradient.
        b2: The decay of the running mean of its square.
        eps: Added to the root of that, so that nothing is divided by 0.
        weight_decay: What part of a matrix is taken off it at each step, times the learning rate.
            Biases and norms are left alone.
        clip_norm: What the norm of the whole gradient is cut to; null cuts nothing.
    """

    learning_rate: _Positive = 1e-3
    schedule: LearningRateSchedule = Cosine()
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    b1: _Moment = 0.9
    b2: _Moment = 0.95
    eps: _Positive = 1e-8
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    clip_norm: _Positive | None = 1.0

    def learning_rate_schedule(self, num_steps: int) -> optax.Schedule:
        """The learning rate of each step, from 0, of a run of `num_steps`.

        Raises:
            UserError: when warm-up and schedule do not fit into the run, or not together.
        """
        peak, warmup = self.learning_rate, self.warmup_steps
        if warmup >= num_steps:
            raise UserError(
                f"optimizer.warmup_steps = {warmup} leaves nothing of a run of {num_steps} steps. "
                "Lower it, or train for longer."
            )
        if warmup and isinstance(self.schedule, OneCycle):
            raise UserError(
                f"optimizer.warmup_steps = {warmup}, but schedule `one_cycle` warms up by itself. "
                "Leave the steps out, and set `schedule.rise_fraction`."
            )
        main = self.schedule.after_warmup(peak, num_steps - warmup)
        if not warmup:
            return main
        # From one part, not from 0, so that the first batch is not read for nothing.
        climb = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
        return optax.join_schedules([climb, main], [warmup])

    def make_optimizer(
        self,
        num_steps: int,
        logical_axes: Any,
        learning_rate_scales: Mapping[str, float] | None = None,
    ) -> optax.GradientTransformation:
        """The optimizer for parameters whose logical axes are `axes`.

        Args:
            num_steps: How long the run is.
            axes: A tree like that of the parameters.
            scales: What the learning rate of some of its branches is multiplied by.
        """
        adamw = optax.adamw(
            self.learning_rate_schedule(num_steps),
            b1=self.b1,
            b2=self.b2,
            eps=self.eps,
            weight_decay=self.weight_decay,
            mask=weight_decay_mask(logical_axes),
        )
        clip = [] if self.clip_norm is None else [optax.clip_by_global_norm(self.clip_norm)]
        scale = [_scale_updates(learning_rate_scales)] if learning_rate_scales else []
        # One transformation is left alone, as checkpoints have it.
        return optax.chain(*clip, adamw, *scale) if clip or scale else adamw


def _scale_updates(scales: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiplies the updates of some branches."""

    def scaled(updates: Any, _: Any) -> Any:
        return {
            name: optax.tree.scale(scales.get(name, 1.0), branch)
            for name, branch in updates.items()
        }

    return optax.stateless(scaled)


def weight_decay_mask(logical_axes: Any) -> Any:
    """Which parameters weight decay pulls to zero: matrices, and neither biases nor norms.

    Args:
        axes: The logical axes of each parameter. The stacked `layers` do not count: the scale of
            a norm is a vector, however many layers are stacked.
    """

    def is_decayed(path: tuple[Any, ...], names: tuple[str | None, ...]) -> bool:
        last = jax.tree_util.keystr(path[-1:], simple=True)
        return not last.endswith("bias") and sum(name != "layers" for name in names) > 1

    return jax.tree_util.tree_map_with_path(
        is_decayed, logical_axes, is_leaf=lambda node: isinstance(node, tuple)
    )
