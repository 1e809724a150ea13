"""Tiny random models of every family, made and saved by `transformers`."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch
import transformers

from jaxdistill import hub

VOCAB = 320
PADDED = 336

_LLAMA = {
    "model_type": "llama",
    "vocab_size": PADDED,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 2,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _LLAMA,
    "llama_tied": {**_LLAMA, "tie_word_embeddings": True},
    "mistral": {**_LLAMA, "model_type": "mistral", "sliding_window": 5},
    "qwen2": {**_LLAMA, "model_type": "qwen2", "tie_word_embeddings": True},
    "gemma3": {
        **_LLAMA,
        "model_type": "gemma3_text",
        "num_hidden_layers": 7,
        "head_dim": 8,
        "query_pre_attn_scalar": 8,
        "sliding_window": 5,
        "rms_norm_eps": 1e-6,
    },
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": PADDED,
        "n_embd": 24,
        "n_inner": 96,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 64,
        "eos_token_id": 2,
    },
    "gpt_neo": {
        "model_type": "gpt_neo",
        "vocab_size": PADDED,
        "hidden_size": 24,
        "num_layers": 4,
        "num_heads": 4,
        "max_position_embeddings": 64,
        "attention_types": [[["global", "local"], 2]],
        "window_size": 5,
        "eos_token_id": 2,
    },
}


@cache
def hf_model(name: str) -> Any:
    return random_hf_model(CONFIGS[name])


def random_hf_model(config: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**config)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def save_hf_model(name: str, folder: Path, *, tokenizer: bool = False, **options: Any) -> Path:
    hf_model(name).save_pretrained(folder, **options)
    if tokenizer:
        tiny.tokenizer(vocab_size=VOCAB).save_pretrained(folder)
    return folder


def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, VOCAB, (2, 12))


def hf_logits(model: Any) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(tokens())).logits.float().numpy()


def jax_logits(model: hub.Pretrained) -> np.ndarray:
    ids = tokens()
    positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    output = model.language_model.forward(
        model.params, ids, positions=positions, segment_ids=np.ones_like(ids)
    )
    head = model.language_model.lm_head(model.params)
    return np.asarray(output.hidden) @ np.asarray(head.matrix).T
