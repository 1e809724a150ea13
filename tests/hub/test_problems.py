"""What is wrong with a folder is said in lines that tell what to do, all of it at once."""

import json
from pathlib import Path

import httpx2
import huggingface_hub.utils
import numpy as np
import pytest
from huggingface_hub import errors
from originals import save_original
from safetensors.numpy import load_file, save_file

from jaxdistill import hub
from jaxdistill.errors import UserError
from jaxdistill.model import Model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_original("llama", tmp_path / "tiny-llama")


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


def test_missing_unexpected_misshapen_and_quantised_tensors_are_told_together(
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
    told = lines(folder)
    assert len(told) == 4
    missing, unexpected, misshapen, quantised = told
    assert "mlp.up_proj.weight [40, 24] is missing" in missing
    assert f"Did you mean `{layer}mlp.up_project.weight`?" in missing
    assert "mlp.up_project.weight" in unexpected
    assert "[24, 24], but config.json makes it [12, 24]" in misshapen
    assert "q_proj" in quantised
    assert "I8" in quantised


def test_long_lists_are_cut(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=12)
    told = lines(folder)
    assert len(told) == 21
    assert "and 52 more" in told[-1]


@pytest.mark.parametrize("cut", [4, 100, 5000])
def test_truncated_file(folder: Path, cut: int) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-cut])
    (line,) = lines(folder)
    assert "model.safetensors: not a whole safetensors file" in line
    assert "cut short" in line


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json"])
def test_a_folder_in_a_files_place(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).mkdir()
    (line,) = lines(folder)
    assert f"{name}: a folder, expected a" in line


def test_empty_file(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")
    assert "not a whole safetensors file" in lines(folder)[0]


def test_missing_shards_are_all_named(tmp_path: Path) -> None:
    folder = save_original("llama", tmp_path / "sharded", max_shard_size="20KB")
    shards = sorted(folder.glob("*.safetensors"))
    shards[1].unlink()
    shards[2].write_bytes(shards[2].read_bytes()[:-10])
    told = lines(folder)
    assert len(told) == 2
    assert shards[1].name in told[0]
    assert shards[2].name in told[1]


def test_a_shard_without_what_the_index_promises(tmp_path: Path) -> None:
    folder = save_original("llama", tmp_path / "sharded", max_shard_size="20KB")
    shard = sorted(folder.glob("*.safetensors"))[1]
    names = set(load_file(shard))
    save_file({"other": np.zeros(1, np.float32)}, shard)
    told = lines(folder)
    assert {name for name in names if any(name in line for line in told)} == names


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "has no config.json" in lines(folder)[0]


def test_config_that_is_not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert "not JSON" in lines(folder)[0]


def test_config_that_is_not_an_object(folder: Path) -> None:
    (folder / "config.json").write_text("[]")
    assert "expected a JSON object" in lines(folder)[0]


def test_unknown_model_type_names_the_nearest(folder: Path) -> None:
    edit_config(folder, model_type="qwen")
    assert "Did you mean `qwen2`?" in lines(folder)[0]


def test_several_findings_in_a_config(folder: Path) -> None:
    edit_config(folder, hidden_size="24", quantization_config={"quant_method": "awq"})
    (folder / "model.safetensors").unlink()
    told = "\n".join(lines(folder))
    assert "has no weights" in told
    assert "hidden_size" in told
    assert "quantization_config" in told


def test_code_is_never_run(folder: Path) -> None:
    edit_config(folder, auto_map={"AutoModel": "x.Y"})
    assert "never run" in lines(folder)[0]


def test_pickles_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    (line,) = lines(folder)
    assert "pickle" in line
    assert "save_pretrained" in line


def test_shards_without_their_index(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    assert "index" in lines(folder)[0]


def test_no_such_folder_names_the_nearest(folder: Path) -> None:
    assert "Did you mean `tiny-llama`?" in lines(folder.parent / "tiny-lama")[0]


def test_a_file_that_is_no_model(folder: Path) -> None:
    assert "expected a folder or a .gguf file" in lines(folder / "config.json")[0]


def test_hub_names_fail_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    (line,) = lines("some-organisation/some-model")
    assert "cannot be reached" in line
    assert "local folder" in line


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (errors.RepositoryNotFoundError, "has no such model"),
        (errors.GatedRepoError, "accepted its terms"),
        (errors.RevisionNotFoundError, "has no revision `v2`"),
        (errors.HfHubHTTPError, "answered: out of order"),
    ],
)
def test_what_the_hub_answers(
    error: type[Exception], told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
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
    assert told in line


def test_hub_names_are_downloaded_without_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def download(name: str, **options: object) -> str:
        asked.update(options, name=name)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert hub.load("organisation/tiny", with_tokenizer=False, revision="v2").config.num_layers == 4
    assert (asked["name"], asked["revision"]) == ("organisation/tiny", "v2")
    files = ["model.safetensors", "config.json", "modeling.py", "pytorch_model.bin", "onnx/a.json"]
    kept = huggingface_hub.utils.filter_repo_objects(
        files, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
    )
    assert list(kept) == files[:2]


@pytest.mark.parametrize("value", ["x", [1, None], True, -1, {"id": 2}, 2**40])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_ends_that_are_no_tokens(folder: Path, file: str, value: object) -> None:
    (folder / "generation_config.json").write_text("{}")
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, "eos_token_id": value}))
    model = hub.load(folder, with_tokenizer=False)
    with pytest.raises(UserError) as caught:
        _ = model.eos_ids
    assert caught.value.lines[0].startswith(f"{file}: `eos_token_id` is {value!r}, expected a")


def test_shards_that_are_no_names(folder: Path) -> None:
    index = {"weight_map": {"a": 1, "b": ["model.safetensors"], "c": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    told = lines(folder)
    assert len(told) == 2
    assert "`weight_map` puts a into 1, expected a file's name" in told[0]


def test_a_type_that_is_no_word(folder: Path) -> None:
    edit_config(folder, model_type=["llama"])
    assert "`model_type` is ['llama'], expected one of" in lines(folder)[0]


def test_heads_that_do_not_divide_are_found_before_the_tokenizer(folder: Path) -> None:
    edit_config(folder, num_attention_heads=5, num_key_value_heads=5, head_dim=None)
    with pytest.raises(UserError) as caught:
        hub.load(folder)
    (line,) = caught.value.lines
    assert "`num_attention_heads` is 5, expected a divisor of hidden_size, 24" in line


@pytest.mark.parametrize("dtype", ["int8", "foo", "float8_e4m3fn"])
def test_dtypes_that_hold_no_parameters(folder: Path, tmp_path: Path, dtype: str) -> None:
    told = f"'{dtype}' is not one of float32, bfloat16, float16"
    with pytest.raises(UserError, match=told):
        hub.load(folder, with_tokenizer=False, dtype=dtype)
    with pytest.raises(UserError, match=told):
        hub.save(hub.load(folder, with_tokenizer=False), tmp_path / "copy", dtype=dtype)


@pytest.mark.parametrize(
    ("tokens", "told"),
    [
        ([[1, 2], [3]], "expected one length for all"),
        ([], "expected one length for all"),
        ([[0, 1], [2, 10_000]], "row 1: it has token 10000, and the model knows"),
        ([[-1]], "row 0: it has token -1"),
        ([[]], "row 0: it has no token"),
    ],
)
def test_rows_that_have_no_logits(folder: Path, tokens: list[list[int]], told: str) -> None:
    model = Model(hub.load(folder, with_tokenizer=False))
    with pytest.raises(UserError, match=told):
        model.logits(tokens)


def test_no_tokenizer(folder: Path) -> None:
    with pytest.raises(UserError, match="has no tokenizer"):
        hub.load(folder)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"tokenizer.json": "{"}, "tokenizer.json is damaged: Expecting property name"),
        (
            {"tokenizer.json": "{}", "tokenizer_config.json": "{"},
            "tokenizer_config.json is damaged: Expecting property name",
        ),
        ({"tokenizer_config.json": "{}"}, "there is no tokenizer.json"),
    ],
)
def test_broken_tokenizer(folder: Path, files: dict[str, str], said: str) -> None:
    for name, content in files.items():
        (folder / name).write_text(content)
    with pytest.raises(UserError, match="tokenizer cannot be read") as caught:
        hub.load(folder)
    (line,) = caught.value.lines
    assert said in line
    assert "\n" not in line


def test_too_large_for_float16(folder: Path) -> None:
    edit_tensors(folder, {"model.norm.weight": np.full(24, 1e6, np.float32)})
    with pytest.raises(UserError, match=r"model\.norm\.weight: 1e\+06 is too large for float16"):
        hub.load(folder, with_tokenizer=False, dtype="float16")
