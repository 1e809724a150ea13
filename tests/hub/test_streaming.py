"""Weights are loaded straight to their devices, with one copy in memory."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from hf_models import save_hf_model
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdistill import hub
from jaxdistill.hub.tensors import LazyTensor
from jaxdistill.models.decoder import abstract_params


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_hf_model("gpt2", tmp_path)


def shardings(config: object, axis: int) -> dict:
    """Shard over four devices along an axis, or over two or none where four do not divide it."""
    mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("a", "b"))

    def choose(shape: jax.ShapeDtypeStruct) -> NamedSharding:
        if axis >= len(shape.shape):
            return NamedSharding(mesh, P())
        names = (
            ("a", "b")
            if shape.shape[axis] % 4 == 0
            else "b"
            if shape.shape[axis] % 2 == 0
            else None
        )
        return NamedSharding(mesh, P(*[None] * axis, names))

    return jax.tree.map(choose, abstract_params(config))


@pytest.mark.parametrize("axis", [0, 1, 2, 9])
def test_sharded_loading_equals_unsharded(folder: Path, axis: int, tmp_path: Path) -> None:
    unsharded = hub.load(folder, with_tokenizer=False)
    expected = shardings(unsharded.language_model.config, axis)
    sharded = hub.load(folder, with_tokenizer=False, shardings=expected)
    jax.tree.map(np.testing.assert_array_equal, sharded.params, unsharded.params)
    for leaf, sharding in zip(
        jax.tree.leaves(sharded.params), jax.tree.leaves(expected), strict=True
    ):
        assert leaf.sharding == sharding
    written = hub.save(sharded, tmp_path / "ours") / "model.safetensors"
    assert written.read_bytes() == (folder / "model.safetensors").read_bytes()


def test_unsharded_arrays_are_not_committed_to_a_device(folder: Path) -> None:
    params = hub.load(folder, with_tokenizer=False).params
    assert not any(leaf.committed for leaf in jax.tree.leaves(params))


def test_arrays_go_to_the_default_device(folder: Path) -> None:
    with jax.default_device(jax.devices()[2]):
        params = hub.load(folder, with_tokenizer=False).params
    assert all(leaf.devices() == {jax.devices()[2]} for leaf in jax.tree.leaves(params))


def test_every_tensor_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    init = LazyTensor.__init__

    def init_counted(self: LazyTensor, shape: tuple, dtype: str, read: object) -> None:
        init(self, shape, dtype, lambda: (reads.append(shape), read())[1])

    monkeypatch.setattr(LazyTensor, "__init__", init_counted)
    source = hub.read_source(folder)
    hub.load_params(source, shardings=shardings(source.language_model.config, 1))
    assert sorted(reads) == sorted(tensor.shape for tensor in source.tensors.values())


_MEASURE = """
import re, sys
from pathlib import Path
import jax
from jaxdistill import hub

def resident(field):
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{field}:\\s+(\\d+)", status).group(1))

source = hub.read_source(sys.argv[1])
jax.block_until_ready(jax.numpy.zeros(1))
before = resident("VmRSS")
params = hub.load_params(source, dtype=sys.argv[2])
size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
print(resident("VmHWM") - before, size, max(tensor.num_bytes for tensor in source.tensors.values()))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's memory counters")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_needs_little_more_memory_than_the_model(tmp_path: Path, dtype: str) -> None:
    import torch
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=8_000,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=10,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="100MB")
    output = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tmp_path), dtype],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    peak, size, largest = map(int, output.split())
    assert size > 300_000_000
    assert peak < 1.3 * size + largest, f"{peak / size:.2f} times the model"
