"""Peer of `ours/cross_tokenizer_step.py`: TRL's ULD loss. Arguments: FOLDER CASE.

The probabilities of a span's tokens are merged by the chain rule (`bayesian`).
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import shapes
import torch
from timing import time_repeats
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.experimental.gold.gold_trainer import ULDLoss

folder, case = Path(sys.argv[1]), sys.argv[2]
texts = [json.loads(line)["text"] for line in (folder / "rows.jsonl").read_text().splitlines()]
models, tokenizers, inputs = [], [], []
for side in ("student", "teacher"):
    models.append(AutoModelForCausalLM.from_pretrained(folder / side, dtype=torch.float32))
    tokenizer = AutoTokenizer.from_pretrained(folder / side)
    tokenizers.append(tokenizer)
    encoding = tokenizer(texts, return_offsets_mapping=True)
    length = shapes.CROSS_TOKENIZER_LENGTH + 1
    tokens = torch.tensor([token_ids[:length] for token_ids in encoding["input_ids"]])
    byte_offsets = torch.zeros(*tokens.shape, 2, dtype=torch.long)
    for index, text in enumerate(texts):
        for position, offsets in enumerate(encoding["offset_mapping"][index][:length]):
            byte_offsets[index, position] = torch.tensor(
                [len(text[:offset].encode()) for offset in offsets]
            )
    labels = tokens.clone()
    labels[:, 0] = -100
    inputs.append((tokens, labels, byte_offsets))
student, teacher = models
teacher.eval()
student.train()
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)
config = SimpleNamespace(
    uld_crossentropy_weight=0.0,
    uld_distillation_weight=1.0,
    uld_student_temperature=1.0,
    uld_teacher_temperature=1.0,
    uld_skip_student_eos=False,
    uld_skip_teacher_eos=False,
    use_extended_uld=True,
    uld_token_merge_strategy="bayesian",
    uld_use_hybrid_loss=case.startswith("gold"),
    beta=0.5,
)
uld_loss = ULDLoss(config, *tokenizers)
(tokens, labels, byte_offsets), (teacher_tokens, teacher_labels, teacher_byte_offsets) = inputs


def train_step() -> None:
    """Run one training step."""
    student_logits = student(input_ids=tokens, use_cache=False).logits
    with torch.no_grad():
        teacher_logits = teacher(input_ids=teacher_tokens, use_cache=False).logits
    loss = uld_loss(
        student_logits,
        teacher_logits,
        labels,
        teacher_labels,
        tokens,
        teacher_tokens,
        student_byte_offsets=byte_offsets,
        teacher_byte_offsets=teacher_byte_offsets,
    )
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimizer.step()


units = shapes.CROSS_TOKENIZER_BATCH_SIZE * shapes.CROSS_TOKENIZER_LENGTH
time_repeats(train_step, repeats=3, units=units)
