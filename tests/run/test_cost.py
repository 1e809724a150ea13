"""What a model costs, in a process of its own, and all that may go wrong with that."""

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

FEW = {"prompt_tokens": 4, "new_tokens": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.model_folder(tmp_path_factory.mktemp("cost") / "model", hidden_size=128)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch):
    # PyTorch's threads wait for each other at every small step: minutes, where cores are busy.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a program in the place of PyTorch, for the processes that are started."""

    def put(program: str) -> None:
        (tmp_path / "torch.py").write_text(program)
        found = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(found))

    return put


@pytest.mark.parametrize("runtime", ["jax", "torch"])
def test_the_numbers_agree_with_the_files(folder: Path, runtime):
    found = run.measure_cost(
        str(folder), runtime=runtime, prompt_tokens=8, new_tokens=64, batch_size=2
    )
    tensors = load_file(folder / "model.safetensors")
    assert found.num_parameters == sum(tensor.size for tensor in tensors.values())
    assert found.size_on_disk == sum(file.stat().st_size for file in folder.iterdir())
    assert found.peak_bytes > 4 * found.num_parameters
    # The first of 64 tokens is there before the last one is; both are measured apart, in
    # milliseconds here, so that fewer tokens could not be told from noise.
    assert 0 < found.first_token_seconds < 2 * 64 / found.tokens_per_second


def test_the_command_says_it_for_people_and_for_programs(folder: Path, command, monkeypatch):
    ask = ("cost", "--model", folder, "--prompt-tokens", 4, "--new-tokens", 4)
    code, printed, complained = command(*ask, "--dtype", "bfloat16", "--json")
    assert (code, complained) == (0, "")
    values = json.loads(printed.splitlines()[-1])
    assert list(values) == [field.name for field in fields(evals.Cost)]
    assert all(value > 0 for value in values.values())
    monkeypatch.setattr(run, "measure_cost", lambda path, **request: evals.Cost(**values))
    code, printed, _ = command(*ask)
    labels = ["Parameters", "Size on disk", "Peak memory", "Seconds to first token"]
    assert [line[:24].strip() for line in printed.splitlines()] == [*labels, "Tokens per second"]


def test_a_run_is_its_student_and_pytorchs_own_files_are_read(folder: Path, tmp_path: Path):
    out = run.export(str(folder), str(tmp_path / "run" / "student"), format="torch")
    (tmp_path / "run" / "config.yaml").touch()
    found = run.measure_cost(str(tmp_path / "run"), runtime="torch", **FEW)
    assert found.size_on_disk == sum(file.stat().st_size for file in out.iterdir())
    with pytest.raises(UserError, match="a pickle"):
        run.measure_cost(str(tmp_path / "run"), **FEW)
    shutil.rmtree(out)
    with pytest.raises(UserError, match="exported no student yet"):
        run.measure_cost(str(tmp_path / "run"), **FEW)


def test_a_pickle_that_is_no_weights_is_not_run(folder: Path, tmp_path: Path):
    out = run.export(str(folder), str(tmp_path / "model"), format="torch")
    # The pickle of a call: `os.mkdir(...)`.
    program = b"cos\nmkdir\n(V" + str(tmp_path / "ran").encode() + b"\ntR."
    (out / "pytorch_model.bin").write_bytes(program)
    with pytest.raises(UserError, match=r"holds more than weights.*`jaxdistill export"):
        run.measure_cost(str(out), runtime="torch", **FEW)
    assert not (tmp_path / "ran").exists()


def test_lengths_that_the_model_does_not_read(folder: Path):
    with pytest.raises(UserError, match="200 tokens of a prompt and 57 new ones are more than"):
        run.measure_cost(str(folder), runtime="torch", prompt_tokens=200, new_tokens=57)


def test_a_file_that_was_cut_short(folder: Path, tmp_path: Path):
    broken = shutil.copytree(folder, tmp_path / "broken") / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"`transformers` does not load it"):
        run.measure_cost(str(broken.parent), runtime="torch", **FEW)


def test_what_is_refused_before_anything_is_started(folder: Path):
    for path, more, expected in (
        (folder.with_name("modl"), {}, "Did you mean `model`"),
        ("x" * 300, {}, "no file can have this name"),
        (folder, {"runtime": "jx"}, "Did you mean `jax`"),
        (folder, {"new_tokens": 0}, "new_tokens: 0 is too few"),
    ):
        with pytest.raises(UserError, match=expected):
            run.measure_cost(str(path), **more)


def test_a_gguf_file_is_not_for_torch(tmp_path: Path):
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


def test_without_pytorch(folder: Path, pretended):
    pretended("raise ImportError")
    with pytest.raises(UserError, match=r"pip install 'jaxdistill\[torch\]'"):
        run.measure_cost(str(folder), runtime="torch")


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("import os; os.kill(os.getpid(), 9)", "want of memory"),
        ("import sys; sys.exit(3)", "exit code 3; what it said stands above"),
    ],
)
def test_a_process_that_dies(folder: Path, pretended, program: str, expected: str):
    pretended(program)
    with pytest.raises(UserError, match=expected):
        run.measure_cost(str(folder), runtime="torch")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_both_processes(folder: Path, pretended, tmp_path: Path, number):
    pid, started = tmp_path / "pid", tmp_path / "started"
    pretended(
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
        complained = process.communicate(timeout=60)[1]
    expected = (130, "\nStopped.\n") if number == signal.SIGINT else (-9, "")
    assert (process.returncode, complained) == expected
    _wait_for(lambda: not _is_alive(int(pid.read_text())))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    # Whoever adopted it may leave it lying, dead.
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


def _wait_for(is_so) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)
