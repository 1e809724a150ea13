"""What is measured, beside whom, and the marks. `python cases.py` names what they need."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        work: What is done.
        ours: Our program.
        peer: The peer's program, and the environment that it runs in.
        argument: What both are given, with spaces between.
        speed: The mark: at least so many times the peer's; None where there is none.
        memory: At most this part of the peer's; None where there is none.
        reads: The folder in `.benchmarks` that `prepare.py` makes for it.
    """

    work: str
    ours: str
    peer: tuple[str, str]
    argument: str = ""
    speed: float | None = None
    memory: float | None = None
    reads: str = ""


_JSD = "JSD and cross-entropy through both heads, forward and backward, 2,048 rows of"
_WRITE = "greedy generation, SmolLM2-135M, 64 tokens, batch of"
CASES = {
    "kd_step": Case(
        "logit KD step, online teacher (SmolLM2-135M to 10 layers, B=4, T=256), JSD",
        "kd_step.py",
        ("trl_kd_step.py", "trl"),
        "jensen_shannon",
        speed=1.5,
        memory=0.5,
    ),
    "kd_step_tunix": Case(
        "the same step with forward KL and cross-entropy",
        "kd_step.py",
        ("tunix_kd_step.py", "tunix"),
        "forward_kl+cross_entropy",
        speed=1.5,
        memory=0.5,
    ),
    "start": Case(
        "start to the first step, quickstart's models from files, warm compilation cache",
        "start.py",
        ("tunix_start.py", "tunix"),
        ".benchmarks/start",
        speed=1 / 0.7,
        reads="start",
    ),
    **{
        name: Case(
            f"{what}, Gemma-3-270M to SmolLM2-135M, B=2, T=256, online teacher",
            "pair_step.py",
            ("trl_pair_step.py", "trl"),
            f".benchmarks/pair {name}",
            speed=speed,
            memory=0.5,
            reads="pair",
        )
        for name, what, speed in (
            ("uld_top_k", "ULD with spans, of the 1,024 likeliest words", 8.0),
            ("uld_exact", "ULD with spans, exact", 3.0),
            ("gold_top_k", "GOLD, of the 1,024 likeliest words", 8.0),
            ("gold_exact", "GOLD, exact", 3.0),
        )
    },
    **{
        f"jsd_{words}": Case(
            f"{_JSD} {words:,}",
            "jsd.py",
            ("liger_jsd.py", "liger"),
            str(words),
            speed=2.5,
            memory=1.0,
        )
        for words in (49_152, 151_936)
    },
    **{
        f"jsd_{words}_compiled": Case(
            f"{_JSD} {words:,}, beside Liger as torch.compile makes it (its default)",
            "jsd.py",
            ("liger_jsd.py", "liger"),
            f"{words} compiled",
        )
        for words in (49_152, 151_936)
    },
    **{
        f"generate_{batch}": Case(
            f"{_WRITE} {batch}",
            "generate.py",
            ("transformers_generate.py", "transformers"),
            str(batch),
            speed=speed,
        )
        for batch, speed in ((1, 1.2), (8, 2.0), (32, 2.0))
    },
}

LATER = (
    ("the same KD step from a `hidden` cache", "trl, tunix", "≥ 2.2 ×"),
    ("the same KD step from a `top_k` cache", "trl, tunix", "≥ 2.5 ×"),
    ("features, attention and logits in one step", "torch", "≥ 1.5 ×, ≤ 0.5 ×"),
)
"""What is to be measured when it is there: the work, beside whom, and the marks."""


def parse(arguments: Sequence[str] | None = None) -> tuple[list[str], int]:
    """The names of the chosen cases, and how many rounds."""
    parser = argparse.ArgumentParser(
        prog="tests/benchmarks/run.sh",
        description="Ours beside what people would use instead. The first time, each peer is "
        "installed into .benchmarks/: some 7 GB and several minutes for all of them.",
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=3, help="3, unless another is given")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.cases if name not in CASES]:
        parser.error(f"{', '.join(unknown)}: expected one of {', '.join(CASES)}")
    if options.rounds < 1:
        parser.error(f"--rounds: {options.rounds} is none")
    return options.cases or list(CASES), options.rounds


def needs(chosen: Sequence[str]) -> set[str]:
    """The environments of the cases, and the folders that they read."""
    cases = [CASES[name] for name in chosen]
    return {"ours", *(case.peer[1] for case in cases), *(case.reads for case in cases)} - {""}


if __name__ == "__main__":
    sys.stdout.write("\n".join(sorted(needs(parse()[0]))) + "\n")
