"""The same step with TRL's ULD loss, merged by the chain rule: arguments FOLDER uld|gold_..."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import shapes
import torch
from measure import repeat
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.experimental.gold.gold_trainer import ULDLoss

folder, name = Path(sys.argv[1]), sys.argv[2]
texts = [json.loads(line)["text"] for line in (folder / "rows.jsonl").read_text().splitlines()]
models, inputs = [], []
for side in ("student", "teacher"):
    model = AutoModelForCausalLM.from_pretrained(folder / side, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder / side)
    read = tokenizer(texts, return_offsets_mapping=True)
    size = shapes.PAIR_LENGTH + 1
    tokens = torch.tensor([row[:size] for row in read["input_ids"]])
    offsets = torch.zeros(*tokens.shape, 2, dtype=torch.long)
    for number, text in enumerate(texts):
        for place, ends in enumerate(read["offset_mapping"][number][:size]):
            offsets[number, place] = torch.tensor([len(text[:end].encode()) for end in ends])
    labels = tokens.clone()
    labels[:, 0] = -100
    models.append((model, tokenizer))
    inputs.append((tokens, labels, offsets))
(student, _), (teacher, _) = models
teacher.eval(), student.train()
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
    uld_use_hybrid_loss=name.startswith("gold"),
    beta=0.5,
)
loss_of = ULDLoss(config, models[0][1], models[1][1])
(ids, labels, offsets), (teacher_ids, teacher_labels, teacher_offsets) = inputs


def work() -> None:
    """A step."""
    student_logits = student(input_ids=ids, use_cache=False).logits
    with torch.no_grad():
        teacher_logits = teacher(input_ids=teacher_ids, use_cache=False).logits
    loss = loss_of(
        student_logits,
        teacher_logits,
        labels,
        teacher_labels,
        ids,
        teacher_ids,
        student_byte_offsets=offsets,
        teacher_byte_offsets=teacher_offsets,
    )
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimizer.step()


repeat(work, repeats=3, units=shapes.PAIR_BATCH * shapes.PAIR_LENGTH)
