"""A weight is a number or a line through points."""

from pathlib import Path

import jax.numpy as jnp
import pytest

from jaxdistill.config import configclass, dump, load
from jaxdistill.errors import UserError
from jaxdistill.objectives import OBJECTIVES
from jaxdistill.objectives.weight_schedule import WeightSchedule, format_weight, weight_at

LINE = ((2, 1.0), (4, 0.5))


@configclass
class Holder:
    objectives: tuple[OBJECTIVES.union, ...]  # pyright: ignore[reportInvalidTypeForm]


def along(weight: WeightSchedule) -> list[float]:
    return [float(weight_at(weight, jnp.int32(step))) for step in range(6)]


def test_straight_between_points_and_constant_beyond() -> None:
    assert along(LINE) == [1.0, 1.0, 1.0, 0.75, 0.5, 0.5]
    assert along(0.25) == [0.25] * 6
    assert (format_weight(LINE), format_weight(0.25)) == ("1 to 0.5", "0.25")


def test_a_line_is_written_and_read(tmp_path: Path) -> None:
    held = load(Holder, None, ["objectives=[{type: forward_kl, weight: [[2, 1.0], [4, 0.5]]}]"])
    assert held.objectives[0].weight == LINE
    (tmp_path / "config.yaml").write_text(dump(held))
    assert load(Holder, tmp_path / "config.yaml") == held


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        ("[[4, 1], [4, 2]]", r"the steps \[4, 4\] must climb"),
        ("[[0, -1]]", r"weight\[0\]\[1\]: .*greater than or equal to 0"),
        ("[[-1, 1]]", r"weight\[0\]\[0\]: .*greater than or equal to 0"),
        ("[1, 2]", r"weight\[0\]: input should be a list"),
        ("[]", "at least 1"),
        (".nan", "finite"),
        ("-1", "greater than or equal to 0"),
    ],
)
def test_mistakes_are_told(weight: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load(Holder, None, [f"objectives=[{{type: forward_kl, weight: {weight}}}]"])
