"""Write golden_trl.json: TRL's `generalized_jsd_loss` per position, with its gradient.

Run where TRL is installed (1.16.0 made the committed file; our own tests need only the JSON):
`pip install torch==2.13.0 trl && python tests/objectives/golden_trl.py`.
"""

import json
from pathlib import Path

import torch
from trl.experimental.gkd import GKDTrainer

POSITIONS, VOCAB_SIZE = 3, 7


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    student = 3 * torch.randn(POSITIONS, VOCAB_SIZE, generator=generator, dtype=torch.float64)
    teacher = 3 * torch.randn(POSITIONS, VOCAB_SIZE, generator=generator, dtype=torch.float64)
    cases = []
    for beta in (0.0, 0.1, 0.5, 0.9, 1.0):
        for temperature in (1.0, 2.0):
            logits = student.clone().requires_grad_()
            values = GKDTrainer.generalized_jsd_loss(
                logits[None], teacher[None], beta=beta, temperature=temperature, reduction="none"
            )
            values.sum().backward()
            cases.append(
                {
                    "beta": beta,
                    "temperature": temperature,
                    "values": values[0].sum(-1).tolist(),
                    "gradient": logits.grad.tolist(),
                }
            )
    golden = {"student": student.tolist(), "teacher": teacher.tolist(), "cases": cases}
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
