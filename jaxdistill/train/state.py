"""What a run changes, and a checkpoint holds: a plain pytree."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxdistill.sharding import replicated
from jaxdistill.types import Params


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """The steps taken (an int32 scalar), the student's parameters, the optimizer's state.

    The teacher is no part of it, and neither is a random key: nothing in the step draws. The same
    tree holds shapes (`abstract_state`) and shardings (`state_shardings`).
    """

    step: Any
    params: Params
    opt_state: Any


def init_state(
    params: Params, optimizer: optax.GradientTransformation, shardings: TrainState
) -> TrainState:
    """The state before the first step, placed as `shardings` say (see `state_shardings`).

    The parameters are copied: the step donates its state, and a student that was made of its
    teacher's layers may share arrays with it.
    """

    def fresh(params: Params) -> TrainState:
        copied = jax.tree.map(jnp.copy, params)
        return TrainState(jnp.zeros((), jnp.int32), copied, _moments(optimizer, params))

    return jax.jit(fresh, out_shardings=shardings)(params)


def abstract_state(
    shapes: Params, optimizer: optax.GradientTransformation, shardings: TrainState
) -> TrainState:
    """The shapes, dtypes and shardings of a state, which is what a restore asks for."""
    state = jax.eval_shape(lambda p: TrainState(jnp.int32(0), p, _moments(optimizer, p)), shapes)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        shardings,
    )


def state_shardings(
    mesh: Mesh, shapes: Params, param_shardings: Any, optimizer: optax.GradientTransformation
) -> TrainState:
    """Moments lie where their parameters lie; counters are everywhere."""
    everywhere = replicated(mesh)
    opt_shardings = optax.tree.map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(lambda p: _moments(optimizer, p), shapes),
        param_shardings,
        transform_non_params=lambda _: everywhere,
    )
    return TrainState(everywhere, param_shardings, opt_shardings)


def _moments(optimizer: optax.GradientTransformation, params: Params) -> Any:
    """The optimizer's first state, in float32 as the gradients are, whatever the parameters."""
    return optimizer.init(jax.tree.map(lambda p: p.astype(jnp.float32), params))
