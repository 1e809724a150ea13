"""A plan as text: memory, time, and exchanges by what they are for."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from jaxdistill.plan.command import MAX_SEQUENCES
from jaxdistill.plan.estimate import MATRIX_EFFICIENCY, Plan

_MAX_COLLECTIVES = 8


def describe(
    plans: Sequence[Plan], *, largest: int | None = None, price: float | None = None
) -> str:
    """Describe the best plan, and compare all of them; `price` is that of a chip and hour."""
    lines = list(_describe(plans[0], price))
    if largest is not None:
        lines.append(
            f"micro-batch  {largest} sequence(s) a chip fit, of the powers of 2 up to "
            f"{MAX_SEQUENCES}"
        )
    if len(plans) > 1:
        lines += ["", *_table(plans)]
    return "\n".join(lines)


def _describe(plan: Plan, price: float | None) -> Iterator[str]:
    mesh = ", ".join(f"{name} {size}" for name, size in plan.mesh.items())
    yield f"topology     {plan.topology} ({mesh}), {plan.sequences_per_chip} sequence(s) a chip"
    kinds = (
        f"{name} {_format_bytes(size)}" for name, size in plan.hbm_bytes.items() if name != "total"
    )
    yield f"memory       {_fit(plan)}: {', '.join(kinds)}"
    if plan.loss_temporaries_bytes is not None:
        yield f"loss         {_format_bytes(plan.loss_temporaries_bytes)} of temporaries by itself"
    if not plan.seconds and plan.estimated_mfu is None and not plan.collectives:
        return
    model, executed = plan.flops.model / 1e12, plan.flops.executed / 1e12
    yield f"operations   {model:,.1f} TFLOP a chip and step, {executed:,.1f} with rematerialisation"
    if plan.estimated_mfu is not None and plan.tokens_per_second_per_chip is not None:
        times = ", ".join(f"{name} {time:.3f} s" for name, time in plan.seconds.items())
        yield f"step         {times}; {plan.bound} take the longest"
        speed = f"{plan.tokens_per_second_per_chip:,.0f} tokens/s a chip"
        yield f"estimate     {speed}, MFU {plan.estimated_mfu:.0%}"
        yield (
            f"             (assumed: matrix products reach {MATRIX_EFFICIENCY:.0%} of the stated "
            "speed, and all else overlaps with the slowest; not measured)"
        )
        if price is not None:
            cost = price / 3600 / plan.tokens_per_second_per_chip * 1e9
            yield f"cost         {cost:,.2f} a billion tokens at {price:g} a chip and hour"
    yield from _collectives(plan)


def _collectives(plan: Plan) -> Iterator[str]:
    sums: dict[tuple[str, str, str], float] = defaultdict(float)
    for one in plan.collectives:
        reason = reason_of(one["kind"], one["source"])
        sums[reason, one["kind"], one["axes"]] += one["num_bytes"]
    if not sums:
        return
    yield f"exchanges    {_format_bytes(sum(sums.values()))} sent by a chip in each step"
    ordered = sorted(sums.items(), key=lambda item: -item[1])
    for (reason, kind, axes), size in ordered[:_MAX_COLLECTIVES]:
        yield f"             {_format_bytes(size):>9}  {reason} ({kind} over {axes})"


def reason_of(kind: str, source: str) -> str:
    """Say what a collective is for, by its place in the program."""
    if "jvp(jit(forward))" in source:
        owner = "student, backward" if "transpose(" in source else "student, forward"
    elif "jit(forward)" in source:
        owner = "teacher"
    elif "sharding_constraint" in source or "convert_element_type" in source:
        return "LM head"
    elif "jvp(" in source:
        return "loss and its gradient"
    else:
        return "optimizer and metrics"
    if "backward" in owner:
        return f"{owner}: weights and gradients"
    is_weight = "dot_general" in source and kind != "all-reduce"
    return f"{owner}: {'weights' if is_weight else 'activations'}"


def _table(plans: Sequence[Plan]) -> Iterator[str]:
    yield f"{'topology':<12} {'mesh':<34} {'memory':<26} {'tokens/s/chip':>13} {'MFU':>5}"
    for plan in plans:
        mesh = ", ".join(f"{name} {size}" for name, size in plan.mesh.items() if size > 1)
        speed = plan.tokens_per_second_per_chip
        mfu = "" if plan.estimated_mfu is None else f"{plan.estimated_mfu:.0%}"
        tokens = "" if speed is None else f"{speed:,.0f}"
        yield f"{plan.topology:<12} {mesh or '1':<34} {_fit(plan):<26} {tokens:>13} {mfu:>5}"


def _fit(plan: Plan) -> str:
    total = _format_bytes(plan.hbm_bytes["total"])
    if plan.hbm_limit_bytes is None:
        return total
    return (
        f"{'fits' if plan.fits else 'too large'}, {total} of {_format_bytes(plan.hbm_limit_bytes)}"
    )


def _format_bytes(size: float | int) -> str:
    return f"{size / 1e9:,.2f} GB" if size >= 1e8 else f"{size / 1e6:,.2f} MB"
