"""Signals to a study reach its runs, and one study at a time works in a folder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxdistill import study
from jaxdistill.errors import UserError
from jaxdistill.study.process_runner import ProcessRunner, lock_folder

RUNNER = sys.modules["jaxdistill.study.runner"]
LONG_COMMAND = [sys.executable, "-c", "import time; time.sleep(60)"]

STUDY_TO_KILL = """
import os, signal, sys
from pathlib import Path
from jaxdistill.study.process_runner import ProcessRunner, lock_folder

run = "import sys, time; print(flush=True); time.sleep(1); open(sys.argv[1], 'w').write('done')"
folder = Path(sys.argv[1])
with lock_folder(folder, lambda: None) as lock, ProcessRunner.open(lock) as processes:
    processes.run([sys.executable, "-c", run, sys.argv[2]])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_between_runs_ends_the_study(workspace, monkeypatch, number):
    printed = []

    def command(study_run):
        done = workspace / f"{study_run.arm}-{study_run.seed}"
        return [sys.executable, "-c", f"open({str(done)!r}, 'w')"]

    def print_and_signal(text):
        printed.append(text)
        if text.startswith("[2/4]"):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(RUNNER, "_train_command", command)
    monkeypatch.setattr(RUNNER, "_print", print_and_signal)
    previous = signal.getsignal(number)
    path = workspace / "study.yaml"
    assert study.run(study.read(path), path) == 130
    assert signal.getsignal(number) is previous
    assert [path.name for path in workspace.glob("*-0")] == ["teacher-0"]
    assert printed == [
        "[1/4] teacher, seed 0",
        "[2/4] labels, seed 0",
        "Stopped in run 2 of 4. The same command continues from there.",
    ]


def test_a_signal_ends_the_current_process():
    with ProcessRunner.open() as processes:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        assert processes.run(LONG_COMMAND) == 130
        assert processes.run(LONG_COMMAND) == 130


def test_an_ignored_signal_stays_ignored():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    try:
        with ProcessRunner.open() as processes:
            os.kill(os.getpid(), signal.SIGHUP)
            assert processes.run([sys.executable, "-c", "raise SystemExit(3)"]) == 3
    finally:
        signal.signal(signal.SIGHUP, previous)


def test_a_run_that_outlives_its_study_is_waited_for(tmp_path: Path):
    folder, done = tmp_path / "study", tmp_path / "done"
    killed = subprocess.Popen(
        [sys.executable, "-c", STUDY_TO_KILL, str(folder), str(done)],
        stdout=subprocess.PIPE,
    )
    assert killed.stdout is not None
    killed.stdout.readline()  # its run has started
    killed.kill()
    killed.wait()
    assert not done.exists()
    waited = []
    start = time.monotonic()
    with lock_folder(folder, lambda: waited.append(time.monotonic() - start)):
        assert done.read_text() == "done"
    assert len(waited) == 1
    killed.stdout.close()


def test_a_file_cannot_be_the_folder_of_a_study(tmp_path: Path):
    (tmp_path / "study").write_text("")
    with (
        pytest.raises(UserError, match=r"study cannot be a study's folder: File exists\. Choose"),
        lock_folder(tmp_path / "study", lambda: None),
    ):
        pass
