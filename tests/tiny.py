"""Tokenizers and models small enough to be built in every test."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from jaxdistill import hub
from jaxdistill.models import FAMILIES, DecoderConfig, DecoderModel, LayerKind, Rope

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Chat template of SmolLM2, Qwen and others, without a system message."""

_TEXT = [
    "The cat sat on the mat, and the dog saw the cat.",
    "What is the capital of France? The capital of France is Paris.",
    "user assistant system hello there, how are you today?",
    "Zürich, naïve café, 東京 🙂",
]


def decoder(**changes: Any) -> DecoderConfig:
    """Return the config of a decoder of two layers."""
    base = DecoderConfig(
        vocab_size=97,
        embed_dim=16,
        mlp_dim=24,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        layers=(LayerKind(rope=Rope(base=10_000.0)),) * 2,
        max_positions=64,
        query_scale=8**-0.5,
    )
    return replace(base, **changes)


def tokenizer(
    *,
    chat_template: str | None = CHATML,
    bos: bool = False,
    eos: str | None = "<|im_end|>",
    pad: str | None = None,
    vocab_size: int = 320,
    trim_offsets: bool = False,
    **extra: Any,
) -> PreTrainedTokenizerFast:
    """Train a fast byte-level tokenizer.

    Args:
        chat_template: Its chat template.
        bos: Whether it adds `<s>` before encoded text.
        eos: End-of-text token; None for none.
        pad: Padding token, which may be `eos` (as in SmolLM2).
        vocab_size: Number of tokens, at least 256 bytes and four special tokens.
        trim_offsets: Whether a token's offsets leave out its spaces.
        **extra: Arguments of `PreTrainedTokenizerFast`.
    """
    inner = Tokenizer(BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>"]
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(text, special=True) for text in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(_TEXT, trainer)
    byte_level = processors.ByteLevel(trim_offsets=trim_offsets)
    start = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))]
    )
    inner.post_processor = processors.Sequence([byte_level, start]) if bos else byte_level
    result = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>" if bos else None,
        eos_token=eos,
        pad_token=pad,
        additional_special_tokens=special,
        **extra,
    )
    result.chat_template = chat_template
    return result


def sentencepiece(**extra: Any) -> PreTrainedTokenizerFast:
    """Train a tokenizer like Gemma's: `▁` for spaces, byte tokens for unknown characters.

    Its chat template differs from that of `tokenizer()`, and it adds `<bos>` before encoded text.

    Args:
        **extra: Arguments of `PreTrainedTokenizerFast`.
    """
    draft = Tokenizer(BPE())
    draft.normalizer = normalizers.Replace(" ", "▁")
    trainer = BpeTrainer(vocab_size=90, show_progress=False)
    draft.train_from_iterator(_TEXT[:3], trainer)  # ASCII only: other characters become bytes
    learned = json.loads(draft.to_str())["model"]
    special = ["<unk>", "<bos>", "<eos>", "<start>", "<end>"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *learned["vocab"]]
    merges = [tuple(merge) for merge in learned["merges"]]
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    inner = Tokenizer(BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    inner.normalizer = draft.normalizer
    inner.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    inner.add_special_tokens(special)
    inner.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", inner.token_to_id("<bos>"))]
    )
    result = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", **extra
    )
    result.chat_template = (
        "{{ bos_token }}{% for message in messages %}"
        "{{ '<start>' + message['role'] + '\n' + message['content'] | trim + '<end>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<start>assistant\n' }}{% endif %}"
    )
    return result


CONFIG = {
    "model_type": "llama",
    "vocab_size": 336,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
    "eos_token_id": 2,
}
"""A Llama whose LM head has 16 rows more than `tokenizer()` has tokens."""


def model_folder(
    folder: Path,
    *,
    seed: int = 0,
    reads: PreTrainedTokenizerFast | None = None,
    **changes: Any,
) -> Path:
    """Write a Hugging Face folder with a random model.

    Args:
        folder: The folder.
        seed: Seed of the weights.
        reads: Its tokenizer; None for `tokenizer()`.
        **changes: Changes of `CONFIG`.
    """
    hf_config = {**CONFIG, **changes}
    family = FAMILIES[hf_config["model_type"]]
    model = DecoderModel(family.decoder_config(hf_config))
    generator = np.random.default_rng(seed)

    def random_array(path: tuple[Any, ...], shape: jax.ShapeDtypeStruct) -> np.ndarray:
        mean = 1.0 if path[-1].key == "scale" else 0.0
        return generator.normal(mean, 0.1, shape.shape).astype(shape.dtype)

    # Not with `init_params`, which would compile a program.
    params = jax.tree.map_with_path(random_array, model.abstract_params())
    reads = reads or tokenizer()
    return hub.save(hub.Pretrained(family, model, params, reads, hf_config, {}), folder)
