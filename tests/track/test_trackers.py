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


def plain_console():
    return Console(file=io.StringIO(), width=60)


def terminal_console():
    return Console(file=io.StringIO(), width=160, force_terminal=True)


def test_record_is_one_line_on_a_narrow_console():
    console = plain_console()
    tracker = ConsoleTracker(num_steps=20, console=console)
    values = {f"train/quantity_{i}": float(i) for i in range(12)}
    tracker.log_metrics(3, {**values, "time/seconds": 1.25})
    text = console.file.getvalue()
    assert text.count("\n") == 1
    assert text.startswith("step 3/20  train  quantity_0 0  quantity_1 1")
    assert text.endswith("seconds 1.25\n")


def test_each_package_has_its_own_line():
    console = plain_console()
    ConsoleTracker(console=console).log_metrics(
        0, {"train/loss": 2.345678, "train/tokens": 12345, "eval/nll": math.nan}
    )
    assert console.file.getvalue() == (
        "step 0  train  loss 2.346  tokens 12,345\nstep 0  eval  nll nan\n"
    )


def test_table_at_the_start_shows_every_fact():
    console = plain_console()
    ConsoleTracker(console=console).log_config({"student": "10 layers", "parameters": 55_000_000})
    text = console.file.getvalue()
    assert "10 layers" in text
    assert "55,000,000" in text


def test_bar_is_drawn_on_a_terminal_only():
    for console, is_drawn in ((plain_console(), False), (terminal_console(), True)):
        with Progress("train", total=2, console=console) as progress:
            progress.advance(tokens=100, note="loss 2.3")
            progress.advance(tokens=100, note="loss [2.2]")
        text = console.file.getvalue()
        assert ("tokens/s" in text) == is_drawn
        assert ("loss [2.2]" in text) == is_drawn
        assert ("2/2" in text) == is_drawn


def test_progress_of_batches_is_shown_with_and_without_a_terminal():
    for console in (plain_console(), terminal_console()):
        with Progress("teacher writes", 0, console=console) as progress:
            progress.advance_to(2, 5, 30)
            progress.advance_to(5, 5, 40)
        assert "5/5" in console.file.getvalue()
        assert "tokens/s" in console.file.getvalue()


def test_lines_and_bar_share_a_terminal():
    console = terminal_console()
    with Progress("train", total=2, console=console) as progress:
        ConsoleTracker(console=console).log_metrics(1, {"train/loss": 1.0})
        progress.advance(tokens=1)
    assert "step 1  train  loss 1" in console.file.getvalue()


def test_tensorboard_tracker_writes_an_event_file(tmp_path):
    trackers = open_trackers(TrackConfig(tensorboard=True), tmp_path, console=plain_console())
    for tracker in trackers:
        tracker.log_config({"student": "small"})
        tracker.log_metrics(1, {"train/loss": 1.0})
        tracker.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss" in events.read_bytes()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "train/loss": 1.0}\n'


def test_error_without_tensorboardx_tells_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"pip install 'jaxdistill\[tensorboard\]'"):
        TensorBoardTracker(tmp_path)
