"""Tiny random models of every family, with their `transformers` originals."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from jaxdistill.models import FAMILIES, DecoderConfig, Family
from jaxdistill.models.decoder import forward, lm_head
from jaxdistill.types import LMHead

TIME = 24

LLAMA = {
    "model_type": "llama",
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
GEMMA = {
    **{key: LLAMA[key] for key in LLAMA if key != "rms_norm_eps"},
    "model_type": "gemma3_text",
    "head_dim": 8,
    "query_pre_attn_scalar": 12,
    "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 61,
    "n_embd": 24,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 32,
}
NEO = {
    "model_type": "gpt_neo",
    "vocab_size": 61,
    "hidden_size": 24,
    "num_layers": 4,
    "num_heads": 4,
    "max_position_embeddings": 32,
    "attention_types": [[["global", "local"], 2]],
    "window_size": 5,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}

VARIANTS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "llama-tied-one-kv-head": {**LLAMA, "tie_word_embeddings": True, "num_key_value_heads": 1},
    "llama-biases-wide-heads": {
        **LLAMA,
        "attention_bias": True,
        "mlp_bias": True,
        "head_dim": 10,
        "num_key_value_heads": None,
        "hidden_act": "gelu",
    },
    "llama-linear": {
        **LLAMA,
        "rope_scaling": {"type": "linear", "factor": 2.5},
        "rope_theta": 500.0,
    },
    "llama-llama3": {**LLAMA, "rope_scaling": LLAMA3_ROPE, "rope_theta": 500_000.0},
    "llama-yarn": {**LLAMA, "rope_parameters": {**YARN, "rope_theta": 1000.0}},
    "llama-yarn-scales": {
        **LLAMA,
        "rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.2, "beta_fast": 8},
    },
    "mistral": {**LLAMA, "model_type": "mistral", "sliding_window": 5, "head_dim": 8},
    "qwen2": {**LLAMA, "model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2-sliding": {
        **LLAMA,
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 2,
    },
    "gpt2": GPT2,
    "gpt2-inverse-layers": {
        **GPT2,
        "scale_attn_by_inverse_layer_idx": True,
        "n_inner": 36,
        "activation_function": "relu",
        "tie_word_embeddings": False,
        "reorder_and_upcast_attn": True,
    },
    "gpt2-unscaled": {**GPT2, "scale_attn_weights": False},
    "gpt_neo": NEO,
    "gpt_neo-global": {
        **NEO,
        "attention_types": [[["global"], 4]],
        "intermediate_size": 36,
        "tie_word_embeddings": False,
    },
    "gemma3": {**GEMMA, "rope_theta": 5000.0, "rope_local_base_freq": 100.0},
    "gemma3-nested": {
        **{key: GEMMA[key] for key in GEMMA if key != "layer_types"},
        "sliding_window_pattern": 3,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 2000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 70.0},
        },
        "final_logit_softcapping": 3.0,
        "tie_word_embeddings": False,
        "attention_bias": True,
    },
}

COMPUTED = [name for name in VARIANTS if name not in ("llama-linear", "llama-llama3", "llama-yarn")]
"""Variants whose logits are compared. Of those with scaled frequencies this is the one that scales
the rotation, too; `test_configs.py` compares the frequencies of all at full size."""

DISTINCT = [
    "llama-tied-one-kv-head",
    "llama-biases-wide-heads",
    "mistral",
    "qwen2-sliding",
    "gpt2-inverse-layers",
    "gpt_neo",
    "gemma3",
    "gemma3-nested",
]
"""One variant of each kind of layer; the others differ in frequencies and scales, which neither
a cache nor a selection of layers reads."""

CACHED_TOKENS = 9
"""Number of tokens that tests of a cache read at once: prompts and new tokens share a program."""


@dataclass(frozen=True)
class Case:
    """A tiny model: `hf` is its `config.json`, `original` the model of `transformers`."""

    hf: dict[str, Any]
    family: Family
    config: DecoderConfig
    original: Any
    params: dict[str, Any]

    def logits(self, tokens: np.ndarray, **changes: Any) -> np.ndarray:
        hidden = run(self.config, self.params, tokens, **changes)
        return project(lm_head(self.config, self.params), hidden)


def project(lm_head: LMHead, hidden: jax.Array) -> np.ndarray:
    logits = np.asarray(hidden) @ np.asarray(lm_head.matrix).T * lm_head.scale
    soft_cap = lm_head.soft_cap
    return logits if soft_cap is None else soft_cap * np.tanh(logits / soft_cap)


def run(config: DecoderConfig, params: Any, tokens: np.ndarray, **changes: Any) -> jax.Array:
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    inputs = {"positions": positions, "segment_ids": np.ones_like(tokens), **changes}
    return forward(config, params, tokens, **inputs).hidden


def params_of(family: Family, config: DecoderConfig, model: torch.nn.Module) -> dict[str, Any]:
    """Import by the tensor rules, as `hub` does."""
    tensors = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    tree: dict[str, Any] = {}
    for rule in family.tensor_rules(config):
        slices = [rule.to_params(tensors[name]) for _, name in rule.tensor_names(config.num_layers)]
        for path, arrays in zip(rule.paths, zip(*slices, strict=True), strict=True):
            node = tree
            for key in path[:-1]:
                node = node.setdefault(key, {})
            node[path[-1]] = jnp.asarray(np.stack(arrays) if rule.is_stacked else arrays[0])
    return tree


def tensors_of(family: Family, config: DecoderConfig, params: Any) -> dict[str, np.ndarray]:
    """Export by the tensor rules, as `hub` does."""
    tensors = {}
    for rule in family.tensor_rules(config):
        arrays = []
        for path in rule.paths:
            node = params
            for key in path:
                node = node[key]
            arrays.append(np.asarray(node))
        for layer, name in rule.tensor_names(config.num_layers):
            slices = arrays if layer is None else [array[layer] for array in arrays]
            tensors[name] = rule.to_hf_tensor(*slices)
    return tensors


@cache
def make_case(name: str) -> Case:
    hf = VARIANTS[name]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.AutoConfig.for_model(**hf), attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    family = FAMILIES[hf["model_type"]]
    config = family.decoder_config(hf)
    return Case(hf, family, config, model, params_of(family, config, model))
