import io
import math
import sys

import pytest
from rich.console import Console

from jaxdistill.errors import UserError
from jaxdistill.track import (
    ConsoleTracker,
    Progress,
    TensorBoardTracker,
    TrackConfig,
    open_trackers,
)


def plain():
    return Console(file=io.StringIO(), width=60)


def terminal():
    return Console(file=io.StringIO(), width=160, force_terminal=True)


def test_a_step_is_one_line_however_narrow_the_log():
    console = plain()
    tracker = ConsoleTracker(num_steps=20, console=console)
    values = {f"train/quantity_{i}": float(i) for i in range(12)}
    tracker.log_metrics(3, {**values, "time/seconds": 1.25})
    text = console.file.getvalue()
    assert text.count("\n") == 1
    assert text.startswith("step 3/20  train  quantity_0 0  quantity_1 1")
    assert text.endswith("seconds 1.25\n")


def test_rooms_have_their_own_lines():
    console = plain()
    ConsoleTracker(console=console).log_metrics(
        0, {"train/loss": 2.345678, "train/tokens": 12345, "eval/nll": math.nan}
    )
    assert console.file.getvalue() == (
        "step 0  train  loss 2.346  tokens 12,345\nstep 0  eval  nll nan\n"
    )


def test_the_opening_table_shows_every_entry():
    console = plain()
    ConsoleTracker(console=console).log_config({"student": "10 layers", "parameters": 55_000_000})
    text = console.file.getvalue()
    assert "10 layers" in text
    assert "55,000,000" in text


def test_a_bar_is_drawn_on_a_terminal_only():
    for console, drawn in ((plain(), False), (terminal(), True)):
        with Progress("train", total=2, console=console) as progress:
            progress.advance(tokens=100, note="loss 2.3")
            progress.advance(tokens=100, note="loss [2.2]")
        text = console.file.getvalue()
        assert ("tokens/s" in text) == drawn
        assert ("loss [2.2]" in text) == drawn
        assert ("2/2" in text) == drawn


def test_what_comes_in_parts_is_told_with_and_without_a_terminal():
    for console in (plain(), terminal()):
        with Progress("teacher writes", 0, console=console) as progress:
            progress.advance_to(2, 5, 30)
            progress.advance_to(5, 5, 40)
        assert "5/5" in console.file.getvalue()
        assert "tokens/s" in console.file.getvalue()


def test_lines_and_bar_share_a_terminal():
    console = terminal()
    with Progress("train", total=2, console=console) as progress:
        ConsoleTracker(console=console).log_metrics(1, {"train/loss": 1.0})
        progress.advance(tokens=1)
    assert "step 1  train  loss 1" in console.file.getvalue()


def test_tensorboard_writes_an_event_file(tmp_path):
    trackers = open_trackers(TrackConfig(tensorboard=True), tmp_path, console=plain())
    for tracker in trackers:
        tracker.log_config({"student": "small"})
        tracker.log_metrics(1, {"train/loss": 1.0})
        tracker.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss" in events.read_bytes()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "train/loss": 1.0}\n'


def test_without_tensorboardx_the_cure_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"pip install 'jaxdistill\[tensorboard\]'"):
        TensorBoardTracker(tmp_path)
