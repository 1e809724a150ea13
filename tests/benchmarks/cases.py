"""Benchmark cases: workload, peer and targets of each.

`python cases.py [CASE ...]` prints the environments and input folders that the cases need.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Case:
    """Benchmark of one workload against one peer: a row of the table.

    Attributes:
        workload: Description in the table.
        program: Program in `ours/`.
        peer: Name of the peer and of its environment in `.benchmarks/`.
        peer_program: Program in `peers/`.
        arguments: Arguments of both programs, separated by spaces.
        min_speed_ratio: Target: least speed relative to the peer; None for no target.
        max_memory_ratio: Target: most peak memory relative to the peer; None for no target.
        inputs: Folder in `.benchmarks/` that `inputs.py` writes; empty for none.
    """

    workload: str
    program: str
    peer: str
    peer_program: str
    arguments: str = ""
    min_speed_ratio: float | None = None
    max_memory_ratio: float | None = None
    inputs: str = ""


_JSD = (
    "JSD and cross-entropy through both LM heads, forward and backward, 2,048 positions, vocabulary"
)
_GENERATE = "greedy generation, SmolLM2-135M, 64 tokens, batch size"
CASES = {
    "kd_step": Case(
        workload="logit KD step, online teacher (SmolLM2-135M to 10 layers, B=4, T=256), JSD",
        program="kd_step.py",
        peer="trl",
        peer_program="trl_kd_step.py",
        arguments="jensen_shannon",
        min_speed_ratio=1.5,
        max_memory_ratio=0.5,
    ),
    "kd_step_tunix": Case(
        workload="the same step with forward KL and cross-entropy",
        program="kd_step.py",
        peer="tunix",
        peer_program="tunix_kd_step.py",
        arguments="forward_kl+cross_entropy",
        min_speed_ratio=1.5,
        max_memory_ratio=0.5,
    ),
    "feature_step": Case(
        workload="KL, cross-entropy, hidden states and attention of four layers in one such step",
        program="kd_step.py",
        peer="transformers",
        peer_program="transformers_feature_step.py",
        arguments="forward_kl+cross_entropy+hidden+attention",
        min_speed_ratio=1.5,
        max_memory_ratio=0.5,
    ),
    "start": Case(
        workload="process start to first step, quickstart models, warm compilation cache",
        program="start.py",
        peer="tunix",
        peer_program="tunix_start.py",
        arguments=".benchmarks/start",
        min_speed_ratio=1 / 0.7,
        inputs="start",
    ),
    **{
        name: Case(
            workload=f"{objective}, Gemma-3-270M to SmolLM2-135M, B=2, T=256, online teacher",
            program="cross_tokenizer_step.py",
            peer="trl",
            peer_program="trl_cross_tokenizer_step.py",
            arguments=f".benchmarks/cross_tokenizer {name}",
            min_speed_ratio=min_speed_ratio,
            max_memory_ratio=0.5,
            inputs="cross_tokenizer",
        )
        for name, objective, min_speed_ratio in (
            ("uld_top_k", "ULD with spans, top 1,024 tokens", 8.0),
            ("uld_exact", "ULD with spans, exact", 3.0),
            ("gold_top_k", "GOLD, top 1,024 tokens", 8.0),
            ("gold_exact", "GOLD, exact", 3.0),
        )
    },
    **{
        f"jsd_{vocab_size}": Case(
            workload=f"{_JSD} {vocab_size:,}",
            program="jsd.py",
            peer="liger",
            peer_program="liger_jsd.py",
            arguments=str(vocab_size),
            min_speed_ratio=2.5,
            max_memory_ratio=1.0,
        )
        for vocab_size in (49_152, 151_936)
    },
    **{
        f"jsd_{vocab_size}_compiled": Case(
            workload=f"{_JSD} {vocab_size:,}; Liger with torch.compile (its default)",
            program="jsd.py",
            peer="liger",
            peer_program="liger_jsd.py",
            arguments=f"{vocab_size} compiled",
        )
        for vocab_size in (49_152, 151_936)
    },
    **{
        f"generate_{batch_size}": Case(
            workload=f"{_GENERATE} {batch_size}",
            program="generate.py",
            peer="transformers",
            peer_program="transformers_generate.py",
            arguments=str(batch_size),
            min_speed_ratio=min_speed_ratio,
        )
        for batch_size, min_speed_ratio in ((1, 1.2), (8, 2.0), (32, 2.0))
    },
}

PLANNED = (
    ("the same KD step from a `hidden` cache", "trl, tunix", "≥ 2.2 ×"),
    ("the same KD step from a `top_k` cache", "trl, tunix", "≥ 2.5 ×"),
)
"""Cases without a program yet: workload, peers and targets."""


def parse_arguments(arguments: Sequence[str] | None = None) -> tuple[list[str], int]:
    """Return the names of the chosen cases and the number of rounds."""
    parser = argparse.ArgumentParser(
        prog="tests/benchmarks/run.sh",
        description="Compare the speed and memory of jaxdistill with those of its peers. The first "
        "run installs each peer into .benchmarks/: about 7 GB and several minutes for all of them.",
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument(
        "--rounds", type=int, default=3, help="times that each program is run (default: 3)"
    )
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.cases if name not in CASES]:
        parser.error(f"unknown case {', '.join(unknown)}: expected one of {', '.join(CASES)}")
    if options.rounds < 1:
        parser.error(f"--rounds: {options.rounds} given, expected at least 1")
    return options.cases or list(CASES), options.rounds


def find_requirements(names: Sequence[str]) -> set[str]:
    """Return the environments and input folders that the cases need."""
    cases = [CASES[name] for name in names]
    return {"ours", *(case.peer for case in cases), *(case.inputs for case in cases)} - {""}


if __name__ == "__main__":
    sys.stdout.write("\n".join(sorted(find_requirements(parse_arguments()[0]))) + "\n")
