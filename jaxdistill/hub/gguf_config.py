"""Metadata of GGUF files from and to the `config.json` of the same model.

llama.cpp knows parts of an architecture that a file does not store. They are filled in here, with
llama.cpp's name in a comment.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxdistill.errors import UserError
from jaxdistill.hub.gguf_special_tokens import special_token_ids
from jaxdistill.hub.tensors import LazyTensor
from jaxdistill.models import FAMILIES, DecoderModel
from jaxdistill.models.config import Rope, RopeKind

Metadata = Mapping[str, Any]
Tensors = Mapping[str, LazyTensor]

ROPE_FACTORS_NAME = "rope_freqs.weight"
"""GGUF tensor with the factors by which Llama 3 stretches its frequencies."""

# llama.cpp's key without the architecture in front, and the key of config.json. Read both ways.
_LLAMA_KEYS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
_GEMMA3_KEYS = {
    **_LLAMA_KEYS,
    "attention.sliding_window": "sliding_window",
    "final_logit_softcapping": "final_logit_softcapping",
}
_GPT2_KEYS = {
    "block_count": "n_layer",
    "context_length": "n_positions",
    "embedding_length": "n_embd",
    "feed_forward_length": "n_inner",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}


def gguf_to_hf_config(metadata: Metadata, tensors: Tensors) -> dict[str, Any]:
    """Return the `config.json` of the model in a GGUF file.

    Some settings show only in the presence of tensors, given by their GGUF names.

    Raises:
        UserError: The architecture is not supported, or lacks a key that it needs.
    """
    name = metadata["general.architecture"]
    if name not in ARCHITECTURES:
        raise UserError(f"general.architecture: `{name}` is not one of {', '.join(ARCHITECTURES)}.")
    model_types, keys, constants, read = ARCHITECTURES[name]
    prefix = f"{name}."
    values = {key.removeprefix(prefix): metadata[key] for key in metadata if key.startswith(prefix)}
    try:
        values = _optional_values(name, values) | values
        config = {hf_key: values[key] for key, hf_key in keys.items()}
        config |= {
            "model_type": model_types[0],
            "architectures": [FAMILIES[model_types[0]].model_types[model_types[0]]],
            **constants,
            **read(values, tensors),
            **_read_rope_scaling(values, tensors, config),
        }
        vocab_size = tensors["token_embd.weight"].shape[0]
    except KeyError as error:
        raise UserError(f"{name}: the file has no {error.args[0]}.") from None
    return config | {
        "vocab_size": vocab_size,
        "tie_word_embeddings": "output.weight" not in tensors,
        "dtype": "float32",
        **special_token_ids(metadata),
    }


def hf_config_to_gguf(
    name: str, model: DecoderModel, hf_config: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the metadata of a model as llama.cpp's converter writes them.

    `name` is llama.cpp's name of the architecture, `hf_config` the `config.json` of `model`.
    """
    config, rope = model.config, _full_attention_rope(model)
    hf_values = {**hf_config, "rope_theta": rope.base if rope else None}
    values = {key: hf_values[hf_key] for key, hf_key in ARCHITECTURES[name].keys.items()}
    if name == "gemma3":
        values["attention.value_length"] = config.head_dim
    elif values.get("attention.key_length") == config.embed_dim // config.num_heads:
        del values["attention.key_length"]
    if name == "llama":
        values |= {"vocab_size": config.vocab_size, "rope.dimension_count": config.head_dim}
    if rope and rope.kind in (RopeKind.LINEAR, RopeKind.YARN):
        values |= {"rope.scaling.type": rope.kind.value, "rope.scaling.factor": rope.factor}
        if rope.kind is RopeKind.YARN:
            values["rope.scaling.original_context_length"] = rope.original_max_positions
    return {f"{name}.{key}": value for key, value in values.items() if value is not None}


def rope_factors(model: DecoderModel) -> np.ndarray | None:
    """Return the factors of Llama 3's frequencies, stored as a tensor; None for other models."""
    rope = _full_attention_rope(model)
    if rope is None or rope.kind is not RopeKind.LLAMA3:
        return None
    return _llama3_factors(rope, model.config.head_dim).astype(np.float32)


def _full_attention_rope(model: DecoderModel) -> Rope | None:
    layers = model.config.layers
    kinds = [kind for kind in layers if kind.window is None]
    return (kinds or layers)[0].rope


def _optional_values(name: str, values: Metadata) -> dict[str, Any]:
    """Return llama.cpp's values of the keys that a file may leave out."""
    num_heads = values["attention.head_count"]
    return {
        "attention.head_count_kv": num_heads,
        "attention.key_length": values["embedding_length"] // num_heads,
        "rope.freq_base": 1_000_000.0 if name == "gemma3" else 10000.0,
        "final_logit_softcapping": None,
    }


def _read_llama(values: Metadata, tensors: Tensors) -> dict[str, Any]:
    if values.get("expert_count", 0):
        raise UserError("llama.expert_count: mixtures of experts are not supported.")
    return {
        "attention_bias": "blk.0.attn_q.bias" in tensors,
        "mlp_bias": "blk.0.ffn_up.bias" in tensors,
    }


def _read_gemma3(values: Metadata, tensors: Tensors) -> dict[str, Any]:
    num_layers = values["block_count"]
    # LLM_TYPE_27B is the only size whose queries are scaled by width / heads.
    is_27b = num_layers == 62
    width_per_head = values["embedding_length"] // values["attention.head_count"]
    return {
        "query_pre_attn_scalar": width_per_head if is_27b else values["attention.key_length"],
        # rope_freq_base_train_swa
        "rope_local_base_freq": 10000.0,
        # set_swa_pattern(6)
        "layer_types": [
            "full_attention" if layer % 6 == 5 else "sliding_attention"
            for layer in range(num_layers)
        ],
        "attn_logit_softcapping": None,
    }


class Architecture(NamedTuple):
    """Architecture of llama.cpp.

    Attributes:
        model_types: The `model_type`s that it can hold; its files are read as the first.
        keys: Its metadata keys and those of `config.json`.
        constants: Values of further keys of `config.json`.
        read: Returns still further keys from metadata and tensors.
    """

    model_types: tuple[str, ...]
    keys: Mapping[str, str]
    constants: Mapping[str, Any]
    read: Callable[[Metadata, Tensors], dict[str, Any]] = lambda values, tensors: {}


ARCHITECTURES = {
    "llama": Architecture(("llama", "mistral"), _LLAMA_KEYS, {"hidden_act": "silu"}, _read_llama),
    "qwen2": Architecture(
        ("qwen2",), _LLAMA_KEYS, {"hidden_act": "silu", "use_sliding_window": False}
    ),
    "gemma3": Architecture(
        ("gemma3_text",),
        _GEMMA3_KEYS,
        {"hidden_activation": "gelu_pytorch_tanh", "attention_bias": False},
        _read_gemma3,
    ),
    "gpt2": Architecture(("gpt2",), _GPT2_KEYS, {"activation_function": "gelu_new"}),
}


def _read_rope_scaling(values: Metadata, tensors: Tensors, config: Metadata) -> dict[str, Any]:
    if ROPE_FACTORS_NAME in tensors:
        return {"rope_scaling": _read_llama3_scaling(tensors[ROPE_FACTORS_NAME].read(), config)}
    kind = values.get("rope.scaling.type", "none")
    if kind == "none":
        return {}
    scaling = {"rope_type": kind, "factor": values["rope.scaling.factor"]}
    if (length := values.get("rope.scaling.original_context_length")) is not None:
        scaling["original_max_position_embeddings"] = length
    return {"rope_scaling": scaling}


def _read_llama3_scaling(factors: np.ndarray, config: Metadata) -> dict[str, Any]:
    """Recover the parameters of Llama 3's scaling from its factors, one per pair of channels.

    Llama 3.1 to 3.3 share all parameters but one; factors computed from them must equal those in
    the file.
    """
    rope = Rope(
        base=config["rope_theta"],
        kind=RopeKind.LLAMA3,
        factor=float(factors.max()),
        original_max_positions=8192,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
    )
    if not np.allclose(factors, _llama3_factors(rope, config["head_dim"]), rtol=1e-3):
        raise UserError(f"{ROPE_FACTORS_NAME}: these are not the factors of Llama 3.1, 3.2 or 3.3.")
    return {
        "rope_type": "llama3",
        "factor": rope.factor,
        "low_freq_factor": rope.low_freq_factor,
        "high_freq_factor": rope.high_freq_factor,
        "original_max_position_embeddings": rope.original_max_positions,
    }


def _llama3_factors(rope: Rope, head_dim: int) -> np.ndarray:
    channels = np.arange(0, head_dim, 2) / head_dim
    rotations = rope.original_max_positions / (2 * np.pi * rope.base**channels)
    low, high = rope.low_freq_factor, rope.high_freq_factor
    smooth = np.clip((rotations - low) / (high - low), 0, 1)
    return 1 / ((1 - smooth) / rope.factor + smooth)
