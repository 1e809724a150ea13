"""Train state: everything that a step changes and a checkpoint holds."""

from dataclasses import dataclass, field
from functools import partial
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
    """Number of steps taken, student parameters, optimizer state and modules of the objectives.

    It has no random key: a step draws no random numbers. The same tree also holds shapes
    (`abstract_state`) and shardings (`state_shardings`). `modules` are parameters that objectives
    train beside the student, by objective name.
    """

    step: Any
    params: Params
    opt_state: Any
    modules: Params = field(default_factory=dict)

    @property
    def trainable(self) -> Params:
        """All parameters that the optimizer updates, in one tree with one gradient norm."""
        return {**self.params, **self.modules}

    def with_values(self, step: Any, trainable: Params, opt_state: Any) -> "TrainState":
        """Return a state of the same structure with other values."""
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
    """Build the state before the first step, with the shardings of `state_shardings`.

    The parameters are copied: a step donates its state, and a student made of its teacher's layers
    may share arrays with the teacher.
    """

    def copy_and_init(params: Params, modules: Params) -> TrainState:
        return _make_state(optimizer, jax.tree.map(jnp.copy, params), modules)

    return jax.jit(copy_and_init, out_shardings=shardings)(params, modules or {})


def abstract_state(
    param_shapes: Params,
    optimizer: optax.GradientTransformation,
    shardings: TrainState,
    module_shapes: Params | None = None,
) -> TrainState:
    """Return shapes, dtypes and shardings of a state, the template of `Checkpoints.restore`."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(partial(_make_state, optimizer), param_shapes, module_shapes or {}),
        shardings,
    )


def state_shardings(
    mesh: Mesh,
    param_shapes: Params,
    param_shardings: Any,
    optimizer: optax.GradientTransformation,
    module_shapes: Params | None = None,
) -> TrainState:
    """Return the shardings of a state: moments as their parameters, all else replicated."""
    replicated = replicated_sharding(mesh)
    modules = jax.tree.map(lambda _: replicated, module_shapes or {})
    state = jax.eval_shape(partial(_make_state, optimizer), param_shapes, module_shapes or {})
    opt_shardings = optax.tree.map_params(
        optimizer,
        lambda _, sharding: sharding,
        state.opt_state,
        {**param_shardings, **modules},
        transform_non_params=lambda _: replicated,
    )
    return TrainState(replicated, param_shardings, opt_shardings, modules)


def _make_state(
    optimizer: optax.GradientTransformation, params: Params, modules: Params
) -> TrainState:
    # Moments are float32 as gradients are, whatever the dtype of the parameters.
    in_float32 = jax.tree.map(lambda p: p.astype(jnp.float32), {**params, **modules})
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(in_float32), modules)
