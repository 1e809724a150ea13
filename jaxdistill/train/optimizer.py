"""AdamW from optax, with warm-up, learning-rate schedule, gradient clipping and weight decay."""

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
    """AdamW with warm-up, a learning-rate schedule and gradient clipping.

    Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019,
    https://arxiv.org/abs/1711.05101.

    Attributes:
        learning_rate: Peak learning rate.
        schedule: Learning-rate schedule after the warm-up.
        warmup_steps: Number of steps over which the learning rate rises linearly to its peak.
        b1: Decay of the running mean of the gradient.
        b2: Decay of the running mean of the squared gradient.
        eps: Added to the denominator, the root of the second mean, against division by 0.
        weight_decay: Fraction of each matrix that a step removes, times the learning rate. Biases
            and norm scales do not decay.
        clip_norm: Upper bound of the global norm of the gradient; null for no clipping.
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
        """Return the learning rate as a function of the step, from 0, for a run of `num_steps`.

        UserError if warm-up and schedule do not fit into the run, or exclude each other.
        """
        peak, warmup = self.learning_rate, self.warmup_steps
        if warmup >= num_steps:
            raise UserError(
                f"optimizer.warmup_steps = {warmup} leaves nothing of a run of {num_steps} steps. "
                "Lower it, or train for longer."
            )
        if warmup and isinstance(self.schedule, OneCycle):
            raise UserError(
                f"optimizer.warmup_steps = {warmup}, but schedule `one_cycle` has its own warm-up. "
                "Remove `warmup_steps`, and set `schedule.rise_fraction`."
            )
        decay = self.schedule.after_warmup(peak, num_steps - warmup)
        if not warmup:
            return decay
        # The rise starts above 0: a learning rate of 0 would waste the first batch.
        rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
        return optax.join_schedules([rise, decay], [warmup])

    def make_optimizer(
        self,
        num_steps: int,
        logical_axes: Any,
        learning_rate_scales: Mapping[str, float] | None = None,
    ) -> optax.GradientTransformation:
        """Build the optax optimizer for a tree of parameters with these logical axes.

        Learning-rate scales are factors for top-level branches of the tree; 1 for others.
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
        # AdamW alone is not chained: existing checkpoints hold its state without a chain.
        return optax.chain(*clip, adamw, *scale) if clip or scale else adamw


def _scale_updates(scales: Mapping[str, float]) -> optax.GradientTransformation:
    """Build a transformation that multiplies the updates of some top-level branches."""

    def scale_branches(updates: Any, _: Any) -> Any:
        return {n: optax.tree.scale(scales.get(n, 1.0), branch) for n, branch in updates.items()}

    return optax.stateless(scale_branches)


def weight_decay_mask(logical_axes: Any) -> Any:
    """Return True for each parameter that weight decay applies to: matrices only.

    The axis of stacked `layers` does not count: a norm scale stays a vector.
    """

    def is_decayed(path: tuple[Any, ...], axes: tuple[str | None, ...]) -> bool:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        return not name.endswith("bias") and sum(axis != "layers" for axis in axes) > 1

    return jax.tree_util.tree_map_with_path(
        is_decayed, logical_axes, is_leaf=lambda node: isinstance(node, tuple)
    )
