"""GGUF files of the tiny models, written as llama.cpp's converter would."""

import json
from collections.abc import Sequence
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
    pre: str = "smollm",
    tensors_per_part: int = 0,
) -> Path:
    model = hf_model(name)
    config = model.config
    architecture = config.model_type.removesuffix("_text")
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=tensors_per_part)
    _add_metadata(writer, architecture, config)
    _add_tokenizer(writer, pre)
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


def write_vocabulary(path: Path, metadata: dict[str, Any]) -> Path:
    """Write a GGUF file with a tokenizer and no tensors."""
    writer = gguf.GGUFWriter(path, metadata["general.architecture"])
    _add_metadata(writer, "llama", hf_model("llama").config)
    for key, value in metadata.items():
        if key.startswith("tokenizer."):
            _add_key_value(writer, key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
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


def _add_tokenizer(writer: gguf.GGUFWriter, pre: str) -> None:
    unused = [f"[PAD{token_id}]" for token_id in range(VOCAB, PADDED)]
    metadata = byte_level_metadata(pre=pre, extra=unused, kind=gguf.TokenType.UNUSED)
    for key, value in metadata.items():
        if key.startswith("tokenizer."):
            _add_key_value(writer, key, value)
    writer.add_chat_template(tiny.CHATML)


def _add_key_value(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    is_count = type(value) is int
    kind = gguf.GGUFValueType.UINT32 if is_count else gguf.GGUFValueType.get_type(value)
    writer.add_key_value(key, value, kind)


def byte_level_metadata(
    *,
    pre: str | None = "smollm",
    extra: Sequence[str] = (),
    kind: gguf.TokenType = gguf.TokenType.CONTROL,
    **changes: Any,
) -> dict[str, Any]:
    """Metadata of `tiny.tokenizer`, with `extra` tokens of one kind after its own."""
    tokenizer = tiny.tokenizer(vocab_size=VOCAB)
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.convert_tokens_to_ids)
    special = set(tokenizer.all_special_tokens)
    control, normal = int(gguf.TokenType.CONTROL), int(gguf.TokenType.NORMAL)
    types = [control if token in special else normal for token in tokens]
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    values = {
        "model": "gpt2",
        "tokens": [*tokens, *extra],
        "token_type": [*types, *[int(kind)] * len(extra)],
        "merges": [" ".join(merge) for merge in merges],
        "eos_token_id": 2,
        **({} if pre is None else {"pre": pre}),
        **changes,
    }
    return {
        "general.architecture": "llama",
        **{f"tokenizer.ggml.{key}": value for key, value in values.items()},
    }


def sentencepiece_metadata(*, spaces: Sequence[str] = (), **changes: Any) -> dict[str, Any]:
    """Metadata of a small SentencePiece vocabulary, with user-defined tokens of `spaces`."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    merged = ["▁t", "he", "▁the", "at", "▁c", "▁cat"]
    letters = ["▁", *"abcdefghijklmnopqrstuvwxyz"]
    normal = len(merged) + len(letters)
    values = {
        "model": "llama",
        "tokens": [*pieces, *merged, *letters, *spaces],
        "scores": [
            *[0.0] * len(pieces),
            *(-float(rank) for rank in range(len(merged))),
            *[-100.0] * len(letters),
            *[-1000.0] * len(spaces),
        ],
        "token_type": [2, 3, 3, *[6] * 256, *[1] * normal, *[4] * len(spaces)],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        **changes,
    }
    return {
        "general.architecture": "llama",
        **{f"tokenizer.ggml.{key}": value for key, value in values.items()},
    }


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
