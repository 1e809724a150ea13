"""Peer of `ours/kd_step.py`: TRL's GKD loss on `transformers` models."""

import shapes
import torch
from timing import time_repeats
from transformers import LlamaConfig, LlamaForCausalLM
from trl.experimental.gkd import GKDTrainer

torch.manual_seed(0)
config = {name: value for name, value in shapes.CONFIG.items() if name != "model_type"}
teacher, student = (
    LlamaForCausalLM(LlamaConfig(**config, num_hidden_layers=num_layers))
    for num_layers in (shapes.NUM_LAYERS, shapes.NUM_STUDENT_LAYERS)
)
teacher.eval()
student.train()
optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True)  # as in GKDTrainer
tokens = torch.randint(0, config["vocab_size"], (shapes.BATCH_SIZE, shapes.LENGTH + 1))
inputs, labels = tokens[:, :-1], tokens[:, 1:]


def train_step() -> None:
    """Run one training step."""
    student_logits = student(input_ids=inputs, use_cache=False).logits
    with torch.no_grad():
        teacher_logits = teacher(input_ids=inputs, use_cache=False).logits
    loss = GKDTrainer.generalized_jsd_loss(
        student_logits=student_logits,
        teacher_logits=teacher_logits,
        labels=labels,
        beta=shapes.BETA,
    )
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
    optimizer.step()


time_repeats(train_step, repeats=5, units=shapes.BATCH_SIZE * shapes.LENGTH)
