"""Errors about a model's folder: all problems at once, each with what to do."""

import json
from pathlib import Path

import httpx2
import huggingface_hub.utils
import numpy as np
import pytest
from hf_models import save_hf_model
from huggingface_hub import errors
from safetensors.numpy import load_file, save_file

from jaxdistill import hub
from jaxdistill.errors import UserError
from jaxdistill.model import Model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_hf_model("llama", tmp_path / "tiny-llama")


def lines(path: Path | str) -> tuple[str, ...]:
    with pytest.raises(UserError) as caught:
        hub.load(path, with_tokenizer=False)
    assert all(str(path) in line for line in caught.value.lines)
    return caught.value.lines


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def edit_tensors(folder: Path, changes: dict[str, np.ndarray | None]) -> None:
    tensors = {**load_file(folder / "model.safetensors"), **changes}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors")


def test_missing_unexpected_misshapen_and_quantised_tensors_are_reported_together(
    folder: Path,
) -> None:
    layer = "model.layers.1."
    edit_tensors(
        folder,
        {
            layer + "mlp.up_proj.weight": None,
            layer + "mlp.up_project.weight": np.zeros((40, 24), np.float32),
            layer + "self_attn.k_proj.weight": np.zeros((24, 24), np.float32),
            layer + "self_attn.q_proj.weight": np.zeros((24, 24), np.int8),
            "model.layers.1.self_attn.rotary_emb.inv_freq": np.zeros(3, np.float32),
        },
    )
    messages = lines(folder)
    assert len(messages) == 4
    missing, unexpected, misshapen, quantised = messages
    assert "mlp.up_proj.weight [40, 24] is missing" in missing
    assert f"Did you mean `{layer}mlp.up_project.weight`?" in missing
    assert "mlp.up_project.weight" in unexpected
    assert "[24, 24], but config.json implies [12, 24]" in misshapen
    assert "q_proj" in quantised
    assert "I8" in quantised


def test_long_lists_are_truncated(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=12)
    messages = lines(folder)
    assert len(messages) == 21
    assert "and 52 more" in messages[-1]


@pytest.mark.parametrize("cut", [4, 100, 5000])
def test_truncated_files_are_reported(folder: Path, cut: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-cut])
    (line,) = lines(folder)
    assert "model.safetensors: not a complete safetensors file" in line
    assert "cut short" in line


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json"])
def test_a_folder_in_place_of_a_file_is_reported(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).mkdir()
    (line,) = lines(folder)
    assert f"{name}: a folder, expected a" in line


def test_empty_files_are_reported(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")
    assert "not a complete safetensors file" in lines(folder)[0]


def test_missing_weight_files_are_all_named(tmp_path: Path) -> None:
    folder = save_hf_model("llama", tmp_path / "sharded", max_shard_size="20KB")
    files = sorted(folder.glob("*.safetensors"))
    files[1].unlink()
    files[2].write_bytes(files[2].read_bytes()[:-10])
    messages = lines(folder)
    assert len(messages) == 2
    assert files[1].name in messages[0]
    assert files[2].name in messages[1]


def test_tensors_missing_in_an_indexed_file_are_named(tmp_path: Path) -> None:
    folder = save_hf_model("llama", tmp_path / "sharded", max_shard_size="20KB")
    file = sorted(folder.glob("*.safetensors"))[1]
    names = set(load_file(file))
    save_file({"other": np.zeros(1, np.float32)}, file)
    messages = lines(folder)
    assert {name for name in names if any(name in line for line in messages)} == names


def test_a_missing_config_is_reported(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "has no config.json" in lines(folder)[0]


def test_a_config_that_is_not_json_is_reported(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert "not JSON" in lines(folder)[0]


def test_a_config_that_is_not_an_object_is_reported(folder: Path) -> None:
    (folder / "config.json").write_text("[]")
    assert "expected a JSON object" in lines(folder)[0]


def test_an_unknown_model_type_suggests_the_nearest(folder: Path) -> None:
    edit_config(folder, model_type="qwen")
    assert "Did you mean `qwen2`?" in lines(folder)[0]


def test_several_problems_of_a_config_are_reported_together(folder: Path) -> None:
    edit_config(folder, hidden_size="24", quantization_config={"quant_method": "awq"})
    (folder / "model.safetensors").unlink()
    message = "\n".join(lines(folder))
    assert "has no weights" in message
    assert "hidden_size" in message
    assert "quantization_config" in message


def test_folders_with_code_are_refused(folder: Path) -> None:
    edit_config(folder, auto_map={"AutoModel": "x.Y"})
    assert "never run" in lines(folder)[0]


def test_pickles_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (line,) = lines(folder)
    assert "pickle" in line
    assert "save_pretrained" in line


def test_weight_files_without_their_index_are_reported(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    assert "index" in lines(folder)[0]


@pytest.mark.parametrize(
    "file", ["../other.safetensors", "/other.safetensors", "..", "a\0.safetensors", ""]
)
def test_an_index_reads_no_file_outside_of_the_folder(folder: Path, file: str) -> None:
    (folder / "model.safetensors").rename(folder.parent / "other.safetensors")
    name = str(folder.parent / "other.safetensors") if file.startswith("/") else file
    index = {"weight_map": {"model.norm.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (line,) = lines(folder)
    assert f"puts model.norm.weight into {name!r}, expected the name of a .safetensors file" in line


def test_two_sets_of_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    sharded = save_hf_model("llama", tmp_path / "sharded", max_shard_size="20KB")
    (folder / "model.safetensors").rename(sharded / "model.safetensors")
    (line,) = lines(sharded)
    assert "two sets of weights, model.safetensors and the" in line
    assert "transformers reads model.safetensors" in line
    weight_map = dict.fromkeys(load_file(sharded / "model.safetensors"), "model.safetensors")
    index = {"weight_map": weight_map}
    (sharded / "model.safetensors.index.json").write_text(json.dumps(index))
    assert hub.load(sharded, with_tokenizer=False).language_model.widths.layers == 4


@pytest.mark.parametrize("has_base", [True, False])
def test_adapters_are_refused(folder: Path, has_base: bool) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / name).write_text("{}")
    if not has_base:
        (folder / "model.safetensors").unlink()
        (folder / "config.json").unlink()
    (line,) = lines(folder)
    assert "has an adapter (LoRA) in adapter_config.json" in line
    assert "merge_and_unload" in line
    assert ("To read the base weights alone" in line) is has_base


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dtype", []),
        ("dtype", "float23"),
        ("id2label", []),
        ("num_labels", "x"),
        ("use_cache", "x"),
        ("pad_token_id", [1]),
        ("attention_dropout", "x"),
    ],
)
def test_config_values_that_transformers_cannot_read_are_named(
    folder: Path, key: str, value: object
) -> None:
    edit_config(folder, **{key: value})
    (line,) = lines(folder)
    assert line.startswith(f"{folder}/config.json: `{key}` is {value!r}, which transformers cannot")


@pytest.mark.parametrize("name", ["quantize_config.json", "quant_config.json"])
def test_quantised_folders_are_refused_by_the_name_of_their_file(folder: Path, name: str) -> None:
    (folder / name).write_text("{}")
    (line,) = lines(folder)
    assert f"{name} says that the weights are quantised" in line


def test_multimodal_models_are_refused_with_what_to_do(folder: Path) -> None:
    edit_config(folder, model_type="gemma3", text_config={"model_type": "gemma3_text"})
    (line,) = lines(folder)
    assert "only models of text are read" in line
    assert ".gguf" in line
    assert "Did you mean" not in line


@pytest.mark.parametrize("path", ["", " "])
def test_an_empty_name_is_refused(path: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match="the name of the model is empty"):
        hub.read_source(path)


def test_a_missing_folder_suggests_the_nearest(folder: Path) -> None:
    assert "Did you mean `tiny-llama`?" in lines(folder.parent / "tiny-lama")[0]


def test_a_file_that_is_not_a_model_is_refused(folder: Path) -> None:
    assert "expected a folder or a .gguf file" in lines(folder / "config.json")[0]


def test_hub_names_fail_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    (line,) = lines("some-organisation/some-model")
    assert "cannot be reached" in line
    assert "local folder" in line


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.RepositoryNotFoundError, "has no such model"),
        (errors.GatedRepoError, "accept the model's terms"),
        (errors.RevisionNotFoundError, "has no revision `v2`"),
        (errors.HfHubHTTPError, "answered: out of order"),
    ],
)
def test_errors_of_the_hub_are_explained(
    error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object, **__: object) -> str:
        request = httpx2.Request("GET", "https://hub/model")
        raise error("out of order", response=httpx2.Response(403, request=request))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(UserError) as caught:
        hub.read_source("some-organisation/some-model", revision="v2")
    (line,) = caught.value.lines
    assert line.startswith("some-organisation/some-model: ")
    assert message in line


def test_hub_names_are_downloaded_without_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options_seen = {}

    def download(name: str, **options: object) -> str:
        options_seen.update(options, name=name)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert (
        hub.load(
            "organisation/tiny", with_tokenizer=False, revision="v2"
        ).language_model.widths.layers
        == 4
    )
    assert (options_seen["name"], options_seen["revision"]) == ("organisation/tiny", "v2")
    files = ["model.safetensors", "config.json", "modeling.py", "pytorch_model.bin", "onnx/a.json"]
    kept = huggingface_hub.utils.filter_repo_objects(
        files,
        allow_patterns=options_seen["allow_patterns"],
        ignore_patterns=options_seen["ignore_patterns"],
    )
    assert list(kept) == files[:2]


@pytest.mark.parametrize("value", ["x", [1, None], True, -1, {"id": 2}, 2**40])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_eos_ids_that_are_not_token_ids_are_refused(folder: Path, file: str, value: object) -> None:
    (folder / "generation_config.json").write_text("{}")
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, "eos_token_id": value}))
    model = hub.load(folder, with_tokenizer=False)
    with pytest.raises(UserError) as caught:
        _ = model.eos_ids
    assert caught.value.lines[0].startswith(f"{file}: `eos_token_id` is {value!r}, expected a")


def test_index_entries_that_are_not_file_names_are_reported(folder: Path) -> None:
    index = {"weight_map": {"a": 1, "b": ["model.safetensors"], "c": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    messages = lines(folder)
    assert len(messages) == 2
    assert "`weight_map` puts a into 1, expected the name of a .safetensors file" in messages[0]


def test_a_model_type_that_is_not_a_string_is_refused(folder: Path) -> None:
    edit_config(folder, model_type=["llama"])
    assert "`model_type` is ['llama'], expected one of" in lines(folder)[0]


def test_config_errors_come_before_tokenizer_errors(folder: Path) -> None:
    edit_config(folder, num_attention_heads=5, num_key_value_heads=5, head_dim=None)
    with pytest.raises(UserError) as caught:
        hub.load(folder)
    (line,) = caught.value.lines
    assert "`num_attention_heads` is 5, expected a divisor of hidden_size, 24" in line


@pytest.mark.parametrize("dtype", ["int8", "foo", "float8_e4m3fn"])
def test_dtypes_not_of_parameters_are_refused(folder: Path, tmp_path: Path, dtype: str) -> None:
    message = f"'{dtype}' is not one of float32, bfloat16, float16"
    with pytest.raises(UserError, match=message):
        hub.load(folder, with_tokenizer=False, dtype=dtype)
    with pytest.raises(UserError, match=message):
        hub.save(hub.load(folder, with_tokenizer=False), tmp_path / "copy", dtype=dtype)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([[1, 2], [3]], "expected one length for all"),
        ([], "expected one length for all"),
        ([[0, 1], [2, 10_000]], "sequence 1: it has token 10000, and the model knows"),
        ([[-1]], "sequence 0: it has token -1"),
        ([[]], "sequence 0: it has no token"),
    ],
)
def test_invalid_rows_of_logits_are_reported(
    folder: Path, tokens: list[list[int]], message: str
) -> None:
    model = Model(hub.load(folder, with_tokenizer=False))
    with pytest.raises(UserError, match=message):
        model.logits(tokens)


def test_a_missing_tokenizer_is_reported(folder: Path) -> None:
    with pytest.raises(UserError, match="has no tokenizer"):
        hub.load(folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer.json": "{"}, "tokenizer.json is damaged: Expecting property name"),
        (
            {"tokenizer.json": "{}", "tokenizer_config.json": "{"},
            "tokenizer_config.json: not JSON (Expecting property name",
        ),
        ({"tokenizer_config.json": "{}"}, "there is no tokenizer.json"),
    ],
)
def test_damaged_tokenizer_files_are_named(
    folder: Path, files: dict[str, str], message: str
) -> None:
    for name, content in files.items():
        (folder / name).write_text(content)
    with pytest.raises(UserError) as caught:
        hub.load(folder)
    (line,) = caught.value.lines
    assert message in line
    assert "\n" not in line


def test_loading_values_too_large_for_float16_fails(folder: Path) -> None:
    edit_tensors(folder, {"model.norm.weight": np.full(24, 1e6, np.float32)})
    with pytest.raises(UserError, match=r"model\.norm\.weight: 1e\+06 is too large for float16"):
        hub.load(folder, with_tokenizer=False, dtype="float16")
