"""The same with `generate` of `transformers`: argument BATCH."""

import sys

import shapes
import torch
from measure import repeat
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
batch = int(sys.argv[1])
config = {name: value for name, value in shapes.CONFIG.items() if name != "model_type"}
model = LlamaForCausalLM(LlamaConfig(**config, num_hidden_layers=shapes.LAYERS)).eval()
prompts = torch.randint(0, config["vocab_size"], (batch, shapes.PROMPT))
length = {"max_new_tokens": shapes.NEW_TOKENS, "min_new_tokens": shapes.NEW_TOKENS}


def work() -> None:
    """All answers, none of which ends early."""
    with torch.inference_mode():
        mask = torch.ones_like(prompts)
        found = model.generate(
            prompts, attention_mask=mask, do_sample=False, pad_token_id=0, **length
        )
    assert found.shape[1] == shapes.PROMPT + shapes.NEW_TOKENS


repeat(work, repeats=3, units=batch * shapes.NEW_TOKENS)
