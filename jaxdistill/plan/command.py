"""`jaxdistill plan`: a run on topologies and meshes, before a chip is rented."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jaxdistill import data
from jaxdistill.errors import UserError
from jaxdistill.plan.estimate import Plan, estimate
from jaxdistill.plan.program import compile_program
from jaxdistill.plan.topology import Topology, find_topology, reserve_cpus
from jaxdistill.run.check import inspect, inspect_rows
from jaxdistill.run.config import RunConfig
from jaxdistill.sharding import MESH_AXES, MeshConfig, make_mesh, num_batch_shards

MAX_SEQUENCES = 64
"""Largest number of sequences a chip that is tried."""


def make_plans(
    config: RunConfig, topology_names: Sequence[str], meshes: Sequence[MeshConfig]
) -> list[Plan]:
    """Plan a run on each topology with each mesh, best first; the config's mesh if none is given.

    Raises:
        UserError: If a topology does not exist, or the run does not suit a mesh.
    """
    reserve_cpus(topology_names)
    topologies = [find_topology(name) for name in topology_names]
    plans = [
        make_plan(replace(config, mesh=mesh), topology)
        for topology in topologies
        for mesh in meshes or [config.mesh]
    ]

    def rank(plan: Plan) -> tuple[bool, float, int]:
        speed = plan.tokens_per_second_per_chip or 0.0
        return plan.fits is False, -speed, plan.hbm_bytes["total"]

    return sorted(plans, key=rank)


def make_plan(config: RunConfig, topology: Topology, *, with_loss: bool = True) -> Plan:
    """Plan a run on a topology."""
    inspection = inspect(config, topology.devices)
    # A teacher that reads the rows in other tokens has a view of its own in the batch.
    inspection = inspect_rows(config, inspection, data.read_split(config.data))
    program = compile_program(config, inspection, topology, with_loss=with_loss)
    return estimate(config, inspection, topology, program)


def check_searchable(topology_names: Sequence[str]) -> None:
    """Raise UserError if what fits a device of a topology cannot be known."""
    reserve_cpus(topology_names)
    for name in topology_names:
        if find_topology(name).chip.hbm_bytes is None:
            raise UserError(f"--search: the memory of a device of {name} is not known.")


def largest_micro_batch(config: RunConfig, plan: Plan) -> int:
    """Return the most sequences a device that fit in a micro-batch: 1, 2, 4, … are tried.

    Topology and mesh are those of a plan.
    """
    config = replace(config, mesh=MeshConfig(**plan.mesh))
    topology = find_topology(plan.topology)
    shards = num_batch_shards(make_mesh(config.mesh, topology.devices))
    largest, size = 0, 1
    while size <= MAX_SEQUENCES:
        train = replace(config.train, batch_size=size * shards, accumulate=1)
        if not make_plan(replace(config, train=train), topology, with_loss=False).fits:
            break
        largest, size = size, 2 * size
    return largest


def parse_mesh(text: str) -> MeshConfig:
    """Read a mesh such as `fsdp=8,tensor=2`; axes that are not named have one device."""
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, _, size = part.partition("=")
        if name not in MESH_AXES or name in sizes or not re.fullmatch(r"-1|[1-9][0-9]*", size):
            raise UserError(
                f"--mesh: {text!r} is not a mesh. Write sizes of {', '.join(MESH_AXES)}, as in "
                "`fsdp=8,tensor=2`."
            )
        sizes[name] = int(size)
    return MeshConfig(**{**dict.fromkeys(MESH_AXES, 1), **sizes})


def to_json(plans: Sequence[Plan], largest: int | None) -> dict[str, Any]:
    """Return the best plan, the largest micro-batch if it was searched, and all plans."""
    best = plans[0].to_dict()
    if largest is not None:
        best["largest_micro_batch"] = largest
    return {**best, "plans": [one.to_dict() for one in plans]} if len(plans) > 1 else best
