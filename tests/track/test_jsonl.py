import json
import math
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdistill.errors import UserError
from jaxdistill.track import JsonlTracker, read_records


def write_records(path, steps, *, restored_step=None, seconds=0.0):
    tracker = JsonlTracker(path, restored_step=restored_step)
    for step in steps:
        loss = float(np.float32(1) / np.float32(step + 3))
        tracker.log_metrics(
            step, {"train/loss": loss, "train/tokens": step, "time/seconds": seconds}
        )
    tracker.close()


def records_without_times(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_floats_are_read_back_bit_for_bit(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("record") / "metrics.jsonl"
    tracker = JsonlTracker(path)
    tracker.log_metrics(1, {"train/loss": value})
    tracker.close()
    actual = json.loads(path.read_text())["train/loss"]
    assert math.copysign(1, actual) == math.copysign(1, value)
    assert actual == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nonfinite_value_is_null_and_the_line_is_json(tmp_path, value):
    tracker = JsonlTracker(tmp_path / "metrics.jsonl")
    tracker.log_metrics(1, {"train/loss": value})
    tracker.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"step": 1, "train/loss": None}


@pytest.mark.parametrize("incomplete_line", ["", '{"step": 9, "train/lo', '{"step": 4'])
def test_continued_record_equals_an_undisturbed_one(tmp_path, incomplete_line):
    write_records(tmp_path / "whole.jsonl", range(12))
    continued = tmp_path / "continued.jsonl"
    write_records(continued, range(9), seconds=5.0)
    with continued.open("a") as file:
        file.write(incomplete_line)
    write_records(continued, range(7, 12), restored_step=6, seconds=9.0)
    assert records_without_times(continued) == records_without_times(tmp_path / "whole.jsonl")
    assert not list(tmp_path.glob("*.tmp"))


DAMAGE = [
    b'{"step": 3, "tra',
    b"\0\0\0",
    b"[]",
    b'{"loss": 1}',
    b'{"step": []}',
    b"\xff",
    b"[" * 9999,
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_in_the_middle_is_said_with_the_missing_steps(tmp_path, damage, capsys):
    path = tmp_path / "metrics.jsonl"
    write_records(path, range(9))
    lines = path.read_bytes().splitlines()
    lines[3] = damage
    path.write_bytes(b"\n".join([*lines, b""]))
    write_records(path, [7], restored_step=6)
    note = (
        f"note: {path}: line 4 is damaged and left out: records from step 2 to step 4 are missing."
    )
    assert capsys.readouterr().out.splitlines() == [note]
    assert [record["step"] for record in records_without_times(path)] == [0, 1, 2, 4, 5, 6, 7]


def test_damage_at_both_ends_is_said(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'x\nx\n{"step": 5}\nx\n{"step"')
    assert [record.step for record in read_records(path)] == [5]
    first, second = capsys.readouterr().out.splitlines()
    assert "lines 1 to 2 are damaged and left out: records from the start to step 5" in first
    assert "line 4 is damaged and left out: records from step 5 to the end" in second


def test_new_run_starts_an_empty_record(tmp_path):
    write_records(tmp_path / "metrics.jsonl", range(4))
    write_records(tmp_path / "metrics.jsonl", range(2))
    assert len(records_without_times(tmp_path / "metrics.jsonl")) == 2


def test_full_disk_is_one_line(tmp_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    tracker = JsonlTracker.__new__(JsonlTracker)
    tracker._path = tmp_path / "metrics.jsonl"
    tracker._file = tracker._path.open("a")
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be written: No space left"):
        tracker.log_metrics(1, {"train/loss": 1.0})
    with pytest.raises(OSError, match="No space"):
        tracker.close()
