"""Write golden_trl_uld.json: TRL's `ULDLoss` over positions, spans and hybrid, and gradients.

Run where TRL is installed (1.16.0 made the committed file; our own tests need only the JSON):
`pip install torch==2.13.0 trl && python tests/objectives/golden_trl_uld.py`.

The student's completions end in a token that TRL skips; the teacher's do not, as in the paper.
"""

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import torch
from trl.experimental.gold.gold_trainer import ULDLoss

STUDENT_VOCAB_SIZE, TEACHER_VOCAB_SIZE = 7, 11
PROMPT_LENGTH = 3
EXAMPLES = [
    # Byte where each token ends; the student has one more token, which ends the text.
    {"student": [2, 3, 5, 6], "teacher": [2, 5, 6]},
    {"student": [1, 2, 3, 4, 5], "teacher": [3, 4, 5]},
    {"student": [4], "teacher": [1, 2, 3, 4]},
    {"student": [], "teacher": [2]},
]


VOCABULARIES = [{f"word {n}": n for n in range(STUDENT_VOCAB_SIZE)}]
VOCABULARIES.append({f"word {2 * n - 3}": n for n in range(TEACHER_VOCAB_SIZE)})

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
    length = PROMPT_LENGTH + 6
    logits = [
        2 * torch.randn(len(EXAMPLES), length, size, generator=generator, dtype=torch.float64)
        for size in (STUDENT_VOCAB_SIZE, TEACHER_VOCAB_SIZE)
    ]
    tokens = [
        torch.randint(0, size, (len(EXAMPLES), length), generator=generator)
        for size in (STUDENT_VOCAB_SIZE, TEACHER_VOCAB_SIZE)
    ]
    ends = [[[*one["student"], None] for one in EXAMPLES], [one["teacher"] for one in EXAMPLES]]
    labels, offsets = zip(
        *(labels_and_offsets(*model, length) for model in zip(tokens, ends, strict=True)),
        strict=True,
    )
    cases = []
    for ours, trl_options in CASES:
        student = logits[0].clone().requires_grad_()
        config = SimpleNamespace(**FIXED, **trl_options)
        tokenizers = [
            SimpleNamespace(get_vocab=lambda vocab=vocab: vocab) for vocab in VOCABULARIES
        ]
        value = ULDLoss(config, *tokenizers)(student, logits[1], *labels, *tokens, *offsets)
        value.backward()
        cases.append({"ours": ours, "value": value.item(), "gradient": student.grad.tolist()})
    golden = {
        "prompt": PROMPT_LENGTH,
        "rows": EXAMPLES,
        "tokens": [array.tolist() for array in tokens],
        "vocabularies": VOCABULARIES,
        "logits": [array.tolist() for array in logits],
        "cases": cases,
    }
    path = Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(golden) + "\n")


def labels_and_offsets(tokens, ends, length):
    """Return labels, -100 outside of the completions, and the byte range of each token."""
    labels = torch.full_like(tokens, -100)
    offsets = torch.zeros(*tokens.shape, 2, dtype=torch.long)
    for index, token_ends in enumerate(ends):
        completion = slice(PROMPT_LENGTH, PROMPT_LENGTH + len(token_ends))
        labels[index, completion] = tokens[index, completion]
        last = max(token_ends[:-1], default=0)
        bounds = [0, *(last if end is None else end for end in token_ends)]
        offsets[index, completion] = torch.tensor(list(pairwise(bounds))).reshape(-1, 2)
    return labels, offsets


if __name__ == "__main__":
    main()
