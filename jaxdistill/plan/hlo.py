"""Collectives of a compiled program, read from the text of its HLO."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

_COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
)
_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_BYTES |= {"s8": 1, "u8": 1, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_BYTES |= {"f8e4m3fn": 1, "f8e5m2": 1}

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"(?:calls|to_apply|condition|body|true_computation|false_computation)=%?([\w.\-]+)"
)
_MESH_GROUPS = re.compile(
    r"replica_groups=mesh\[(?P<sizes>[^\]]*)\]"
    r"(?:, device_ids=\(\[(?P<dims>[\d,]+)\](?:T\((?P<perm>[\d,]+)\))?\))? ?\{(?P<used>[^}]*)\}"
)
_IOTA_GROUPS = re.compile(
    r"replica_groups=\[(?P<groups>\d+),(?P<size>\d+)\]<=\[(?P<dims>[\d,]+)\]"
    r"(?:T\((?P<perm>[\d,]+)\))?"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclass(frozen=True)
class Collective:
    """Exchange of data between devices.

    Attributes:
        kind: Operation, such as `all-gather`.
        axes: Mesh axes along which devices exchange, joined by `+`.
        group_size: Number of devices that exchange.
        num_bytes: Bytes that a device sends in the whole program.
        source: Operation of the program that it belongs to; "" where the compiler does not say.
    """

    kind: str
    axes: str
    group_size: int
    num_bytes: float
    source: str


@dataclass(frozen=True)
class _Instruction:
    name: str
    type: str
    opcode: str
    rest: str


def list_collectives(
    hlo: str, mesh: Mapping[str, int], *, unknown_trips: int = 1
) -> list[Collective]:
    """Return the collectives of an optimised HLO module, those of loops times their trips.

    `mesh` has the size of each mesh axis. Loops without a constant number of trips, which are those
    over chunks of positions, take `unknown_trips`. A collective in several parts, as a TPU overlaps
    it with other work, counts once.
    """
    computations = _parse(hlo)
    trips = _trips(computations, _entry(hlo), unknown_trips)
    sources = _sources_of_callers(computations)
    sums: dict[Collective, float] = defaultdict(float)
    seen: set[str] = set()
    for name, instructions in computations.items():
        for one in instructions:
            kind = one.opcode.removesuffix("-start")
            channel = re.search(r"channel_id=(\d+)", one.rest)
            if kind not in _COLLECTIVES or not trips[name]:
                continue
            if channel and channel[1] in seen:
                continue
            seen.add(channel[1] if channel else one.name)
            group = _group(one.rest, math.prod(mesh.values()))
            if len(group) < 2:
                continue
            sent = _sent_bytes(kind, one, len(group))
            if name.startswith("all-reduce-scatter"):  # how a TPU writes a reduce-scatter
                kind, sent = "reduce-scatter", sent / 2
            source = _source(one.rest) or sources.get(name, "")
            key = Collective(kind, _axes(group, mesh), len(group), 0.0, source)
            sums[key] += sent * trips[name]
    return sorted(
        (replace(one, num_bytes=sent) for one, sent in sums.items()),
        key=lambda one: -one.num_bytes,
    )


def _sources_of_callers(computations: Mapping[str, list[_Instruction]]) -> dict[str, str]:
    """Return the source of the instruction that calls each computation."""
    return {
        called: _source(one.rest)
        for instructions in computations.values()
        for one in instructions
        for called in _called(one)
    }


def _parse(hlo: str) -> dict[str, list[_Instruction]]:
    computations: dict[str, list[_Instruction]] = {}
    current: list[_Instruction] = []
    for line in hlo.splitlines():
        if line and not line[0].isspace():
            if match := _COMPUTATION.match(line):
                current = computations.setdefault(match[1], [])
        elif match := _INSTRUCTION.match(line):
            current.append(_Instruction(*match.groups()))
    return computations


def _entry(hlo: str) -> str:
    match = re.search(r"^ENTRY %?([\w.\-]+)", hlo, re.MULTILINE)
    assert match, "a module has an entry"
    return match[1]


def _trips(
    computations: Mapping[str, list[_Instruction]], entry: str, unknown_trips: int
) -> dict[str, int]:
    """Return how often each computation runs."""
    trips: dict[str, int] = defaultdict(int)

    def visit(name: str, count: int) -> None:
        trips[name] += count
        for one in computations.get(name, ()):
            times = count
            if one.opcode == "while":
                times *= _trip_count(one, computations) or unknown_trips
            for called in _called(one):
                visit(called, times)

    visit(entry, 1)
    return trips


def _called(one: _Instruction) -> Iterator[str]:
    yield from _CALLED.findall(one.rest)
    if branches := _BRANCHES.search(one.rest):
        # One branch runs; every branch counts, as if it were that one.
        yield from (name.strip().lstrip("%") for name in branches[1].split(","))


def _trip_count(one: _Instruction, computations: Mapping[str, list[_Instruction]]) -> int | None:
    """Return the trips of a while loop; None where they are known at run time only."""
    if known := re.search(r'known_trip_count[^}]*"n":"(\d+)"', one.rest):
        return int(known[1])
    condition = re.search(r"condition=%?([\w.\-]+)", one.rest)
    instructions = computations.get(condition[1], []) if condition else []
    constants = {
        other.name: int(value[1])
        for other in instructions
        if other.opcode == "constant" and (value := re.match(r"(\d+)\)", other.rest))
    }
    compares = [other for other in instructions if other.opcode in ("compare", "fusion")]
    if len(compares) != 1 or len(constants) != 1:
        return None
    index = re.search(r"index=(\d+)", _definition(instructions, "get-tuple-element"))
    body = re.search(r"body=%?([\w.\-]+)", one.rest)
    step = _step(computations.get(body[1], []), int(index[1])) if index and body else 1
    return math.ceil(next(iter(constants.values())) / step)


def _definition(instructions: Sequence[_Instruction], opcode: str) -> str:
    """Return the operands and attributes of the first instruction of this kind; "" for none."""
    return next((one.rest for one in instructions if one.opcode == opcode), "")


def _step(body: Sequence[_Instruction], index: int) -> int:
    """Return by how much a loop's body raises its counter, the item `index` of what it carries."""
    by_name = {one.name: one for one in body}

    def increment(name: str) -> int:
        one = by_name.get(name)
        if one is None:
            return 0
        if one.opcode == "constant":
            value = re.match(r"(\d+)\)", one.rest)
            return int(value[1]) if value else 0
        if one.opcode in ("add", "copy", "bitcast"):
            return sum(map(increment, _operands(one)))
        return 0

    results = _operands(body[-1]) if body and body[-1].opcode == "tuple" else []
    return increment(results[index]) or 1 if index < len(results) else 1


def _operands(one: _Instruction) -> list[str]:
    return re.findall(r"%([\w.\-]+)", one.rest.split(")")[0])


def _sent_bytes(kind: str, one: _Instruction, size: int) -> float:
    """Return the bytes that a device sends, by the algorithm of a ring."""
    shapes = [_num_bytes(*shape) for shape in _SHAPE.findall(one.type)]
    if kind == "collective-permute":
        return shapes[0]
    if one.opcode.endswith("-start") and kind != "all-reduce":
        shapes = shapes[len(shapes) // 2 :]  # operands stand before results
    share = (size - 1) / size
    factor = {"all-reduce": 2 * share, "reduce-scatter": size - 1}.get(kind, share)
    return sum(shapes) * factor


def _num_bytes(dtype: str, sizes: str) -> float:
    count = math.prod(int(size) for size in sizes.split(",") if size)
    return float(_BYTES.get(dtype, 0) * count)


def _group(rest: str, num_devices: int) -> list[int]:
    """Return the devices of the first group of a collective, in the order of the mesh."""
    if axes := _MESH_GROUPS.search(rest):
        sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", axes["sizes"])}
        devices = _iota(axes["dims"] or str(num_devices), axes["perm"])
        devices = devices.reshape(tuple(sizes.values()))
        used = set(re.findall(r"'(\w+)'", axes["used"]))
        return devices[tuple(slice(None) if name in used else 0 for name in sizes)].ravel().tolist()
    if iota := _IOTA_GROUPS.search(rest):
        devices = _iota(iota["dims"], iota["perm"])
        return devices.reshape(int(iota["groups"]), int(iota["size"]))[0].tolist()
    if groups := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return [int(n) for n in groups[1].split(",") if n]
    if pairs := re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", rest):
        numbers = [tuple(map(int, pair)) for pair in re.findall(r"\{(\d+),(\d+)\}", pairs[1])]
        moves = [pair for pair in numbers if pair[0] != pair[1]]
        return list(moves[0]) if moves else [0]
    return list(range(num_devices))


def _iota(dims: str, permutation: str | None) -> Int[np.ndarray, "..."]:
    """Return the numbers of devices, in the notation `[dims]T(permutation)`."""
    sizes = [int(n) for n in dims.split(",")]
    array = np.arange(math.prod(sizes)).reshape(sizes)
    return array.transpose([int(n) for n in permutation.split(",")]) if permutation else array


def _axes(group: Sequence[int], mesh: Mapping[str, int]) -> str:
    """Return the names of the mesh axes along which the devices of a group differ."""
    coordinates = np.stack(np.unravel_index(np.array(group), tuple(mesh.values())))
    differs = (coordinates != coordinates[:, :1]).any(axis=1)
    return "+".join(name for name, is_used in zip(mesh, differs, strict=True) if is_used)


def _source(rest: str) -> str:
    name = re.search(r'op_name="([^"]*)"', rest)
    return name[1] if name else ""
