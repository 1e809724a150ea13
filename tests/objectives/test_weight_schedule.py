"""Weight schedules: a number, or straight lines through points."""

from pathlib import Path

import jax.numpy as jnp
import pytest

from jaxdistill.config import configclass, dump, load
from jaxdistill.errors import UserError
from jaxdistill.objectives import OBJECTIVES
from jaxdistill.objectives.weight_schedule import WeightSchedule, format_weight, weight_at

POINTS = ((2, 1.0), (4, 0.5))


@configclass
class Holder:
    objectives: tuple[OBJECTIVES.union, ...]  # pyright: ignore[reportInvalidTypeForm]


def weights(weight: WeightSchedule) -> list[float]:
    return [float(weight_at(weight, jnp.int32(step))) for step in range(6)]


def test_weights_are_linear_between_points_and_constant_beyond() -> None:
    assert weights(POINTS) == [1.0, 1.0, 1.0, 0.75, 0.5, 0.5]
    assert weights(0.25) == [0.25] * 6
    assert (format_weight(POINTS), format_weight(0.25)) == ("1 to 0.5", "0.25")


def test_a_schedule_survives_yaml(tmp_path: Path) -> None:
    config = load(Holder, None, ["objectives=[{type: forward_kl, weight: [[2, 1.0], [4, 0.5]]}]"])
    assert config.objectives[0].weight == POINTS
    (tmp_path / "config.yaml").write_text(dump(config))
    assert load(Holder, tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ("[[4, 1], [4, 2]]", r"the steps \[4, 4\] must ascend"),
        ("[[0, -1]]", r"weight\[0\]\[1\]: .*greater than or equal to 0"),
        ("[[-1, 1]]", r"weight\[0\]\[0\]: .*greater than or equal to 0"),
        ("[1, 2]", r"weight\[0\]: input should be a list"),
        ("[]", "at least 1"),
        (".nan", "finite"),
        ("-1", "greater than or equal to 0"),
    ],
)
def test_wrong_weights_are_refused(weight: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(Holder, None, [f"objectives=[{{type: forward_kl, weight: {weight}}}]"])
