"""Exported GGUF files run in llama.cpp: tokens, logits and greedy text equal ours."""

import os
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tiny
from hf_models import CONFIGS, VOCAB, random_hf_model, save_hf_model
from llama_cpp import INSTALL, LlamaCppResult, install_llama_cpp, run_llama_cpp
from scipy.special import log_softmax

from jaxdistill import hub
from jaxdistill.model import Model
from jaxdistill.sampling import Sampling

pytestmark = pytest.mark.slow

TEXTS = [
    "The capital of France is Paris — über 2 million people. 東京 🙂 def f(x):\n    return x",
    "is\n\n12  3   x,  and\ttabs\r\n 'RE you sure? 3333",
    "<|im_start|>user\nhello<|im_end|>\n",
]
# Fields that a converter takes from a model's card and name.
PROVENANCE = {"name", "organization", "finetune", "basename", "size_label", "license", "languages"}


@pytest.fixture(scope="module")
def llama_cpp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama_cpp")
    if not install_llama_cpp(folder):
        pytest.skip(f"llama.cpp cannot be installed: {INSTALL}")
    return folder


@pytest.fixture(scope="module")
def smollm2() -> hub.Pretrained:
    if "JAXDISTILL_SMOLLM2" not in os.environ:
        pytest.skip("JAXDISTILL_SMOLLM2 does not name a .gguf file")
    return hub.load(os.environ["JAXDISTILL_SMOLLM2"])


def compare(
    folder: Path, path: Path, tokens: list[int], *, new_tokens: int
) -> tuple[LlamaCppResult, np.ndarray, list[int]]:
    """Return llama.cpp's result, our log-probabilities and our greedy completion of the file."""
    model = Model(hub.load(path))
    result = run_llama_cpp(
        folder,
        path,
        texts=TEXTS,
        tokens=tokens,
        prompt=tokens,
        new_tokens=new_tokens,
        context_size=64,
    )
    assert result.tokens == [model.tokenizer(text).input_ids for text in TEXTS]
    # llama.cpp counts padding rows of the LM head as tokens, and we do not.
    size = model.pretrained.vocab_size
    logits = np.asarray(model.logits([tokens]), np.float64)[0, :, :size]
    result = replace(result, log_probs=log_softmax(result.log_probs[:, :size], axis=-1))
    (completion,) = model.generate_tokens([tokens], Sampling(max_new_tokens=new_tokens))
    return result, log_softmax(logits, axis=-1), completion


@pytest.mark.parametrize("name", ["llama", "llama_tied", "qwen2", "gemma3", "gpt2"])
def test_every_family_gives_our_logits(name: str, llama_cpp: Path, tmp_path: Path) -> None:
    model = hub.load(save_hf_model(name, tmp_path / "hf", tokenizer=True))
    path = hub.save(model, tmp_path / "model.gguf", format="gguf")
    result, log_probs, completion = compare(
        llama_cpp, path, [5, 17, 300, 44, 8, 120, 9, 33], new_tokens=12
    )
    np.testing.assert_allclose(result.log_probs, log_probs, atol=0.02, rtol=0)
    greedy = list(takewhile(lambda token: token < VOCAB, result.greedy))
    assert greedy[: len(completion)] == completion[: len(greedy)]


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 2000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}


@pytest.mark.parametrize(
    ("name", "rope"),
    [
        ("llama", LLAMA3_ROPE),
        ("llama", {"rope_type": "linear", "rope_theta": 700.0, "factor": 3.0}),
        ("qwen2", YARN_ROPE),
        ("gemma3", GEMMA3_ROPE),
    ],
)
def test_every_rope_gives_our_logits(
    name: str, rope: dict[str, Any], llama_cpp: Path, tmp_path: Path
) -> None:
    config = {**CONFIGS[name], "rope_parameters": rope}
    random_hf_model(config).save_pretrained(tmp_path / "hf")
    tiny.tokenizer().save_pretrained(tmp_path / "hf")
    model = hub.load(hub.save(hub.load(tmp_path / "hf"), tmp_path / "exported"))
    path = hub.save(model, tmp_path / "model.gguf", format="gguf")
    tokens = np.random.default_rng(0).integers(0, VOCAB, 48).tolist()
    result, log_probs, _ = compare(llama_cpp, path, tokens, new_tokens=1)
    np.testing.assert_allclose(result.log_probs, log_probs, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("dtype", "max_difference", "max_kl"),
    [("f16", 0.05, 5e-4), ("q8_0", 1.0, 0.02), ("q4_1", 1.2, 0.03)],
)
def test_smollm2_gives_our_logits_and_text(
    smollm2: hub.Pretrained,
    llama_cpp: Path,
    tmp_path: Path,
    dtype: str,
    max_difference: float,
    max_kl: float,
) -> None:
    """Quantised matrices are multiplied by activations that llama.cpp rounds to 8 bits, too."""
    path = hub.save(smollm2, tmp_path, format="gguf", dtype=dtype)
    tokens = Model(smollm2).tokenizer("The capital of France is").input_ids
    result, log_probs, completion = compare(llama_cpp, path, tokens, new_tokens=24)
    probabilities = np.exp(log_probs)
    difference = np.abs(result.log_probs - log_probs)[probabilities > 1e-4].max()
    kl = (probabilities * (log_probs - result.log_probs)).sum(axis=-1).max()
    assert difference < max_difference
    assert abs(kl) < max_kl
    np.testing.assert_array_equal(result.log_probs.argmax(-1), log_probs.argmax(-1))
    if dtype == "f16":
        assert result.greedy[: len(completion)] == completion


@pytest.mark.parametrize("through_folder", [False, True])
def test_smollm2_is_exported_as_llama_cpp_converted_it(
    smollm2: hub.Pretrained, through_folder: bool, tmp_path: Path
) -> None:
    """Metadata and all bytes of tensors equal the file that llama.cpp quantised."""
    model = hub.load(hub.save(smollm2, tmp_path / "hf")) if through_folder else smollm2
    path = hub.save(model, tmp_path, format="gguf", dtype="q4_1")
    source = Path(os.environ["JAXDISTILL_SMOLLM2"])
    (source,) = source.glob("*.gguf") if source.is_dir() else [source]
    original, exported = gguf.GGUFReader(source), gguf.GGUFReader(path)
    for key, field in original.fields.items():
        if key not in {"GGUF.kv_count", *(f"general.{name}" for name in PROVENANCE)}:
            assert exported.fields[key].contents() == field.contents(), key
            assert exported.fields[key].types == field.types, key
    tensors = {tensor.name: tensor for tensor in exported.tensors}
    assert len(tensors) == len(original.tensors)
    for tensor in original.tensors:
        assert tensors[tensor.name].tensor_type == tensor.tensor_type
        np.testing.assert_array_equal(tensors[tensor.name].data, tensor.data)
