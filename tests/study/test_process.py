"""What a study's runs hear, and who may work in its folder."""

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

MODULE = sys.modules["jaxdistill.study.runner"]  # the package's `run` is the function
LONG = [sys.executable, "-c", "import time; time.sleep(60)"]

STUDY_THAT_IS_KILLED = """
import os, signal, sys
from pathlib import Path
from jaxdistill.study.process_runner import Processes, locked

run = "import sys, time; print(flush=True); time.sleep(1); open(sys.argv[1], 'w').write('done')"
with locked(Path(sys.argv[1]), lambda: None) as lock, Processes(lock) as processes:
    processes.run([sys.executable, "-c", run, sys.argv[2]])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_between_runs_ends_the_study(place, monkeypatch, number):
    said = []

    def command(member):
        done = place / f"{member.arm}-{member.seed}"
        return [sys.executable, "-c", f"open({str(done)!r}, 'w')"]

    def say(text):
        said.append(text)
        if text.startswith("[2/4]"):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(MODULE, "_command", command)
    monkeypatch.setattr(MODULE, "_say", say)
    before = signal.getsignal(number)
    assert study.run(study.read(place / "study.yaml"), place / "study.yaml") == 130
    assert signal.getsignal(number) is before
    assert [path.name for path in place.glob("*-0")] == ["teacher-0"]
    assert said == [
        "[1/4] teacher, seed 0",
        "[2/4] words, seed 0",
        "Stopped in run 2 of 4. The same command goes on there.",
    ]


def test_a_signal_ends_the_process_that_runs():
    with ProcessRunner() as processes:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        assert processes.run(LONG) == 130
        assert processes.run(LONG) == 130


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    try:
        with ProcessRunner() as processes:
            os.kill(os.getpid(), signal.SIGHUP)
            assert processes.run([sys.executable, "-c", "raise SystemExit(3)"]) == 3
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_that_outlives_its_study_is_waited_for(tmp_path: Path):
    folder, done = tmp_path / "study", tmp_path / "done"
    killed = subprocess.Popen(
        [sys.executable, "-c", STUDY_THAT_IS_KILLED, str(folder), str(done)],
        stdout=subprocess.PIPE,
    )
    assert killed.stdout is not None
    killed.stdout.readline()  # its run runs
    killed.kill()
    killed.wait()
    assert not done.exists()
    waited = []
    start = time.monotonic()
    with lock_folder(folder, lambda: waited.append(time.monotonic() - start)):
        assert done.read_text() == "done"
    assert len(waited) == 1
    killed.stdout.close()


def test_a_file_is_no_folder_for_a_study(tmp_path: Path):
    (tmp_path / "study").write_text("")
    with (
        pytest.raises(UserError, match=r"study cannot be a study's folder: File exists\. Choose"),
        lock_folder(tmp_path / "study", lambda: None),
    ):
        pass
