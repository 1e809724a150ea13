"""A plan as text."""

from dataclasses import replace

from jaxdistill.plan.estimate import Flops, Plan
from jaxdistill.plan.text import describe

PLAN = Plan(
    topology="v5e:4x4",
    mesh={"data": 1, "fsdp": 16, "tensor": 1},
    sequences_per_chip=2,
    fits=True,
    hbm_bytes={"parameters": 10**9, "temporaries": 8 * 10**9, "total": 9 * 10**9},
    hbm_limit_bytes=16 * 10**9,
    temporaries_bytes=8 * 10**9,
    loss_temporaries_bytes=5 * 10**7,
    flops=Flops(8e13, 9e13),
    seconds={"matrix products": 0.6, "memory": 0.1, "links": 0.2},
    tokens_per_second_per_chip=1000.0,
    estimated_mfu=0.65,
    collectives=(
        {"kind": "all-gather", "axes": "fsdp", "num_bytes": 2e9, "source": "a/sharding_constraint"},
        {"kind": "all-reduce", "axes": "fsdp", "num_bytes": 1e9, "source": "step/reduce_sum"},
    ),
)


def test_the_best_plan_is_described_and_all_are_compared():
    too_large = replace(PLAN, topology="v5e:2x2", fits=False, tokens_per_second_per_chip=None)
    text = describe([PLAN, too_large], largest=4, price=3.6)
    for part in (
        "v5e:4x4 (data 1, fsdp 16, tensor 1), 2 sequence(s) a chip",
        "fits, 9.00 GB of 16.00 GB: parameters 1.00 GB, temporaries 8.00 GB",
        "50.00 MB of temporaries by itself",
        "80.0 TFLOP a chip and step, 90.0 with rematerialisation",
        "matrix products take the longest",
        "1,000 tokens/s a chip, MFU 65%",
        "1,000.00 a billion tokens at 3.6 a chip and hour",
        "3.00 GB sent by a chip in each step",
        "2.00 GB  LM head (all-gather over fsdp)",
        "1.00 GB  optimizer and metrics (all-reduce over fsdp)",
        "4 sequence(s) a chip fit",
        "too large, 9.00 GB of 16.00 GB",
    ):
        assert part in text
