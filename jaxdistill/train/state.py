"""What a run changes, and a checkpoint holds: a plain pytree."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxdistill.sharding import replicated_sharding
from jaxdistill.types import Params


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """The steps taken (an int32 scalar), the student's parameters, the optimizer's state.

    What objectives learn beside the student is in `modules`, by the names of the objectives. The
    teacher is no part of it, and neither is a random key: nothing in the step draws. The same
    tree holds shapes (`abstract_state`) and shardings (`state_shardings`).
    """

    step: Any
    params: Params
    opt_state: Any
    modules: Params = field(default_factory=dict)

    @property
    def trainable(self) -> Params:
        """All that the optimizer updates: one tree, so that its gradient has one norm."""
        return {**self.params, **self.modules}

    def with_values(self, step: Any, trainable: Params, opt_state: Any) -> "TrainState":
        """The state with other values of everything."""
        params, modules = (
            {name: trainable[name] for name in part} for part in (self.params, self.modules)
        )
        return TrainState(step, params, opt_state, modules)


def init_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    shardings: TrainState,
    modules: Params | None = None,
) -> TrainState:
    """The state before the first step, placed as `shardings` say (see `state_shardings`).

    The parameters are copied: the step donates its state, and a student that was made of its
    teacher's layers may share arrays with it.
    """

    def fresh(params: Params, modules: Params) -> TrainState:
        return _make_state(jax.tree.map(jnp.copy, params), modules, optimizer)

    return jax.jit(fresh, out_shardings=shardings)(params, modules or {})


def abstract_state(
    param_shapes: Params,
    optimizer: optax.GradientTransformation,
    shardings: TrainState,
    module_shapes: Params | None = None,
) -> TrainState:
    """The shapes, dtypes and shardings of a state, which is what a restore asks for."""
    state = jax.eval_shape(
        lambda p, m: _make_state(p, m, optimizer), param_shapes, module_shapes or {}
    )
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        shardings,
    )


def state_shardings(
    mesh: Mesh,
    param_shapes: Params,
    param_shardings: Any,
    optimizer: optax.GradientTransformation,
    module_shapes: Params | None = None,
) -> TrainState:
    """Moments lie where their parameters lie; counters and modules are everywhere."""
    everywhere = replicated_sharding(mesh)
    modules = jax.tree.map(lambda _: everywhere, module_shapes or {})
    state = jax.eval_shape(
        lambda p, m: _make_state(p, m, optimizer), param_shapes, module_shapes or {}
    )
    opt_shardings = optax.tree.map_params(
        optimizer,
        lambda _, sharding: sharding,
        state.opt_state,
        {**param_shardings, **modules},
        transform_non_params=lambda _: everywhere,
    )
    return TrainState(everywhere, param_shardings, opt_shardings, modules)


def _make_state(
    params: Params, modules: Params, optimizer: optax.GradientTransformation
) -> TrainState:
    moments = _init_opt_state(optimizer, {**params, **modules})
    return TrainState(jnp.zeros((), jnp.int32), params, moments, modules)


def _init_opt_state(optimizer: optax.GradientTransformation, params: Params) -> Any:
    """The optimizer's first state, in float32 as the gradients are, whatever the parameters."""
    return optimizer.init(jax.tree.map(lambda p: p.astype(jnp.float32), params))
