"""Writes golden_trl_uld.json: TRL's `ULDLoss` over positions, spans and hybrid, and gradients.

Run where TRL is installed (1.16.0 made the committed file; our own tests need only the JSON):
`pip install torch==2.13.0 trl && python tests/objectives/golden_trl_uld.py`.

The student's answers end in a token that TRL leaves out; the teacher's do not, as in the paper.
"""

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import torch
from trl.experimental.gold.gold_trainer import ULDLoss

STUDENT_WORDS, TEACHER_WORDS = 7, 11
PROMPT = 3
ROWS = [
    # Bytes that the tokens of each side reach; the student's last token is the end of the text.
    {"student": [2, 3, 5, 6], "teacher": [2, 5, 6]},
    {"student": [1, 2, 3, 4, 5], "teacher": [3, 4, 5]},
    {"student": [4], "teacher": [1, 2, 3, 4]},
    {"student": [], "teacher": [2]},
]


VOCABULARIES = [{f"word {n}": n for n in range(STUDENT_WORDS)}]
VOCABULARIES.append({f"word {2 * n - 3}": n for n in range(TEACHER_WORDS)})

FIXED = {
    "uld_crossentropy_weight": 0.0,
    "uld_distillation_weight": 1.0,
    "uld_student_temperature": 1.0,
    "uld_teacher_temperature": 1.0,
    "uld_skip_student_eos": True,
    "uld_skip_teacher_eos": False,
    "uld_token_merge_strategy": "bayesian",
}
HYBRID = {"use_extended_uld": True, "uld_use_hybrid_loss": True}
CASES = [
    ({"type": "uld"}, {"use_extended_uld": False}),
    ({"type": "uld", "align": "spans"}, {"use_extended_uld": True}),
    ({"type": "gold", "shared": "vocabulary"}, {**HYBRID, "beta": 0.5}),
    (
        {"type": "gold", "shared": 0.3, "beta": 0.1},
        {
            **HYBRID,
            "beta": 0.1,
            "uld_hybrid_matched_weight": 0.3,
            "uld_hybrid_unmatched_weight": 0.7,
        },
    ),
]


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    length = PROMPT + 6
    logits = [
        2 * torch.randn(len(ROWS), length, words, generator=generator, dtype=torch.float64)
        for words in (STUDENT_WORDS, TEACHER_WORDS)
    ]
    tokens = [
        torch.randint(0, words, (len(ROWS), length), generator=generator)
        for words in (STUDENT_WORDS, TEACHER_WORDS)
    ]
    ends = [[[*row["student"], None] for row in ROWS], [row["teacher"] for row in ROWS]]
    labels, offsets = zip(
        *(laid_out(*side, length) for side in zip(tokens, ends, strict=True)), strict=True
    )
    cases = []
    for ours, theirs in CASES:
        student = logits[0].clone().requires_grad_()
        config = SimpleNamespace(**FIXED, **theirs)
        tokenizers = [
            SimpleNamespace(get_vocab=lambda words=words: words) for words in VOCABULARIES
        ]
        value = ULDLoss(config, *tokenizers)(student, logits[1], *labels, *tokens, *offsets)
        value.backward()
        cases.append({"ours": ours, "value": value.item(), "gradient": student.grad.tolist()})
    golden = {
        "prompt": PROMPT,
        "rows": ROWS,
        "tokens": [side.tolist() for side in tokens],
        "vocabularies": VOCABULARIES,
        "logits": [side.tolist() for side in logits],
        "cases": cases,
    }
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(golden) + "\n")


def laid_out(tokens, ends, length):
    """Labels, -100 outside of the answers, and the bytes between which each token lies."""
    labels = torch.full_like(tokens, -100)
    offsets = torch.zeros(*tokens.shape, 2, dtype=torch.long)
    for number, reached in enumerate(ends):
        here = slice(PROMPT, PROMPT + len(reached))
        labels[number, here] = tokens[number, here]
        whole = [0, *(end if end is not None else max(reached[:-1], default=0) for end in reached)]
        offsets[number, here] = torch.tensor(list(pairwise(whole))).reshape(-1, 2)
    return labels, offsets


if __name__ == "__main__":
    main()
