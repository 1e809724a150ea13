"""Topologies that a program is compiled for: TPU slices by name, CPUs and GPUs by number."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies

from jaxdistill.errors import UserError, did_you_mean
from jaxdistill.plan.chips import CHIPS, CPU, Chip

_EXAMPLES = "`v5e:4x4`, `v5p:2x2x4`, `cpu:8` or `gpu:h100x8`"
_MAX_DEVICES = 256


@dataclass(frozen=True)
class Topology:
    """Devices to compile for.

    Attributes:
        name: Name as it was given.
        chip: Chip of each device.
        devices: Devices of JAX. Those of a GPU topology are CPUs: there is no compiler for GPUs
            where there is none.
    """

    name: str
    chip: Chip
    devices: Sequence[Any]

    @property
    def is_tpu(self) -> bool:
        """True if the program is compiled by the compiler of the chip."""
        return self.devices[0].platform == "tpu"


def find_topology(name: str) -> Topology:
    """Return the devices of a topology, such as `v5e:4x4`.

    Raises:
        UserError: If there is no such topology, or no compiler for it.
    """
    kind, _, shape = name.partition(":")
    if kind == "cpu":
        return Topology(name, CPU, _cpus(name, shape))
    if kind == "gpu":
        match = re.fullmatch(r"(\w+?)x([0-9]+)", shape)
        if match is None or match[1] not in ("h100", "h200"):
            raise UserError(f"--topology: {name} is not known; GPUs are `gpu:h100xN` or h200.")
        return Topology(name, CHIPS[match[1]], _cpus(name, match[2]))
    if kind not in CHIPS or not re.fullmatch(r"[0-9]+(x[0-9]+){1,2}", shape) or kind[0] != "v":
        hint = did_you_mean(kind, [*CHIPS, "cpu", "gpu"])
        raise UserError(f"--topology: {name} is not known. Write {_EXAMPLES}.{hint}")
    return Topology(name, CHIPS[kind], _tpus(name))


def reserve_cpus(names: Sequence[str]) -> None:
    """Let JAX make as many CPU devices as the topologies need, before it makes any."""
    counts = [
        int(match[1]) for name in names if (match := re.match(r"(?:cpu:|gpu:\w+x)(\d+)$", name))
    ]
    needed = max((count for count in counts if count <= _MAX_DEVICES), default=1)
    if needed > jax.config.jax_num_cpu_devices:  # pyright: ignore[reportAttributeAccessIssue]
        with suppress(RuntimeError):  # JAX has made its devices
            jax.config.update("jax_num_cpu_devices", needed)


def _cpus(name: str, count: str) -> Sequence[Any]:
    if not re.fullmatch(r"[0-9]{1,4}", count) or not 0 < int(count) <= _MAX_DEVICES:
        raise UserError(
            f"--topology: {name} is not known: expected a number of devices up to {_MAX_DEVICES}, "
            f"as in {_EXAMPLES}."
        )
    devices = jax.devices("cpu")
    if len(devices) < int(count):
        raise UserError(
            f"--topology: {name} needs {count} devices, and this process has {len(devices)}. Set "
            f"JAX_NUM_CPU_DEVICES={count} before it starts."
        )
    return devices[: int(count)]


def _tpus(name: str) -> Sequence[Any]:
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU to ask
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nor one that others could use
    try:
        with silent_stderr():
            return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except (RuntimeError, ValueError) as error:
        message = str(error).splitlines()[0]
        if "not installed" in message or "libtpu" in message:
            raise UserError(
                f"--topology: {name} needs the compiler of TPUs. Install it with "
                "`pip install 'jaxdistill[tpu]'`; no TPU is needed."
            ) from None
        raise UserError(
            f"--topology: {name} is refused by the compiler ({message}). Take the shape of a "
            f"slice, such as {_EXAMPLES}."
        ) from None


@contextmanager
def silent_stderr(is_silent: bool = True) -> Iterator[None]:
    """Keep away what the compiler of TPUs writes about a TPU that is not there."""
    if not is_silent:
        yield
        return
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
