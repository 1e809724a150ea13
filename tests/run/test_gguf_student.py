"""Runs that also write their student as a GGUF file."""

import json

import pytest
import tiny

import jaxdistill


def test_run_writes_a_gguf_file_beside_the_folder(workspace, command):
    """A student that is read from a GGUF file is compared with it by the size of such files."""
    teacher = workspace / "teacher.gguf"
    jaxdistill.load(workspace / "teacher").save(teacher, format="gguf")
    options = [f"teacher.model={teacher}", f"student.model={teacher}", "student.gguf_dtype=q8_0"]
    code, stdout, stderr = command("train", workspace / "config.yaml", *options)
    assert code == 0, stderr
    file = workspace / "run/student.gguf"
    assert "GGUF     run/student.gguf" in stdout
    comparison = json.loads((workspace / "run/result.json").read_text())["comparison"]
    assert comparison["student"]["gguf_size"] == file.stat().st_size < teacher.stat().st_size
    assert comparison["teacher"]["gguf_size"] == teacher.stat().st_size
    assert "size_on_disk" not in comparison["teacher"]
    exported, read = (jaxdistill.load(path) for path in (workspace / "run/student", file))
    assert read.language_model.widths.layers == exported.language_model.widths.layers == 1
    assert read.tokenizer.get_vocab() == exported.tokenizer.get_vocab()

    file.unlink()  # then the run is not finished
    assert command("train", workspace / "config.yaml", *options)[0] == 0
    assert file.is_file()
    options[-1] = "student.gguf_dtype=null"
    assert command("train", workspace / "config.yaml", *options)[0] == 0
    assert not file.exists()


@pytest.mark.parametrize("name", ["train", "check"])
def test_family_without_gguf_is_refused_before_training(workspace, command, name):
    attention = {"attention_types": [[["global", "local"], 1]], "window_size": 5}
    layers = {"num_layers": 2, "num_heads": 2}
    model = tiny.model_folder(workspace / "neo", model_type="gpt_neo", **layers, **attention)
    options = [f"teacher.model={model}", f"student.model={model}", "student.gguf_dtype=q8_0"]
    code, _, stderr = command(name, workspace / "config.yaml", *options)
    assert code == 2
    assert "student.gguf_dtype: " in stderr
    assert "gpt_neo" in stderr
    assert "Set `student.gguf_dtype=null`" in stderr
    assert not (workspace / "run/metrics.jsonl").exists()
