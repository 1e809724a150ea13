"""Cost of a step on a chip: memory against its limit, operations, and a roofline of its time."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jax.numpy as jnp

from jaxdistill.evals import num_parameters
from jaxdistill.models import LanguageModel
from jaxdistill.plan.chips import Chip
from jaxdistill.plan.program import Program
from jaxdistill.plan.topology import Topology
from jaxdistill.run.config import RunConfig
from jaxdistill.run.inspection import Inspection
from jaxdistill.sharding import num_batch_shards

MATRIX_EFFICIENCY = 0.7
"""Assumed share of the stated speed that matrix products reach."""

_LOGIT_PASSES = 3
"""Assumed times that the logits of a chunk pass through memory, for each model."""


@dataclass(frozen=True)
class Flops:
    """Operations of a step on one device.

    Attributes:
        model: Those of the method: a forward pass of the teacher, and three of the student.
        executed: Those that the program computes: with rematerialisation, some of them twice.
    """

    model: float
    executed: float


@dataclass(frozen=True)
class Plan:
    """A run on a topology.

    Attributes:
        topology: Name of the topology.
        mesh: Number of devices along each mesh axis.
        sequences_per_chip: Sequences of a micro-batch on each device.
        fits: True if it fits; None where the memory of a device is not known.
        hbm_bytes: Bytes of a device by kind, and `total`.
        hbm_limit_bytes: Bytes that a device has.
        seconds: Time of a step by what takes it, if nothing else did; empty if not known.
        collectives: Exchanges of data, largest first.
    """

    topology: str
    mesh: Mapping[str, int]
    sequences_per_chip: int
    fits: bool | None
    hbm_bytes: Mapping[str, int]
    hbm_limit_bytes: int | None
    temporaries_bytes: int
    loss_temporaries_bytes: int | None
    flops: Flops
    seconds: Mapping[str, float]
    tokens_per_second_per_chip: float | None
    estimated_mfu: float | None
    collectives: tuple[Mapping[str, Any], ...]

    @property
    def bound(self) -> str:
        """Name of the longest time in `seconds`."""
        return max(self.seconds, key=lambda name: self.seconds[name], default="")

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def estimate(
    config: RunConfig, inspection: Inspection, topology: Topology, program: Program
) -> Plan:
    """Compare a compiled step with the chips of a topology."""
    chip, mesh = topology.chip, inspection.mesh
    total = program.peak
    fits = None if chip.hbm_bytes is None else total <= chip.hbm_bytes
    if program.collectives is None:
        fits = False
    flops = count_flops(config, inspection)
    # Another compiler's exchanges say nothing about a GPU.
    collectives = (program.collectives or ()) if topology.is_tpu else ()
    sent = sum(one.num_bytes for one in collectives)
    is_timed = fits and topology.is_tpu
    seconds = _seconds(config, inspection, chip, program, flops, sent) if is_timed else {}
    tokens = config.train.batch_size * config.data.length / mesh.size
    step = max(seconds.values(), default=0.0)
    return Plan(
        topology=topology.name,
        mesh={str(name): size for name, size in mesh.shape.items()},
        sequences_per_chip=config.train.batch_size
        // (config.train.accumulate * num_batch_shards(mesh)),
        fits=fits,
        hbm_bytes={**program.arguments, "temporaries": program.temporaries, "total": total},
        hbm_limit_bytes=chip.hbm_bytes,
        temporaries_bytes=program.temporaries,
        loss_temporaries_bytes=program.loss_temporaries,
        flops=flops,
        seconds=seconds,
        tokens_per_second_per_chip=tokens / step if step else None,
        estimated_mfu=flops.model / chip.flops / step if step and chip.flops else None,
        collectives=tuple(map(asdict, collectives)),
    )


def count_flops(config: RunConfig, inspection: Inspection) -> Flops:
    """Count the operations of a step on one device, if every position is scored.

    Those of `train.balance` are not counted.
    """
    length, sequences = config.data.length, config.train.batch_size
    share = sequences / inspection.mesh.size
    student = inspection.student_model
    forward = student.forward_flops(length)
    head = 2 * length * student.widths.hidden * student.vocab_size
    model = 3 * (forward + head)
    if any(objective.needs_teacher for objective in inspection.objectives):
        teacher = inspection.teacher_model
        model += teacher.forward_flops(length)
        model += 2 * length * teacher.widths.hidden * teacher.vocab_size
    again = forward if config.train.remat == "layers" else 0
    return Flops(model * share, (model + again) * share)


def _seconds(
    config: RunConfig,
    inspection: Inspection,
    chip: Chip,
    program: Program,
    flops: Flops,
    sent: float,
) -> dict[str, float]:
    if chip.flops is None or chip.hbm_bandwidth is None or chip.link_bandwidth is None:
        return {}
    return {
        "matrix products": flops.executed / (MATRIX_EFFICIENCY * chip.flops),
        "memory": _traffic(config, inspection, program) / chip.hbm_bandwidth,
        "links": sent / chip.link_bandwidth,
    }


def _traffic(config: RunConfig, inspection: Inspection, program: Program) -> float:
    """Return the bytes that a step reads from and writes to the memory of a device.

    Weights are read whole by every device in each micro-batch, the student's three times; the
    state of the optimizer is read and written; temporaries are written and read; so are logits.
    """
    mesh = inspection.mesh
    weights = 3 * _weight_bytes(inspection.student_model, config.student.compute_dtype)
    if inspection.teacher is not None and config.teacher is not None:
        weights += _weight_bytes(inspection.teacher_model, config.teacher.dtype)
    weights *= config.train.accumulate / mesh.shape["tensor"]
    state = 2 * (program.arguments["parameters"] + program.arguments["optimizer"])
    positions = config.train.batch_size * config.data.length / num_batch_shards(mesh)
    vocab = inspection.student_model.vocab_size
    if inspection.teacher is not None:
        vocab += inspection.teacher_model.vocab_size
    logits = positions * vocab / mesh.shape["tensor"] * 4 * _LOGIT_PASSES
    return weights + state + 2 * program.temporaries * config.train.accumulate + logits


def _weight_bytes(model: LanguageModel, dtype: str) -> float:
    return float(num_parameters(model.abstract_params()) * jnp.dtype(dtype).itemsize)
