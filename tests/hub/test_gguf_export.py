"""Exported GGUF files: read back, compared with llama.cpp's conversion, and errors."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import jax
import numpy as np
import pytest
import tiny
from gguf_files import LLAMA3_BASE, sentencepiece_metadata, write_gguf
from hf_models import PADDED, VOCAB, hf_model, save_hf_model
from test_atomic import contents, files_up_to

from jaxdistill import hub
from jaxdistill.cli import main
from jaxdistill.errors import UserError
from jaxdistill.hub.gguf_export import GGUF_DTYPES
from jaxdistill.hub.gguf_tokenizer import build_gguf_tokenizer
from jaxdistill.hub.gguf_tokenizer_export import tokenizer_to_gguf
from jaxdistill.models import FAMILIES, DecoderModel
from jaxdistill.models.config import RopeKind

NAMES = ["llama", "llama_tied", "qwen2", "gemma3", "gpt2"]
TEXT = "The cat sat.\n\n1. Zürich has  42 cafés — 東京 🙂\tdef f(x):\n    return x<|im_end|>"


def f16_exact(name: str, folder: Path, *, tokenizer: bool = False) -> hub.Pretrained:
    """Load a tiny model whose values float16 holds exactly, as do norms plus one."""
    path = save_hf_model(name, folder, tokenizer=tokenizer)
    model = hub.load(path, with_tokenizer=tokenizer)
    params = jax.tree.map(lambda leaf: np.round(np.asarray(leaf) * 64) / 64, model.params)
    return replace(model, params=params)


def metadata(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


@pytest.mark.parametrize("name", NAMES)
def test_exported_models_are_read_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    model = f16_exact(name, tmp_path / "hf")
    path = hub.save(model, tmp_path / "out" / "model.gguf", format="gguf")
    assert [file.name for file in path.parent.iterdir()] == ["model.gguf"]
    read = hub.load(path, with_tokenizer=False)
    assert (
        replace(read.language_model.config, initializer_range=0.02) == model.language_model.config
    )
    jax.tree.map(np.testing.assert_array_equal, read.params, model.params)


# Rows of whole quantised blocks exist in `gpt2` only; tied and untied output matrices differ.
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, "f16") for name in NAMES]
    + [(name, dtype) for name in ("gpt2", "llama") for dtype in GGUF_DTYPES if dtype != "f16"],
)
def test_tensors_and_metadata_are_those_of_llama_cpp(name: str, dtype: str, tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType[dtype.upper()]
    expected = write_gguf(name, tmp_path / "expected.gguf")
    path = hub.save(
        hub.load(save_hf_model(name, tmp_path / "hf"), with_tokenizer=False),
        tmp_path,
        format="gguf",
        dtype=dtype,
    )
    assert path == tmp_path / f"model-{dtype}.gguf"
    exact = {tensor.name: tensor for tensor in gguf.GGUFReader(expected).tensors}
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    assert stored.keys() == exact.keys()
    output = "output.weight" if "output.weight" in exact else "token_embd.weight"
    for tensor_name, tensor in stored.items():
        values = exact[tensor_name].data
        expected_kind = gguf.GGMLQuantizationType.F32
        if values.ndim == 2 and tensor_name != "position_embd.weight":
            expected_kind = kind
            if dtype == "q4_1" and tensor_name == output:
                expected_kind = gguf.GGMLQuantizationType.Q8_0
            if dtype != "f16" and values.shape[1] % 32:
                expected_kind = gguf.GGMLQuantizationType.F16
        assert tensor.tensor_type == expected_kind
        assert list(tensor.shape) == list(exact[tensor_name].shape)
        np.testing.assert_array_equal(tensor.data, gguf.quantize(values, expected_kind))
    read, wanted = metadata(path), metadata(expected)
    for key in wanted:
        if not key.startswith(("GGUF.", "tokenizer.")):
            assert read[key] == wanted[key], key


@pytest.mark.parametrize("dtype", ["q8_0", "q4_1"])
def test_quantised_files_are_read_as_the_library_dequantises_them(
    dtype: str, tmp_path: Path
) -> None:
    kind = gguf.GGMLQuantizationType[dtype.upper()]
    model = hub.load(save_hf_model("gpt2", tmp_path), with_tokenizer=False)
    tensors = hub.read_source(
        hub.save(model, tmp_path / "gguf", format="gguf", dtype=dtype)
    ).tensors
    # The only matrix of the tiny model whose rows are multiples of a block.
    name = "transformer.h.1.mlp.c_proj.weight"
    exact = hf_model("gpt2").state_dict()[name].numpy().T
    rounded = gguf.dequantize(gguf.quantize(exact, kind), kind).T
    np.testing.assert_array_equal(tensors[name].read(), rounded)


@pytest.mark.parametrize("is_tied", [True, False])
def test_the_output_of_a_q4_1_file_is_q8_0(is_tied: bool, tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "tie_word_embeddings": is_tied}
    model = hub.load(tiny.model_folder(tmp_path / "hf", **sizes))
    path = hub.save(model, tmp_path / "model.gguf", format="gguf", dtype="q4_1")
    kinds = {t.name: t.tensor_type for t in gguf.GGUFReader(path).tensors if len(t.shape) == 2}
    output = kinds.pop("token_embd.weight" if is_tied else "output.weight")
    assert output == gguf.GGMLQuantizationType.Q8_0
    assert set(kinds.values()) == {gguf.GGMLQuantizationType.Q4_1}


def test_llama3_frequencies_are_exported_as_factors(tmp_path: Path) -> None:
    model = hub.load(save_hf_model("llama", tmp_path / "hf"), with_tokenizer=False)
    rope = replace(
        model.language_model.config.layers[0].rope,
        base=LLAMA3_BASE,
        kind=RopeKind.LLAMA3,
        factor=32.0,
        original_max_positions=8192,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
    )
    assert_rope_is_read_back(model, rope, tmp_path)
    with pytest.raises(UserError, match=r"rope_freqs\.weight: these are not the factors"):
        assert_rope_is_read_back(model, replace(rope, original_max_positions=100), tmp_path)


@pytest.mark.parametrize("kind", [RopeKind.LINEAR, RopeKind.YARN])
def test_rope_scaling_is_exported(kind: RopeKind, tmp_path: Path) -> None:
    model = hub.load(save_hf_model("qwen2", tmp_path / "hf"), with_tokenizer=False)
    changes: dict[str, Any] = {"rope_type": kind.value, "factor": 4.0, "rope_theta": 1e6}
    if kind is RopeKind.YARN:
        changes["original_max_position_embeddings"] = 16
    hf_config = {**model.hf_config, "rope_parameters": changes}
    rope = FAMILIES["qwen2"].decoder_config(hf_config).layers[0].rope
    assert_rope_is_read_back(replace(model, hf_config=hf_config), rope, tmp_path)


def assert_rope_is_read_back(model: hub.Pretrained, rope: Any, folder: Path) -> None:
    layers = tuple(replace(kind, rope=rope) for kind in model.language_model.config.layers)
    scaling = {
        "rope_type": rope.kind.value,
        "factor": rope.factor,
        "low_freq_factor": rope.low_freq_factor,
        "high_freq_factor": rope.high_freq_factor,
        "original_max_position_embeddings": rope.original_max_positions,
    }
    hf_config = {**model.hf_config, "rope_parameters": {**scaling, "rope_theta": rope.base}}
    if rope.kind is not RopeKind.LLAMA3:
        hf_config = model.hf_config
    model = replace(
        model,
        language_model=DecoderModel(replace(model.language_model.config, layers=layers)),
        hf_config=hf_config,
    )
    path = hub.save(model, folder / "rope.gguf", format="gguf")
    assert hub.read_source(path).language_model.config.layers == layers


@pytest.mark.parametrize("source", ["hf", "gguf"])
def test_the_tokenizer_is_exported(source: str, tmp_path: Path) -> None:
    if source == "hf":
        model = hub.load(save_hf_model("llama", tmp_path / "hf", tokenizer=True))
    else:
        model = hub.load(write_gguf("llama", tmp_path / "source.gguf"))
    path = hub.save(model, tmp_path / "model.gguf", format="gguf")
    read, fields = hub.load(path).tokenizer, metadata(path)
    assert read is not None
    assert model.tokenizer is not None
    assert read(TEXT).input_ids == model.tokenizer(TEXT).input_ids
    assert read.decode(read(TEXT).input_ids) == TEXT
    assert read.chat_template == model.tokenizer.chat_template
    assert read.eos_token_id == fields["tokenizer.ggml.eos_token_id"] == 2
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    assert len(tokens) == len(types) == PADDED
    assert types[:4] == [gguf.TokenType.CONTROL] * 4
    assert types[VOCAB:] == [gguf.TokenType.UNUSED] * (PADDED - VOCAB)
    assert fields["tokenizer.ggml.pre"] == ("gpt-2" if source == "hf" else "smollm")
    if source == "gguf":
        original = metadata(tmp_path / "source.gguf")
        carried = [key for key in original if key.startswith("tokenizer.")]
        assert {key: fields[key] for key in carried} == {key: original[key] for key in carried}


def test_bos_and_added_tokens_are_exported() -> None:
    tokenizer = tiny.tokenizer(bos=True)
    tokenizer.add_tokens(["<think>"])
    fields = tokenizer_to_gguf(tokenizer, 321)
    assert fields["tokenizer.ggml.add_bos_token"] is True
    assert fields["tokenizer.ggml.add_eos_token"] is False
    assert fields["tokenizer.ggml.bos_token_id"] == tokenizer.bos_token_id
    assert fields["tokenizer.ggml.tokens"][320] == "<think>"
    assert fields["tokenizer.ggml.token_type"][320] == gguf.TokenType.USER_DEFINED
    read = build_gguf_tokenizer(Path("x"), {**fields, "general.architecture": "llama"})
    assert read("a <think> b").input_ids == tokenizer("a <think> b").input_ids


def test_sentencepiece_tokenizers_are_exported() -> None:
    source = sentencepiece_metadata()
    tokens = source["tokenizer.ggml.tokens"]
    tokenizer = build_gguf_tokenizer(Path("x"), source)
    fields = tokenizer_to_gguf(tokenizer, len(tokens))
    for key in ("model", "tokens", "token_type", "bos_token_id", "eos_token_id"):
        assert fields[f"tokenizer.ggml.{key}"] == source[f"tokenizer.ggml.{key}"]
    read = build_gguf_tokenizer(Path("x"), {**fields, "general.architecture": "llama"})
    backends = [json.loads(each.backend_tokenizer.to_str())["model"] for each in (tokenizer, read)]
    assert backends[0] == backends[1]
    text = "the cat  at the\thé cat"
    assert read(text, add_special_tokens=False) == tokenizer(text, add_special_tokens=False)


def test_unknown_pre_tokenizers_are_refused(tmp_path: Path) -> None:
    from tokenizers import pre_tokenizers

    tokenizer = tiny.tokenizer()
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(UserError, match="splits text in a way without a known name"):
        tokenizer_to_gguf(tokenizer, VOCAB)


def test_other_families_are_refused_by_name(tmp_path: Path) -> None:
    model = hub.load(save_hf_model("gpt_neo", tmp_path / "hf"), with_tokenizer=False)
    with pytest.raises(UserError, match="family `gpt_neo` cannot be written, expected one of lla"):
        hub.save(model, tmp_path / "out", format="gguf")
    assert not (tmp_path / "out").exists()


def test_settings_that_llama_cpp_does_not_know_are_refused(tmp_path: Path) -> None:
    model = hub.load(save_hf_model("mistral", tmp_path / "hf"), with_tokenizer=False)
    with pytest.raises(UserError, match=r"architecture `llama` .* cannot express layers\[0\]="):
        hub.save(model, tmp_path / "out", format="gguf")
    layers = tuple(replace(kind, window=None) for kind in model.language_model.config.layers)
    unwindowed = replace(
        model, language_model=DecoderModel(replace(model.language_model.config, layers=layers))
    )
    hub.save(unwindowed, tmp_path / "out", format="gguf")


@pytest.mark.parametrize(
    ("format", "dtype", "message"),
    [
        ("gguf", "float16", r"'float16' is not one of f16, q8_0, q4_1.*Did you mean `f16`\?"),
        ("gguf", "bfloat16", "format gguf.*safetensors has it"),
        ("safetensors", "q4_1", "'q4_1' is not one of float32.*Format gguf has it"),
        ("torch", "q80", "'q80' is not one of float32"),
    ],
)
def test_dtypes_of_another_format_are_refused(
    format: Any, dtype: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        hub.check_export_dtype(format, dtype)


def test_values_too_large_for_f16_are_refused(tmp_path: Path) -> None:
    model = hub.load(save_hf_model("llama", tmp_path / "hf"), with_tokenizer=False)
    params = {**model.params, "embedding": np.asarray(model.params["embedding"]) + 1e6}
    with pytest.raises(UserError, match=r"token_embd\.weight: .* is too large for float16"):
        hub.save(replace(model, params=params), tmp_path / "out", format="gguf")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("num_bytes", [0, 50, 20_000])
def test_a_full_disk_leaves_the_older_file_unchanged(num_bytes: int, tmp_path: Path) -> None:
    model = hub.load(save_hf_model("llama", tmp_path / "hf", tokenizer=True))
    path = hub.save(model, tmp_path / "out" / "model.gguf", format="gguf", dtype="q8_0")
    before = contents(path.parent)
    with files_up_to(num_bytes), pytest.raises(UserError, match="the disk is full"):
        hub.save(model, path, format="gguf")
    assert contents(path.parent) == before
    with files_up_to(num_bytes), pytest.raises(UserError, match="the disk is full"):
        hub.save(model, tmp_path / "new" / "model.gguf", format="gguf")
    assert not (tmp_path / "new").exists()


def test_a_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    model = hub.load(save_hf_model("gpt2", tmp_path / "hf"), with_tokenizer=False)
    (tmp_path / "model.gguf").mkdir()
    with pytest.raises(UserError, match=r"model\.gguf: is a folder, expected a \.gguf file"):
        hub.save(model, tmp_path / "model.gguf", format="gguf")


def test_the_command_line_exports_gguf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny.model_folder(tmp_path / "model")
    arguments = ["export", "--model", str(folder), "--format", "gguf", "--out"]
    assert main([*arguments, str(tmp_path / "out.gguf")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out.gguf")
    assert main([*arguments, str(tmp_path / "out"), "--dtype", "q8_0"]) == 0
    read = hub.load(tmp_path / "out" / "model-q8_0.gguf").tokenizer
    assert read is not None
    assert read(TEXT).input_ids == tiny.tokenizer()(TEXT).input_ids
    assert main([*arguments, str(tmp_path / "out"), "--dtype", "float16"]) == 2
    assert "'float16' is not one of f16, q8_0, q4_1" in capsys.readouterr().err


def test_an_end_that_llama_cpp_does_not_know_by_its_text_is_written(tmp_path):
    """It is the end of a turn in the template of a base model that learned chats."""
    reads = tiny.tokenizer(eos="<|endoftext|>")
    folder = tiny.model_folder(tmp_path / "model", reads=reads, eos_token_id=0)
    ids = reads.convert_tokens_to_ids(["<|im_end|>", "<s>"])
    for end, key in zip(ids, (None, ids[1]), strict=True):
        model = hub.load(folder).with_eos_ids((0, end))
        read = hub.load(hub.save(model, tmp_path / f"{end}.gguf", format="gguf"))
        assert read.gguf_tokenizer.get("tokenizer.ggml.eot_token_id") == key
        assert {0, end} <= set(read.eos_ids)
