"""GGUF files are read as the Hugging Face folders that they were converted from."""

import os
from pathlib import Path

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch
import transformers
from gguf_files import LLAMA3_BASE, write_gguf
from hf_models import PADDED, VOCAB, hf_logits, hf_model, jax_logits

from jaxdistill import hub
from jaxdistill.errors import UserError
from jaxdistill.hub.gguf_tokenizer import build_gguf_tokenizer
from jaxdistill.models import FAMILIES, DecoderConfig
from jaxdistill.models.decoder import forward, lm_head
from jaxdistill.types import Params

ATOL = 1e-4
NAMES = ["llama", "llama_tied", "qwen2", "gemma3", "gpt2"]
TEXT = "The cat sat.\n\n1. Zürich has  42 cafés — 東京 🙂\tdef f(x):\n    return x<|im_end|>"


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_config_equal_the_original(name: str, tmp_path: Path) -> None:
    ours = hub.load(write_gguf(name, tmp_path / "model.gguf"), with_tokenizer=False)
    expected = hf_logits(hf_model(name))
    np.testing.assert_allclose(jax_logits(ours), expected, atol=ATOL, rtol=0)
    hf_config = hf_model(name).config.to_dict()
    assert ours.language_model.config == FAMILIES[hf_config["model_type"]].decoder_config(hf_config)
    assert ours.eos_ids == (2, 0)  # EOS, then what llama.cpp knows by its text


def test_a_folder_exported_from_gguf_is_loaded_by_transformers(tmp_path: Path) -> None:
    ours = hub.load(write_gguf("gemma3", tmp_path / "model.gguf"))
    written = hub.save(ours, tmp_path / "ours")
    reloaded = transformers.AutoModelForCausalLM.from_pretrained(written)
    expected = hf_logits(hf_model("gemma3"))
    np.testing.assert_allclose(hf_logits(reloaded), expected, atol=ATOL, rtol=0)
    assert transformers.AutoTokenizer.from_pretrained(written)(TEXT) == ours.tokenizer(TEXT)


def test_the_tokenizer_is_read_from_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    write_gguf("llama", folder / "model.gguf")
    ours = hub.load(folder)
    expected = tiny.tokenizer(vocab_size=VOCAB)
    assert ours.tokenizer is not None
    assert ours.tokenizer(TEXT).input_ids == expected(TEXT).input_ids
    assert ours.tokenizer.decode(expected(TEXT).input_ids) == TEXT
    assert ours.tokenizer.eos_token == "<|im_end|>"
    messages = [{"role": "user", "content": "hello"}]
    assert ours.tokenizer.apply_chat_template(messages) == expected.apply_chat_template(messages)
    assert ours.vocab_size == VOCAB
    assert ours.language_model.vocab_size == PADDED


def test_a_large_vocabulary_is_read_without_a_network(tmp_path: Path) -> None:
    """Beyond 100,000 tokens `transformers` asks the hub if a tokenizer is Mistral's."""
    path = tmp_path / "model.gguf"
    tokens = [f"{token_id:05d}" for token_id in range(100_001)]
    metadata = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.eos_token_id": 2,
    }
    tokenizer = build_gguf_tokenizer(path, metadata)
    assert tokenizer.get_vocab()["99999"] == 99_999
    assert tokenizer.eos_token == "00002"
    assert tokenizer.name_or_path == str(path)


def test_the_smollm_pre_tokenizer_splits_digits_first(tmp_path: Path) -> None:
    tokenizer = hub.read_source(write_gguf("llama", tmp_path / "model.gguf")).load_tokenizer()
    pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("is\n\n12  3")
    assert [piece for piece, _ in pieces] == ["is", "ĊĊ", "1", "2", "ĠĠ", "3"]


@pytest.mark.parametrize(("name", "ids"), [("llama-bpe", [4]), ("tekken", [4]), ("qwen2", [3, 2])])
def test_a_word_that_is_a_token_is_not_split_by_merges(name: str, ids: list[int]) -> None:
    metadata = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.tokens": ["a", "b", "c", "ab", "abc"],
        "tokenizer.ggml.merges": ["a b"],
    }
    assert build_gguf_tokenizer(Path("x"), metadata)("abc").input_ids == ids


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "BF16", "F16"])
def test_quantised_tensors_are_read_as_the_library_reads_them(kind: str, tmp_path: Path) -> None:
    quantised = gguf.GGMLQuantizationType[kind]
    path = write_gguf("gpt2", tmp_path / "model.gguf", quantised=quantised)
    tensors = hub.read_source(path).tensors
    # The only matrix of the tiny model whose rows are multiples of a block.
    name = "transformer.h.1.mlp.c_proj.weight"
    exact = hf_model("gpt2").state_dict()[name].numpy().T
    rounded = gguf.dequantize(gguf.quantize(exact, quantised), quantised).T
    assert tensors[name].shape == rounded.shape
    np.testing.assert_array_equal(tensors[name].read().astype(np.float32), rounded)
    assert not np.array_equal(rounded, exact.T)


def test_an_unknown_architecture_is_refused_by_name(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UserError, match=r"model\.gguf: .*`mamba` is not one of llama, qwen2"):
        hub.read_source(tmp_path / "model.gguf")


@pytest.mark.parametrize("kept", [0, 3, 200, 9000, -2000])
def test_a_truncated_file_is_reported(kept: int, tmp_path: Path) -> None:
    path = write_gguf("llama", tmp_path / "model.gguf")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"model\.gguf: not a complete GGUF file"):
        hub.load(path)


def test_tensors_that_contradict_the_metadata_are_reported(tmp_path: Path) -> None:
    path = write_gguf("llama", tmp_path / "model.gguf")
    key = b"llama.attention.head_count_kv" + (4).to_bytes(4, "little")
    content = path.read_bytes()
    two, four = (number.to_bytes(4, "little") for number in (2, 4))
    # 12 rows of keys do not make four heads of whole pairs.
    path.write_bytes(content.replace(key + two, key + four))
    assert path.read_bytes() != content
    with pytest.raises(UserError, match=r"model\.gguf: .*shape"):
        hub.load(path, with_tokenizer=False)


def test_several_files_in_a_folder_are_refused(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"a\.gguf, b\.gguf"):
        hub.read_source(tmp_path)


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    folder = tmp_path / "parts"
    folder.mkdir()
    write_gguf("llama", folder / "model.gguf", tensors_per_part=16)
    return sorted(folder.iterdir())


def test_a_split_model_is_read_from_its_folder_or_any_part(
    parts: list[Path], tmp_path: Path
) -> None:
    whole = hub.read_source(write_gguf("llama", tmp_path / "model.gguf"))
    assert [part.name for part in parts][:2] == [
        f"model-{number:05}-of-{len(parts):05}.gguf" for number in (1, 2)
    ]
    for path in (parts[0].parent, parts[0], parts[-1]):
        source = hub.read_source(path)
        assert source.path == parts[0]
        assert source.hf_config == whole.hf_config
        assert set(source.tensors) == set(whole.tensors)
    np.testing.assert_array_equal(jax_logits(hub.load(parts[1])), jax_logits(hub.load(whole.path)))


def test_the_weights_hash_of_a_split_model_covers_all_parts(parts: list[Path]) -> None:
    digest = hub.read_source(parts[0]).weights_hash
    content = bytearray(parts[-1].read_bytes())
    content[-40] ^= 1
    parts[-1].write_bytes(content)
    assert hub.read_source(parts[0]).weights_hash != digest


def test_missing_parts_are_named(parts: list[Path]) -> None:
    parts[1].unlink()
    for path in (parts[0].parent, parts[0]):
        with pytest.raises(UserError, match=r"not beside it: model-00002-of-0000\d\.gguf"):
            hub.read_source(path)


def test_a_renamed_part_is_refused(parts: list[Path]) -> None:
    for part, message in ((parts[0], "is part 1 of"), (parts[1], "is part 2 of")):
        renamed = part.rename(part.parent.parent / "renamed.gguf")
        with pytest.raises(UserError, match=message):
            hub.read_source(renamed)


def test_llama3_frequencies_are_recognised(tmp_path: Path) -> None:
    scaling = {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    hf = hf_model("llama").config.to_dict()
    rope = {"rope_parameters": {**scaling, "rope_theta": LLAMA3_BASE}}
    config = transformers.LlamaConfig(**{**hf, **rope, "max_position_embeddings": 131_072})
    stretched, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = LLAMA3_BASE ** (-np.arange(0, 6, 2, dtype=np.float32) / 6)
    factors = (plain / stretched.numpy()).astype(np.float32)
    path = write_gguf("llama", tmp_path / "model.gguf", rope_factors=factors)
    assert hub.read_source(path).hf_config["rope_scaling"] == pytest.approx(scaling)
    path = write_gguf("llama", tmp_path / "other.gguf", rope_factors=factors + 0.5)
    with pytest.raises(UserError, match=r"other\.gguf: rope_freqs\.weight"):
        hub.read_source(path)


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["JAXDISTILL_SMOLLM2", "JAXDISTILL_GEMMA3"])
def test_real_models_give_the_logits_of_transformers(variable: str) -> None:
    if variable not in os.environ:
        pytest.skip(f"{variable} does not name a .gguf file")
    ours = hub.load(os.environ[variable])
    path = Path(os.environ[variable])
    (path,) = path.glob("*.gguf") if path.is_dir() else [path]
    assert ours.tokenizer is not None
    # Without spaces before digits: there `transformers` splits SmolLM2's text unlike its own
    # tokenizer.json and llama.cpp do.
    text = "The capital of France is Paris — über 2 million people. 東京 🙂 def f(x):\n    return"
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    ids = tokenizer(text).input_ids
    assert ours.tokenizer(text).input_ids == ids
    assert ours.tokenizer.decode(ids) == tokenizer.decode(ids)
    assert ours.tokenizer.chat_template == tokenizer.chat_template
    assert ours.tokenizer.eos_token_id == tokenizer.eos_token_id
    assert len(ours.tokenizer) == len(tokenizer)

    reference = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    with torch.no_grad():
        single = reference(torch.tensor([ids])).logits[0].numpy()
        double = torch.nn.Module.double(reference)(torch.tensor([ids])).logits[0].numpy()
    # In float64, where the order of sums has no effect, the logits are equal.
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), ours.params)
        np.testing.assert_allclose(
            _logits(ours.language_model.config, params, ids), double, atol=ATOL, rtol=0
        )
    # In float32 both are rounded, by amounts that differ between machines: ours like PyTorch's.
    error, reference_error = (
        np.sqrt(np.mean((logits - double) ** 2))
        for logits in (_logits(ours.language_model.config, ours.params, ids), single)
    )
    assert error <= 2 * reference_error


def _logits(config: DecoderConfig, params: Params, ids: list[int]) -> np.ndarray:
    tokens, positions = jnp.asarray([ids]), jnp.arange(len(ids))[None]
    output = forward(config, params, tokens, positions=positions, segment_ids=jnp.ones_like(tokens))
    return np.asarray(output.hidden[0] @ lm_head(config, params).matrix.T)
