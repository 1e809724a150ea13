"""GGUF files of the tiny models, written as llama.cpp's converter would."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tiny
from hf_models import PADDED, VOCAB, hf_model

LLAMA3_BASE = 500_000.0

_TRANSPOSED = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")


def write_gguf(
    name: str,
    path: Path,
    *,
    quantised: gguf.GGMLQuantizationType | None = None,
    rope_factors: np.ndarray | None = None,
) -> Path:
    model = hf_model(name)
    config = model.config
    architecture = config.model_type.removesuffix("_text")
    writer = gguf.GGUFWriter(path, architecture)
    _add_metadata(writer, architecture, config)
    _add_tokenizer(writer)
    if rope_factors is not None:
        writer.add_rope_freq_base(LLAMA3_BASE)
        writer.add_tensor("rope_freqs.weight", rope_factors)
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers
    )
    for hf_name, value in model.state_dict().items():
        stem, suffix = hf_name.rsplit(".", 1)
        if hf_name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name = f"{names.get_name(stem)}.{suffix}"
        tensor = np.ascontiguousarray(_convert(architecture, name, value.numpy(), config))
        if quantised is not None and tensor.ndim == 2 and tensor.shape[1] % 32 == 0:
            writer.add_tensor(name, gguf.quantize(tensor, quantised), raw_dtype=quantised)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_metadata(writer: gguf.GGUFWriter, architecture: str, config: Any) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_head_count(config.num_attention_heads)
    if architecture == "gpt2":
        writer.add_feed_forward_length(config.n_inner)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if architecture == "gemma3":
        writer.add_key_length(config.head_dim)
        writer.add_sliding_window(config.sliding_window)


def _add_tokenizer(writer: gguf.GGUFWriter) -> None:
    tokenizer = tiny.tokenizer(vocab_size=VOCAB)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    unused = [f"[PAD{token_id}]" for token_id in range(VOCAB, PADDED)]
    special = set(tokenizer.all_special_tokens)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([token for token, _ in vocabulary] + unused)
    kinds = [
        gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL
        for token, _ in vocabulary
    ]
    writer.add_token_types(kinds + [gguf.TokenType.UNUSED] * len(unused))
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_eos_token_id(2)
    writer.add_chat_template(tokenizer.chat_template)


def _convert(architecture: str, name: str, tensor: np.ndarray, config: Any) -> np.ndarray:
    heads = {"attn_q.": config.num_attention_heads}
    if architecture == "llama":
        heads["attn_k."] = config.num_key_value_heads
        for part, count in heads.items():
            if part in name:
                halves = tensor.reshape(count, 2, -1, *tensor.shape[1:])
                return halves.swapaxes(1, 2).reshape(tensor.shape)
    if architecture == "gemma3" and name.endswith("norm.weight"):
        return tensor + 1
    if architecture == "gpt2" and name.endswith(_TRANSPOSED):
        return tensor.T
    return tensor
