"""Exported folders in other versions of `transformers`: ids, chats and logits are the same."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from gguf_files import write_gguf
from hf_models import CONFIGS, PADDED, VOCAB, random_hf_model
from transformers_versions import INSTALL, Reading, install_transformers, read_folders

from jaxdistill import hub

pytestmark = pytest.mark.slow

VERSIONS = ["4.57.3", "5.0.0"]

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
GEMMA3 = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 2000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 70.0},
}
MODELS: dict[str, dict[str, Any]] = {
    **CONFIGS,
    "llama_llama3": {**CONFIGS["llama"], "rope_parameters": LLAMA3},
    "llama_theta": {**CONFIGS["llama"], "rope_parameters": {"rope_theta": 700.0}},
    "mistral_linear": {
        **CONFIGS["mistral"],
        "rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 500.0},
    },
    "qwen2_yarn": {**CONFIGS["qwen2"], "rope_parameters": YARN},
    "qwen2_yarn_scales": {
        **CONFIGS["qwen2"],
        "rope_scaling": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.2, "truncate": False},
    },
    "gemma3_bases": {**CONFIGS["gemma3"], "rope_parameters": GEMMA3},
}
"""Config of each model; ropes are spelled as in transformers 5."""

TOKENIZERS = {
    "plain": tiny.tokenizer,
    "bos": partial(tiny.tokenizer, bos=True, pad="<|im_end|>", padding_side="left"),
    "named": partial(tiny.tokenizer, image_token="<s>"),
    "sentencepiece": tiny.sentencepiece,
}

TEXTS = [
    "The capital of France is Paris — über 2 million people. 東京 🙂 def f(x):\n    return x",
    " is\n\n12  3   x,  and\ttabs\r\n 'RE you sure? 3333",
    "<|im_start|>user\nhello<|im_end|>\n",
]
MESSAGES = [{"role": "user", "content": "hello  there"}, {"role": "assistant", "content": "hi"}]
TOKENS = np.random.default_rng(0).integers(0, VOCAB, 60).tolist()


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All models and tokenizers, exported from folders that this version wrote."""
    root = tmp_path_factory.mktemp("exports")
    sources = {"from_gguf": write_gguf("gemma3", root / "gemma3.gguf")}
    for name, config in MODELS.items():
        sources[name] = write_hf_folder(root / name, config, tiny.tokenizer())
    for name, make in TOKENIZERS.items():
        config = {**CONFIGS["llama"], "vocab_size": PADDED + 64}
        sources[name] = write_hf_folder(root / name, config, make())
    return {name: hub.save(hub.load(path), root / "out" / name) for name, path in sources.items()}


def write_hf_folder(folder: Path, config: dict[str, Any], tokenizer: Any) -> Path:
    random_hf_model(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expected(exports: dict[str, Path]) -> dict[str, Reading]:
    return read(None, exports)


def read(packages: Path | None, exports: dict[str, Path]) -> dict[str, Reading]:
    _, readings, warnings = read_folders(
        packages, exports, texts=TEXTS, messages=MESSAGES, tokens=TOKENS
    )
    for word in ("nrecognized", "incorrect", "not the same type", "not used", "newly initialized"):
        assert word not in warnings, warnings
    return readings


@pytest.mark.parametrize("version", VERSIONS)
def test_exports_are_read_alike(
    version: str, exports: dict[str, Path], expected: dict[str, Reading], tmp_path: Path
) -> None:
    if not install_transformers(version, tmp_path):
        pytest.skip(f"transformers {version} cannot be installed: {INSTALL}")
    readings = read(tmp_path, exports)
    for name, reading in readings.items():
        other = expected[name]
        assert reading.ids == other.ids, name
        assert reading.inputs == other.inputs, name
        assert reading.chat == other.chat, name
        assert reading.dtype == other.dtype, name
        np.testing.assert_allclose(reading.logits, other.logits, atol=1e-5, rtol=0, err_msg=name)
