"""The same with `generate` of `transformers`: argument BATCH."""

import sys

import shapes
import torch
from measure import repeat
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
batch = int(sys.argv[1])
config = {name: value for name, value in shapes.CONFIG.items() if name != "model_type"}
model = LlamaForCausalLM(LlamaConfig(**config, num_hidden_layers=shapes.LAYERS)).eval()
prompts = torch.randint(0, config["vocab_size"], (batch, shapes.PROMPT))
# No token ends an answer: asking for a least length would go over all logits at every step.
model.generation_config = GenerationConfig(
    do_sample=False, pad_token_id=0, max_new_tokens=shapes.NEW_TOKENS
)


def work() -> None:
    """All answers, none of which ends early."""
    with torch.inference_mode():
        mask = torch.ones_like(prompts)
        found = model.generate(prompts, attention_mask=mask)
    assert found.shape[1] == shapes.PROMPT + shapes.NEW_TOKENS


repeat(work, repeats=3, units=batch * shapes.NEW_TOKENS)
