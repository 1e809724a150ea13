"""Hugging Face folders in and out, with `transformers` as the judge of both."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import torch
import transformers
from originals import (
    CONFIGS,
    PADDED,
    VOCAB,
    original,
    our_logits,
    save_original,
    their_logits,
)
from safetensors.numpy import load_file, save_file

from jaxdistill import hub
from jaxdistill.errors import UserError

ATOL = 1e-4


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_transformers_both_ways(name: str, tmp_path: Path) -> None:
    ours = hub.load(save_original(name, tmp_path / "theirs"), with_tokenizer=False)
    expected = their_logits(original(name))
    np.testing.assert_allclose(our_logits(ours), expected, atol=ATOL, rtol=0)

    written = hub.save(ours, tmp_path / "ours")
    reloaded = transformers.AutoModelForCausalLM.from_pretrained(written)
    assert reloaded.dtype == torch.float32
    np.testing.assert_allclose(their_logits(reloaded), expected, atol=ATOL, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CONFIGS)
def test_files_survive_bit_for_bit(name: str, dtype: str, tmp_path: Path) -> None:
    theirs = save_original(name, tmp_path / "theirs")
    _recast(theirs / "model.safetensors", dtype)
    config = json.loads((theirs / "config.json").read_text())
    (theirs / "config.json").write_text(json.dumps({**config, "dtype": dtype}))

    ours = hub.save(hub.load(theirs, dtype=None, with_tokenizer=False), tmp_path / "ours")
    assert (ours / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()
    assert transformers.AutoModelForCausalLM.from_pretrained(ours).dtype == getattr(torch, dtype)


def _recast(file: Path, dtype: str) -> None:
    tensors = {name: tensor.astype(jnp.dtype(dtype)) for name, tensor in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def test_shards_are_read_and_written(tmp_path: Path) -> None:
    theirs = save_original("llama", tmp_path / "theirs", max_shard_size="20KB")
    assert (theirs / "model.safetensors.index.json").is_file()
    ours = hub.load(theirs, with_tokenizer=False)
    expected = their_logits(original("llama"))
    np.testing.assert_allclose(our_logits(ours), expected, atol=ATOL, rtol=0)

    written = hub.save(ours, tmp_path / "ours", max_shard_bytes=20_000)
    index = json.loads((written / "model.safetensors.index.json").read_text())
    shards = set(index["weight_map"].values())
    assert shards == {path.name for path in written.glob("*.safetensors")}
    assert len(shards) > 2
    assert index["metadata"]["total_size"] == sum(
        tensor.nbytes for shard in shards for tensor in load_file(written / shard).values()
    )
    reloaded = transformers.AutoModelForCausalLM.from_pretrained(written)
    np.testing.assert_allclose(their_logits(reloaded), expected, atol=ATOL, rtol=0)


@pytest.mark.parametrize("max_shard_bytes", [5_000_000_000, 20_000])
def test_torch_files_are_loaded_by_torch(tmp_path: Path, max_shard_bytes: int) -> None:
    ours = hub.load(save_original("gpt2", tmp_path / "theirs"), with_tokenizer=False)
    written = hub.save(
        ours, tmp_path / "ours", format="torch", dtype="bfloat16", max_shard_bytes=max_shard_bytes
    )
    assert not list(written.glob("*.safetensors"))
    state = original("gpt2").state_dict()
    for file in written.glob("pytorch_model*.bin"):
        for name, tensor in torch.load(file, weights_only=True).items():
            assert tensor.dtype == torch.bfloat16
            assert torch.equal(tensor, state[name].bfloat16())
    reloaded = transformers.AutoModelForCausalLM.from_pretrained(written, dtype=torch.float32)
    half = hub.load(
        save_original("gpt2", tmp_path / "half"), dtype="bfloat16", with_tokenizer=False
    )
    single = hub.Pretrained(
        **{**vars(half), "params": jax.tree.map(lambda x: x.astype("float32"), half.params)}
    )
    np.testing.assert_allclose(our_logits(single), their_logits(reloaded), atol=ATOL, rtol=0)


def test_every_tensor_may_have_its_own_dtype(tmp_path: Path) -> None:
    folder = save_original("llama", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    dtypes = [jnp.bfloat16, np.float16, np.float32, np.float64]
    mixed = {
        name: tensor.astype(dtypes[number % 4])
        for number, (name, tensor) in enumerate(tensors.items())
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
        same = np.asarray(leaf, np.float32)
        np.testing.assert_array_equal(same, _at(params, path), err_msg=str(path))


def _at(tree: dict, path: tuple) -> np.ndarray:
    for key in path:
        tree = tree[key.key]
    return np.asarray(tree)


def test_a_body_without_its_prefix_is_read(tmp_path: Path) -> None:
    folder = save_original("gpt2", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    bare["h.0.attn.bias"] = np.ones((1, 1, 64, 64), np.uint8)  # an old buffer, not a weight
    save_file(bare, folder / "model.safetensors")
    ours = hub.load(folder, with_tokenizer=False)
    np.testing.assert_allclose(our_logits(ours), their_logits(original("gpt2")), atol=ATOL, rtol=0)


def test_a_tied_head_may_be_in_the_file_when_it_is_the_same(tmp_path: Path) -> None:
    folder = save_original("llama_tied", tmp_path)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    save_file(tensors, folder / "model.safetensors")
    hub.load(folder, with_tokenizer=False)
    tensors["lm_head.weight"] += 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match="tie_word_embeddings"):
        hub.load(folder, with_tokenizer=False)


def test_tokenizer_and_generation_config_travel(tmp_path: Path) -> None:
    theirs = save_original("llama", tmp_path / "theirs", tokenizer=True)
    generation = json.loads((theirs / "generation_config.json").read_text())
    ours = hub.load(theirs)
    assert ours.vocab_size == VOCAB
    assert ours.config.vocab_size == PADDED
    assert ours.eos_ids == (2,)

    written = hub.save(ours, tmp_path / "ours")
    assert json.loads((written / "generation_config.json").read_text()) == generation
    again = transformers.AutoTokenizer.from_pretrained(written)
    expected = tiny.tokenizer(vocab_size=VOCAB)
    text = "Zürich  2024\n\n1. the cat 🙂<|im_end|>"
    assert again(text).input_ids == expected(text).input_ids
    assert again.chat_template == expected.chat_template
    assert again.eos_token == expected.eos_token
    assert again.get_vocab() == expected.get_vocab()


def test_check_needs_no_weights(tmp_path: Path) -> None:
    source = hub.read_source(save_original("llama", tmp_path, tokenizer=True))
    assert source.config.num_layers == 4
    assert source.config.vocab_size == PADDED
    assert hub.real_vocab_size(source.load_tokenizer(), PADDED) == VOCAB
    added = source.load_tokenizer()
    added.add_tokens(["<new>"])
    assert hub.real_vocab_size(added, PADDED) == VOCAB + 1
    assert hub.real_vocab_size(added, VOCAB) == VOCAB


def test_random_models_are_folders_like_any_other(tmp_path: Path) -> None:
    folder = tiny.model_folder(tmp_path / "tiny", num_hidden_layers=3)
    assert hub.load(folder).vocab_size == VOCAB
    assert transformers.AutoModelForCausalLM.from_pretrained(folder).config.num_hidden_layers == 3
