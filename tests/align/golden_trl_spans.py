"""Writes golden_trl_spans.json: the spans that TRL finds in random pairs of tokenizations.

Run where TRL is installed (1.16.0 made the committed file; the tests need only the JSON):
`pip install torch==2.13.0 trl && python tests/align/golden_trl_spans.py`.
"""

import json
import random
from pathlib import Path

from trl.experimental.gold.gold_trainer import ULDLoss


def main() -> None:
    random.seed(0)
    cases = []
    for _ in range(50):
        size = random.randint(1, 25)
        ends = [
            sorted({*random.sample(range(1, size + 1), random.randint(0, size)), size})
            for _ in range(2)
        ]
        if random.random() < 0.3:  # a truncated side
            ends[0] = ends[0][: random.randint(1, len(ends[0]))]
        groups = ULDLoss._align_by_byte_offsets(*([[0, end] for end in side] for side in ends))
        cases.append({"ends": ends, "groups": groups})
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    main()
