"""Hugging Face folders read and written, compared with `transformers`."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch
import transformers
from hf_models import (
    CONFIGS,
    PADDED,
    VOCAB,
    hf_logits,
    hf_model,
    jax_logits,
    save_hf_model,
)
from safetensors.numpy import load_file, save_file

from jaxdistill import hub
from jaxdistill.errors import UserError

ATOL = 1e-4

WITH_OUR_LOGITS = ["llama", "gemma3", "gpt2"]
"""Models whose logits are also computed with the imported parameters.

Files are read the same way for every family, and `tests/models` compares the logits of all.
"""


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_transformers_after_import_and_export(name: str, tmp_path: Path) -> None:
    ours = hub.load(save_hf_model(name, tmp_path / "original"), with_tokenizer=False)
    expected = hf_logits(hf_model(name))
    if name in WITH_OUR_LOGITS:
        np.testing.assert_allclose(jax_logits(ours), expected, atol=ATOL, rtol=0)

    written = hub.save(ours, tmp_path / "ours")
    reloaded = transformers.AutoModelForCausalLM.from_pretrained(written)
    assert reloaded.dtype == torch.float32
    np.testing.assert_allclose(hf_logits(reloaded), expected, atol=ATOL, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_import_and_export_keep_files_bit_for_bit(name: str, dtype: str, tmp_path: Path) -> None:
    original = save_hf_model(name, tmp_path / "original")
    _recast(original / "model.safetensors", dtype)
    config = json.loads((original / "config.json").read_text())
    (original / "config.json").write_text(json.dumps({**config, "dtype": dtype}))

    ours = hub.save(hub.load(original, dtype=None, with_tokenizer=False), tmp_path / "ours")
    assert (ours / "model.safetensors").read_bytes() == (
        original / "model.safetensors"
    ).read_bytes()
    assert transformers.AutoModelForCausalLM.from_pretrained(ours).dtype == getattr(torch, dtype)


def _recast(file: Path, dtype: str) -> None:
    tensors = {name: tensor.astype(jnp.dtype(dtype)) for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def test_several_weight_files_are_read_and_written(tmp_path: Path) -> None:
    original = save_hf_model("llama", tmp_path / "original", max_shard_size="20KB")
    assert (original / "model.safetensors.index.json").is_file()
    ours = hub.load(original, with_tokenizer=False)
    expected = hf_logits(hf_model("llama"))
    np.testing.assert_allclose(jax_logits(ours), expected, atol=ATOL, rtol=0)

    written = hub.save(ours, tmp_path / "ours", max_shard_bytes=20_000)
    index = json.loads((written / "model.safetensors.index.json").read_text())
    files = set(index["weight_map"].values())
    assert files == {path.name for path in written.glob("*.safetensors")}
    assert len(files) > 2
    assert index["metadata"]["total_size"] == sum(
        tensor.nbytes for file in files for tensor in load_file(written / file).values()
    )
    reloaded = transformers.AutoModelForCausalLM.from_pretrained(written)
    np.testing.assert_allclose(hf_logits(reloaded), expected, atol=ATOL, rtol=0)


@pytest.mark.parametrize("max_shard_bytes", [5_000_000_000, 20_000])
def test_torch_files_are_loaded_by_torch(tmp_path: Path, max_shard_bytes: int) -> None:
    ours = hub.load(save_hf_model("gpt2", tmp_path / "original"), with_tokenizer=False)
    written = hub.save(
        ours, tmp_path / "ours", format="torch", dtype="bfloat16", max_shard_bytes=max_shard_bytes
    )
    assert not list(written.glob("*.safetensors"))
    state = hf_model("gpt2").state_dict()
    for file in written.glob("pytorch_model*.bin"):
        for name, tensor in torch.load(file, weights_only=True).items():
            assert tensor.dtype == torch.bfloat16
            assert torch.equal(tensor, state[name].bfloat16())
    reloaded = transformers.AutoModelForCausalLM.from_pretrained(written, dtype=torch.float32)
    half = hub.load(
        save_hf_model("gpt2", tmp_path / "half"), dtype="bfloat16", with_tokenizer=False
    )
    params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float32)), half.params)
    single = hub.Pretrained(**{**vars(half), "params": params})
    np.testing.assert_allclose(jax_logits(single), hf_logits(reloaded), atol=ATOL, rtol=0)


def test_tensors_of_different_dtypes_are_read(tmp_path: Path) -> None:
    folder = save_hf_model("llama", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    dtypes = [jnp.bfloat16, np.float16, np.float32, np.float64]
    mixed = {
        name: tensor.astype(dtypes[index % 4])
        for index, (name, tensor) in enumerate(tensors.items())
    }
    save_file(mixed, folder / "model.safetensors", metadata={"format": "pt"})
    params = hub.load(folder, with_tokenizer=False).params
    for leaf in jax.tree.leaves(params):
        assert leaf.dtype == jnp.float32
    embedding = mixed["model.embed_tokens.weight"].astype(np.float32)
    np.testing.assert_array_equal(params["embedding"], embedding)
    # As stored: stacked layers get the narrowest dtype that rounds none of them.
    stored = hub.load(folder, with_tokenizer=False, dtype=None).params
    for path, leaf in jax.tree.leaves_with_path(stored):
        np.testing.assert_array_equal(
            np.asarray(leaf, np.float32), _get_leaf(params, path), err_msg=str(path)
        )


def _get_leaf(tree: dict, path: tuple) -> np.ndarray:
    for key in path:
        tree = tree[key.key]
    return np.asarray(tree)


def test_bare_bodies_without_prefix_are_read(tmp_path: Path) -> None:
    folder = save_hf_model("gpt2", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    bare["h.0.attn.bias"] = np.ones((1, 1, 64, 64), np.uint8)  # an old buffer, not a weight
    save_file(bare, folder / "model.safetensors")
    ours = hub.load(folder, with_tokenizer=False)
    np.testing.assert_allclose(jax_logits(ours), hf_logits(hf_model("gpt2")), atol=ATOL, rtol=0)


def test_a_stored_tied_lm_head_must_equal_the_embedding(tmp_path: Path) -> None:
    folder = save_hf_model("llama_tied", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    save_file(tensors, folder / "model.safetensors")
    hub.load(folder, with_tokenizer=False)
    tensors["lm_head.weight"] += 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match="tie_word_embeddings"):
        hub.load(folder, with_tokenizer=False)


def test_tokenizer_and_generation_config_are_exported(tmp_path: Path) -> None:
    original = save_hf_model("llama", tmp_path / "original", tokenizer=True)
    generation = json.loads((original / "generation_config.json").read_text())
    ours = hub.load(original)
    assert ours.vocab_size == VOCAB
    assert ours.language_model.vocab_size == PADDED
    assert ours.eos_ids == (2,)

    written = hub.save(ours, tmp_path / "ours")
    assert json.loads((written / "generation_config.json").read_text()) == generation
    exported = transformers.AutoTokenizer.from_pretrained(written)
    expected = tiny.tokenizer(vocab_size=VOCAB)
    text = "Zürich  2024\n\n1. the cat 🙂<|im_end|>"
    assert exported(text).input_ids == expected(text).input_ids
    assert exported.chat_template == expected.chat_template
    assert exported.eos_token == expected.eos_token
    assert exported.get_vocab() == expected.get_vocab()


def test_sources_are_opened_without_weights(tmp_path: Path) -> None:
    source = hub.read_source(save_hf_model("llama", tmp_path, tokenizer=True))
    assert source.language_model.widths.layers == 4
    assert source.language_model.vocab_size == PADDED
    assert hub.real_vocab_size(source.load_tokenizer(), PADDED) == VOCAB
    added = source.load_tokenizer()
    added.add_tokens(["<new>"])
    assert hub.real_vocab_size(added, PADDED) == VOCAB + 1
    assert hub.real_vocab_size(added, VOCAB) == VOCAB


def test_tiny_test_models_are_hugging_face_folders(tmp_path: Path) -> None:
    folder = tiny.model_folder(tmp_path / "tiny", num_hidden_layers=3)
    assert hub.load(folder).vocab_size == VOCAB
    assert transformers.AutoModelForCausalLM.from_pretrained(folder).config.num_hidden_layers == 3
