"""Peer of `ours/generate.py`: `generate` of `transformers`. Argument: BATCH_SIZE."""

import sys

import shapes
import torch
from timing import time_repeats
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
batch_size = int(sys.argv[1])
config = {name: value for name, value in shapes.CONFIG.items() if name != "model_type"}
model = LlamaForCausalLM(LlamaConfig(**config, num_hidden_layers=shapes.NUM_LAYERS)).eval()
prompts = torch.randint(0, config["vocab_size"], (batch_size, shapes.PROMPT_LENGTH))
# Without an EOS token no completion ends early. `min_new_tokens` would edit all logits every step.
model.generation_config = GenerationConfig(
    do_sample=False, pad_token_id=0, max_new_tokens=shapes.MAX_NEW_TOKENS
)


def generate_completions() -> None:
    """Generate all completions; without an EOS token each has full length."""
    with torch.inference_mode():
        mask = torch.ones_like(prompts)
        sequences = model.generate(prompts, attention_mask=mask)
    assert sequences.shape[1] == shapes.PROMPT_LENGTH + shapes.MAX_NEW_TOKENS


time_repeats(generate_completions, repeats=3, units=batch_size * shapes.MAX_NEW_TOKENS)
