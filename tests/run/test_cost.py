"""Inference cost of a model, measured in its own process, and errors of that process."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file

from jaxdistill import evals, run
from jaxdistill.errors import UserError
from jaxdistill.runtimes import torch_runtime
from jaxdistill.runtimes.cost import CostRequest

FEW_TOKENS = {"prompt_tokens": 4, "new_tokens": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.model_folder(tmp_path_factory.mktemp("cost") / "model", hidden_size=128)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch):
    # On busy cores PyTorch's threads wait for each other at every small step, for minutes.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def replace_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Replace PyTorch by a program, in processes that a test starts."""

    def replace(program: str) -> None:
        (tmp_path / "torch.py").write_text(program)
        paths = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))

    return replace


def assert_agrees_with_files(cost: evals.Cost, folder: Path, num_parameters: int):
    assert cost.num_parameters == num_parameters
    assert cost.size_on_disk == sum(file.stat().st_size for file in folder.iterdir())
    assert cost.peak_bytes > 4 * cost.num_parameters
    # The first of 64 tokens comes before the last. They are measured separately, in milliseconds
    # here, so that with fewer tokens noise could reverse them.
    assert 0 < cost.first_token_seconds < 2 * 64 / cost.tokens_per_second


@pytest.fixture(scope="module")
def num_parameters(folder: Path) -> int:
    return sum(tensor.size for tensor in load_file(folder / "model.safetensors").values())


def test_command_prints_a_table_or_json(folder: Path, num_parameters, command, monkeypatch):
    arguments = ("cost", "--model", folder, "--prompt-tokens", 8, "--new-tokens", 64)
    options = ("--batch-size", 2, "--dtype", "bfloat16", "--json")
    code, stdout, stderr = command(*arguments, *options)
    assert (code, stderr) == (0, "")
    values = json.loads(stdout.splitlines()[-1])
    assert list(values) == [field.name for field in fields(evals.Cost)]
    cost = evals.Cost(**values)
    assert_agrees_with_files(cost, folder, num_parameters)
    monkeypatch.setattr(run, "measure_cost", lambda path, **request: cost)
    code, stdout, _ = command(*arguments)
    labels = ["Parameters", "Size on disk", "Peak memory", "Seconds to first token"]
    assert [line[:24].strip() for line in stdout.splitlines()] == [*labels, "Tokens per second"]


def test_run_folder_means_its_student_and_pytorch_files_are_read(
    folder: Path, num_parameters, tmp_path: Path
):
    out = run.export(str(folder), str(tmp_path / "run" / "student"), format="torch")
    (tmp_path / "run" / "config.yaml").touch()
    request = {"prompt_tokens": 8, "new_tokens": 64, "batch_size": 2}
    cost = run.measure_cost(str(tmp_path / "run"), runtime="torch", **request)
    assert_agrees_with_files(cost, out, num_parameters)
    with pytest.raises(UserError, match="a pickle"):
        run.measure_cost(str(tmp_path / "run"), **FEW_TOKENS)
    shutil.rmtree(out)
    with pytest.raises(UserError, match="exported no student yet"):
        run.measure_cost(str(tmp_path / "run"), **FEW_TOKENS)


def test_pickle_without_weights_is_not_executed(folder: Path, tmp_path: Path):
    out = run.export(str(folder), str(tmp_path / "model"), format="torch")
    # A pickle that calls `os.mkdir(...)`.
    program = b"cos\nmkdir\n(V" + str(tmp_path / "ran").encode() + b"\ntR."
    (out / "pytorch_model.bin").write_bytes(program)
    with pytest.raises(UserError, match=r"holds more than weights.*`jaxdistill export"):
        run.measure_cost(str(out), runtime="torch", **FEW_TOKENS)
    assert not (tmp_path / "ran").exists()


def test_too_many_tokens_are_refused(folder: Path):
    request = CostRequest(str(folder), "torch", 200, 57, 1, "float32")
    with pytest.raises(UserError, match="200 prompt tokens and 57 new ones exceed"):
        torch_runtime.load_model(request)


def test_truncated_file_is_refused(folder: Path, tmp_path: Path):
    truncated = shutil.copytree(folder, tmp_path / "truncated") / "model.safetensors"
    truncated.write_bytes(truncated.read_bytes()[:-100])
    request = CostRequest(str(truncated.parent), "torch", 4, 4, 1, "float32")
    with pytest.raises(UserError, match=r"`transformers` cannot load it"):
        torch_runtime.load_model(request)


def test_mistakes_are_refused_before_a_process_starts(folder: Path):
    for path, options, expected in (
        (folder.with_name("modl"), {}, "Did you mean `model`"),
        ("x" * 300, {}, "no file can have this name"),
        (folder, {"runtime": "jx"}, "Did you mean `jax`"),
        (folder, {"new_tokens": 0}, "new_tokens: 0 is too few"),
    ):
        with pytest.raises(UserError, match=expected):
            run.measure_cost(str(path), **options)


def test_gguf_file_is_refused_for_torch(tmp_path: Path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tensor("token_embd.weight", np.zeros((16, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for path in (tmp_path, tmp_path / "x.gguf"):
        with pytest.raises(UserError, match=rf"x\.gguf: .* `jaxdistill export --model {path} "):
            run.measure_cost(str(path), runtime="torch")


def test_error_without_pytorch_tells_how_to_install_it(folder: Path, replace_torch):
    replace_torch("raise ImportError")
    with pytest.raises(UserError, match=r"pip install 'jaxdistill\[torch\]'"):
        run.measure_cost(str(folder), runtime="torch")


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("import os; os.kill(os.getpid(), 9)", "memory ran out"),
        ("import sys; sys.exit(3)", "exit code 3; its messages are above"),
    ],
)
def test_dead_process_is_one_error(folder: Path, replace_torch, program: str, expected: str):
    replace_torch(program)
    with pytest.raises(UserError, match=expected):
        run.measure_cost(str(folder), runtime="torch")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_signal_ends_both_processes(folder: Path, replace_torch, tmp_path: Path, number):
    pid, started = tmp_path / "pid", tmp_path / "started"
    replace_torch(
        f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid()));"
        f"os.mkdir({str(started)!r}); time.sleep(60)"
    )
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, "-m", "jaxdistill", "cost", "--runtime", "torch"]
    with subprocess.Popen(
        [*command, "--model", str(folder)], stderr=subprocess.PIPE, text=True
    ) as process:
        signal.signal(signal.SIGINT, before)
        _wait_for(lambda: started.exists() or process.poll() is not None)
        process.send_signal(number)
        stderr = process.communicate(timeout=60)[1]
    expected = (130, "\nStopped.\n") if number == signal.SIGINT else (-9, "")
    assert (process.returncode, stderr) == expected
    _wait_for(lambda: not _is_alive(int(pid.read_text())))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    # A dead process may remain as a zombie of its new parent.
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


def _wait_for(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
