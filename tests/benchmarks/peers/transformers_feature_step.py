"""Peer of `ours/kd_step.py` with inner layers: the same joint loss in plain PyTorch."""

import shapes
import torch
from timing import time_repeats
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = {name: value for name, value in shapes.CONFIG.items() if name != "model_type"}
teacher, student = (
    LlamaForCausalLM(
        LlamaConfig(**config, num_hidden_layers=num_layers, attn_implementation="eager")
    )
    for num_layers in (shapes.NUM_LAYERS, shapes.NUM_STUDENT_LAYERS)
)
teacher.eval()
student.train()
PAIRS = [
    (layer, round(layer * shapes.NUM_LAYERS / shapes.NUM_STUDENT_LAYERS))
    for layer in (round(i * shapes.NUM_STUDENT_LAYERS / 4) for i in range(1, 5))
]
bridges = torch.nn.ModuleList(
    torch.nn.Linear(config["hidden_size"], config["hidden_size"]) for _ in PAIRS
)
parameters = [*student.parameters(), *bridges.parameters()]
optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
tokens = torch.randint(0, config["vocab_size"], (shapes.BATCH_SIZE, shapes.LENGTH + 1))
inputs, labels = tokens[:, :-1], tokens[:, 1:]
outputs = {"use_cache": False, "output_hidden_states": True, "output_attentions": True}


def train_step() -> None:
    """Run one training step."""
    own = student(input_ids=inputs, **outputs)
    with torch.no_grad():
        other = teacher(input_ids=inputs, **outputs)
    log_q, log_p = own.logits.log_softmax(-1), other.logits.log_softmax(-1)
    kl = torch.nn.functional.kl_div(
        log_q.flatten(0, 1), log_p.flatten(0, 1), log_target=True, reduction="batchmean"
    )
    cross_entropy = torch.nn.functional.nll_loss(log_q.flatten(0, 1), labels.flatten())
    hidden = attention = 0.0
    for bridge, (layer, teacher_layer) in zip(bridges, PAIRS, strict=True):
        mapped = bridge(own.hidden_states[layer])
        cosine = torch.nn.functional.cosine_similarity(
            mapped, other.hidden_states[teacher_layer], dim=-1
        )
        hidden = hidden + (1 - cosine).mean() / len(PAIRS)
        q, p = (
            output.attentions[number - 1].mean(dim=1).clamp(min=1e-12)
            for output, number in ((own, layer), (other, teacher_layer))
        )
        attention = attention + (p * (p.log() - q.log())).sum(-1).mean() / len(PAIRS)
    loss = (kl + cross_entropy + hidden + attention) / 4
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


time_repeats(train_step, repeats=5, units=shapes.BATCH_SIZE * shapes.LENGTH)
