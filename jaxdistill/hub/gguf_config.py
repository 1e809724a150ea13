"""The metadata of a GGUF file as the `config.json` of the model that it was made from.

llama.cpp leaves out of the file what it knows of an architecture; what is left out is filled in
here, with its name for it in a comment.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxdistill.errors import UserError
from jaxdistill.hub.tensors import LazyTensor

Metadata = Mapping[str, Any]
Tensors = Mapping[str, LazyTensor]


def gguf_to_hf_config(metadata: Metadata, tensors: Tensors) -> dict[str, Any]:
    """What `config.json` would say.

    Args:
        metadata: The file's keys and values.
        tensors: Its tensors by their GGUF names: some facts are told only by what is there.

    Raises:
        UserError: The architecture is not one of ours, or a key is missing that it needs.
    """
    architecture = metadata["general.architecture"]
    if architecture not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise UserError(f"general.architecture: `{architecture}` is not one of {known}.")
    prefix = f"{architecture}."
    own = {key.removeprefix(prefix): metadata[key] for key in metadata if key.startswith(prefix)}
    try:
        specific = _ARCHITECTURES[architecture](own, tensors)
        config = specific | {
            "vocab_size": tensors["token_embd.weight"].shape[0],
            "tie_word_embeddings": "output.weight" not in tensors,
            "dtype": "float32",
        }
    except KeyError as error:
        raise UserError(f"{architecture}: the file has no {error.args[0]}.") from None
    return config | _special_token_ids(metadata)


def _special_token_ids(metadata: Metadata) -> dict[str, int]:
    names = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    keys = {name: f"tokenizer.ggml.{short}_token_id" for name, short in names.items()}
    return {name: metadata[key] for name, key in keys.items() if key in metadata}


def _common_config(arch: Metadata) -> dict[str, Any]:
    """What all but GPT-2 call by the same names."""
    heads = arch["attention.head_count"]
    return {
        "hidden_size": arch["embedding_length"],
        "intermediate_size": arch["feed_forward_length"],
        "num_hidden_layers": arch["block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": arch.get("attention.head_count_kv", heads),
        "head_dim": arch.get("attention.key_length", arch["embedding_length"] // heads),
        "rms_norm_eps": arch["attention.layer_norm_rms_epsilon"],
        "max_position_embeddings": arch["context_length"],
        "rope_theta": arch.get("rope.freq_base", 10000.0),
    }


def _llama(arch: Metadata, tensors: Tensors) -> dict[str, Any]:
    if arch.get("expert_count", 0):
        raise UserError("llama.expert_count: mixtures of experts are not supported.")
    config = _common_config(arch) | {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_act": "silu",
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
    }
    if "rope_freqs.weight" in tensors:
        config["rope_scaling"] = _llama3_rope_scaling(tensors["rope_freqs.weight"], config)
    elif scaling := _rope_scaling(arch):
        config["rope_scaling"] = scaling
    return config


def _qwen2(arch: Metadata, tensors: Tensors) -> dict[str, Any]:
    config = _common_config(arch) | {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_act": "silu",
        "use_sliding_window": False,
    }
    if scaling := _rope_scaling(arch):
        config["rope_scaling"] = scaling
    return config


def _gemma3(arch: Metadata, tensors: Tensors) -> dict[str, Any]:
    transformer = _common_config(arch)
    layers = arch["block_count"]
    # LLM_TYPE_27B is the only size whose queries are scaled by the width over the heads.
    is_27b = layers == 62
    query_scalar = arch["embedding_length"] // arch["attention.head_count"]
    config = transformer | {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": query_scalar if is_27b else transformer["head_dim"],
        "rope_theta": arch.get("rope.freq_base", 1_000_000.0),
        # rope_freq_base_train_swa
        "rope_local_base_freq": 10000.0,
        "sliding_window": arch["attention.sliding_window"],
        # set_swa_pattern(6)
        "layer_types": [
            "full_attention" if layer % 6 == 5 else "sliding_attention" for layer in range(layers)
        ],
        "attn_logit_softcapping": None,
        "final_logit_softcapping": arch.get("final_logit_softcapping"),
    }
    if scaling := _rope_scaling(arch):
        config["rope_scaling"] = scaling
    return config


def _gpt2(arch: Metadata, tensors: Tensors) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": arch["embedding_length"],
        "n_inner": arch["feed_forward_length"],
        "n_layer": arch["block_count"],
        "n_head": arch["attention.head_count"],
        "n_positions": arch["context_length"],
        "layer_norm_epsilon": arch["attention.layer_norm_epsilon"],
        "activation_function": "gelu_new",
    }


_ARCHITECTURES: dict[str, Callable[[Metadata, Tensors], dict[str, Any]]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "gemma3": _gemma3,
    "gpt2": _gpt2,
}


def _rope_scaling(arch: Metadata) -> dict[str, Any] | None:
    kind = arch.get("rope.scaling.type", "none")
    if kind == "none":
        return None
    scaling = {"rope_type": kind, "factor": arch["rope.scaling.factor"]}
    if "rope.scaling.original_context_length" in arch:
        length = arch["rope.scaling.original_context_length"]
        scaling["original_max_position_embeddings"] = length
    return scaling


def _llama3_rope_scaling(freq_factors: LazyTensor, config: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers behind the factors of Llama 3's stretched frequencies.

    A GGUF file has only the factors, one for each pair of channels. All of Llama 3.1 to 3.3 share
    the other three numbers; the factors that these give are compared with the stored ones.
    """
    factors = freq_factors.read()
    factor = float(factors.max())
    low, high, original = 1.0, 4.0, 8192
    channels = np.arange(0, config["head_dim"], 2) / config["head_dim"]
    rotations = original / (2 * np.pi * config["rope_theta"] ** channels)
    smooth = np.clip((rotations - low) / (high - low), 0, 1)
    if not np.allclose(factors, 1 / ((1 - smooth) / factor + smooth), rtol=1e-3):
        raise UserError("rope_freqs.weight: these are not the factors of Llama 3.1, 3.2 or 3.3.")
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }
