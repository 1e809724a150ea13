"""The training step of a run, compiled for devices that need not be there, and its memory."""

import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import data
from jaxdistill.errors import UserError
from jaxdistill.objectives import CombinedLoss
from jaxdistill.objectives.base import joint_taps, objective_names
from jaxdistill.plan.hlo import Collective, list_collectives
from jaxdistill.plan.topology import Topology, silent_stderr
from jaxdistill.run import build
from jaxdistill.run.config import RunConfig
from jaxdistill.run.inspection import Inspection
from jaxdistill.sharding import (
    batch_sharding,
    named_shardings,
    num_batch_shards,
    replicated_sharding,
)
from jaxdistill.train import Frozen
from jaxdistill.types import Batch, HiddenSignal, Params

_EXCEEDED = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm", re.IGNORECASE)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Program:
    """A compiled step, in numbers; all sizes are bytes of one device.

    Attributes:
        arguments: Bytes of what the step reads, by kind.
        temporaries: Bytes of everything between, at their peak.
        peak: Bytes in use at once: those of arguments, temporaries and results, as the compiler
            counts them.
        loss_temporaries: Temporaries of the loss alone, compiled by itself; None if it was not
            asked for or does not fit.
        collectives: Exchanges of data between devices; None where the program does not fit.
    """

    arguments: Mapping[str, int]
    temporaries: int
    peak: int
    loss_temporaries: int | None
    collectives: tuple[Collective, ...] | None


def compile_program(
    config: RunConfig, inspection: Inspection, topology: Topology, *, with_loss: bool = True
) -> Program:
    """Compile the step that `jaxdistill train` would run; no array is made."""
    student = build.make_student(config, inspection)
    teacher = build.abstract_teacher(config, inspection)
    frozen = _abstract_frozen(inspection, teacher)
    batch = _abstract_batch(config, inspection)
    state = student.abstract_state
    arguments = {
        "parameters": _device_bytes((state.trainable, state.step)),
        "optimizer": _device_bytes(state.opt_state),
        "teacher": _device_bytes(teacher),
        "batch": _device_bytes((batch, frozen.objectives)),
    }
    step: Any = build.make_run_step(config, inspection, student)
    lowered = step.lower(state, frozen, batch)
    compiled = _compile(lowered, topology)
    loss = None
    if with_loss:
        lowered_loss = _lower_loss(config, inspection, student, frozen, batch)
        loss_program = _compile(lowered_loss, topology)
        if not isinstance(loss_program, int):
            loss = loss_program.memory_analysis().temp_size_in_bytes
    if isinstance(compiled, int):  # it does not fit, and this is what it would use
        return Program(arguments, compiled - sum(arguments.values()), compiled, loss, None)
    memory = compiled.memory_analysis()
    peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    peak += memory.output_size_in_bytes - memory.alias_size_in_bytes
    # The compiler leaves out arguments that are not read, and a run holds them all the same.
    peak = max(peak, sum(arguments.values()) + memory.temp_size_in_bytes)
    collectives = list_collectives(
        compiled.as_text(),
        {str(name): size for name, size in inspection.mesh.shape.items()},
        unknown_trips=_num_chunks(config, inspection),
    )
    return Program(arguments, memory.temp_size_in_bytes, peak, loss, tuple(collectives))


def _compile(lowered: Any, topology: Topology) -> Any:
    """Return the compiled program, or the bytes that it would use where that is too much."""
    try:
        # Programs for a TPU that is not there cannot be read back from the cache of programs.
        with warnings.catch_warnings(action="ignore"), silent_stderr(topology.is_tpu):
            return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if (match := _EXCEEDED.search(str(error))) is None:
            message = str(error).splitlines()[0]
            raise UserError(f"{topology.name}: the compiler refuses the step: {message}") from None
        return int(float(match[1]) * _UNITS[match[2].upper()])


def _lower_loss(
    config: RunConfig, inspection: Inspection, student: build.Student, frozen: Frozen, batch: Batch
) -> Any:
    """Lower the loss and its gradients, given the signals of both models."""
    own_taps, teacher_taps = joint_taps(inspection.objectives)
    mesh, state = inspection.mesh, student.abstract_state
    micro_batch = jax.tree.map(
        lambda leaf: _abstract(
            (leaf.shape[0] // config.train.accumulate, *leaf.shape[1:]), leaf.dtype, leaf.sharding
        ),
        batch,
    )

    def sharded(signal: HiddenSignal) -> HiddenSignal:
        """Split what has positions over the batch, and the LM head as a step has it."""
        shardings = {
            "hidden": batch_sharding(mesh),
            "taps": batch_sharding(mesh),
            "matrix": named_shardings(mesh, ("vocab", None), signal.lm_head.matrix),
        }

        def place(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
            names = [getattr(key, "name", "") for key in path]
            kind = "matrix" if names[:2] == ["lm_head", "matrix"] else names[0]
            sharding = shardings.get(kind, replicated_sharding(mesh))
            return _abstract(leaf.shape, leaf.dtype, sharding)

        return jax.tree_util.tree_map_with_path(place, signal)

    def signal(function: Callable[..., Any], params: Any) -> HiddenSignal:
        return sharded(jax.eval_shape(function, params, micro_batch))

    own = signal(lambda p, b: student.signal(p, b, taps=own_taps), state.params)
    teacher_signal = build.make_teacher_signal(inspection, teacher_taps)
    other = None if teacher_signal is None else signal(teacher_signal, frozen.teacher)
    combined = CombinedLoss(
        inspection.objectives,
        num_shards=num_batch_shards(mesh),
        chunk_size=config.train.chunk_rows,
    )
    ones = {name: jnp.float32(1) for name in objective_names(inspection.objectives)}

    def loss(hidden: Any, matrix: Any, own: Any, other: Any, batch: Batch, *frozen: Any) -> Any:
        own = replace(own, hidden=hidden, lm_head=replace(own.lm_head, matrix=matrix))
        value, _ = combined(
            frozen[0],
            own,
            other,
            batch,
            frozen=frozen[1],
            weights=ones,
            denominators=combined.denominators(batch),
        )
        return value

    inputs = own.hidden, own.lm_head.matrix, own, other, micro_batch
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))
    return gradient.lower(*inputs, state.modules, frozen.objectives)


def _abstract_batch(config: RunConfig, inspection: Inspection) -> Batch:
    sharding = batch_sharding(inspection.mesh)
    size = config.train.batch_size
    one = data.padding_batch(
        config.data.length, 1, has_teacher_view=inspection.teacher_view is not None
    )
    return jax.tree.map(lambda leaf: _abstract((size, *leaf.shape[1:]), leaf.dtype, sharding), one)


def _abstract_frozen(inspection: Inspection, teacher: Params | None) -> Frozen:
    replicated, shapes = replicated_sharding(inspection.mesh), {}
    for name, one in zip(
        objective_names(inspection.objectives), inspection.objectives, strict=True
    ):
        if inspection.teacher is not None:
            shapes[name] = one.frozen_shapes(*inspection.widths)
    objectives = jax.tree.map(
        lambda leaf: _abstract(leaf.shape, leaf.dtype, replicated),
        {name: own for name, own in shapes.items() if own},
    )
    return Frozen(teacher, objectives)


def _num_chunks(config: RunConfig, inspection: Inspection) -> int:
    """Count the chunks of a micro-batch on each device, if all positions are scored."""
    sequences = config.train.batch_size // config.train.accumulate
    positions = sequences // num_batch_shards(inspection.mesh) * config.data.length
    return math.ceil(positions / config.train.chunk_rows)


def _abstract(shape: tuple[int, ...], dtype: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def _device_bytes(tree: Any) -> int:
    """Return the bytes of the arrays of a tree on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
    )
