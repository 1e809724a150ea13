"""Collectives of a compiled program, read from the text of its HLO."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

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
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclass(frozen=True)
class Collective:
    """Exchange of data between devices.

    Attributes:
        kind: Operation, such as `all-gather`.
        group_size: Number of devices that exchange.
        group_stride: Distance of neighbours of a group in the order of the devices.
        num_bytes: Bytes that a device sends in the whole program.
        source: Operation of the program that it belongs to.
    """

    kind: str
    group_size: int
    group_stride: int
    num_bytes: float
    source: str


@dataclass(frozen=True)
class _Instruction:
    name: str
    type: str
    opcode: str
    rest: str


def list_collectives(hlo: str, *, num_devices: int, unknown_trips: int = 1) -> list[Collective]:
    """Return the collectives of an optimised HLO module, those of loops times their trips.

    Loops without a constant number of trips, which are those over chunks of positions, take
    `unknown_trips`. A collective in several parts, as a TPU overlaps it with other work, counts
    once.
    """
    computations = _parse(hlo)
    trips = _trips(computations, _entry(hlo), unknown_trips)
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
            size, stride = _group(one.rest, num_devices)
            if size > 1 or kind == "collective-permute":
                sent = _sent_bytes(kind, one, max(size, 2)) * trips[name]
                sums[Collective(kind, size, stride, 0.0, _source(one.rest))] += sent
    return sorted(
        (replace(one, num_bytes=sent) for one, sent in sums.items()),
        key=lambda one: -one.num_bytes,
    )


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
        # One branch runs: the layers' kinds share the work, of which no branch is left out.
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
    shapes = [shape for shape in shapes if shape]
    is_start = one.opcode.endswith("-start")
    if kind == "collective-permute":
        return shapes[0]
    # The type of a start holds operand and result.
    total = max(shapes) if is_start else sum(shapes)
    share = (size - 1) / size
    factor = {"all-reduce": 2 * share, "reduce-scatter": size - 1}.get(kind, share)
    return total * factor


def _num_bytes(dtype: str, sizes: str) -> float:
    count = math.prod(int(size) for size in sizes.split(",") if size)
    return float(_BYTES.get(dtype, 0) * count)


def _group(rest: str, num_devices: int) -> tuple[int, int]:
    """Return the size and the stride of the groups of a collective."""
    if axes := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", rest):
        sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", axes[1])}
        used, stride, size, found = re.findall(r"'(\w+)'", axes[2]), 1, 1, 0
        for name, count in reversed(sizes.items()):
            if name in used:
                found, size = found or stride, size * count
            stride *= count
        return size, found or 1
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](T\([\d,]+\))?", rest):
        dims = [int(n) for n in iota[3].split(",")]
        return int(iota[2]), math.prod(dims[1:]) if iota[4] else 1
    if groups := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        members = [int(n) for n in groups[1].split(",") if n]
        return len(members), members[1] - members[0] if len(members) > 1 else 1
    if pairs := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", rest):
        return 2, abs(int(pairs[2]) - int(pairs[1]))
    return num_devices, 1


def _source(rest: str) -> str:
    name = re.search(r'op_name="([^"]*)"', rest)
    return name[1] if name else ""
