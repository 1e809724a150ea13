from pathlib import Path

import pytest

from jaxdistill.errors import UserError
from jaxdistill.train import Fingerprint

RUN = Fingerprint(
    {"seed": 3, "rows": "ab", "the teacher's": {"weights": "cd", "rope.base": 500.0}},
    defaults={"data.truncation": "cut_end", "steps": 9},
    ignored=("output", "data.sources"),
)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"data.truncation": "cut_end", "steps": 9},  # an older version wrote all fields
        {"output": "elsewhere", "data.sources.0": "elsewhere"},
        {"the teacher's": None},  # an older version did not describe it
    ],
)
def test_run_continues_from(changes):
    saved = {**RUN.values, **changes}
    RUN.check(Path("5"), {name: value for name, value in saved.items() if value is not None})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seed": 4}, "seed = 4, not 3."),
        ({"steps": 8}, "steps = 8, not 9."),
        ({"rows": "ff"}, "rows = 'ff', not 'ab'."),
        ({"later.field": 1}, "later.field = 1, not None."),
        (
            {"the teacher's": {"weights": "cd", "rope.base": 1e4}},
            "the teacher's rope.base = 10000.0, not 500.0.",
        ),
        ({"the teacher's": {"weights": "cd"}}, "the teacher's rope.base = None, not 500.0."),
    ],
)
def test_run_does_not_continue_from(changes, expected):
    with pytest.raises(UserError) as caught:
        RUN.check(Path("5"), {**RUN.values, **changes})
    difference, cure = caught.value.lines
    assert difference == f"5: was written with {expected}"
    assert "another run folder" in cure


def test_many_differences_are_counted():
    saved = {f"field_{number}": number for number in range(9)}
    with pytest.raises(UserError) as caught:
        Fingerprint().check(Path("5"), saved)
    assert caught.value.lines[3] == "5: 6 more fields differ."
