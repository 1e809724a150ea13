"""Reading and writing of configs, and messages for every mistake."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from jaxdistill.config import Registry, configclass, dump, flatten, load
from jaxdistill.errors import UserError

SHAPES = Registry("shape", package="jaxdistill.config")


@SHAPES.register
@configclass
class Square:
    type: Literal["square"] = "square"
    side: Annotated[float, Field(gt=0)] = 1.0


@SHAPES.register
@configclass
class Circle:
    type: Literal["circle"] = "circle"
    radius: float


@configclass
class Inner:
    steps: int = 10
    rate: float = 1e-3
    mode: Literal["fast", "slow"] = "fast"


@configclass
class Outer:
    train: Inner = Inner()
    shapes: Annotated[tuple[SHAPES.union, ...], Field(min_length=1)] = (Square(),)
    path: str | None = None
    layers: Annotated[int, Field(gt=0)] | tuple[Annotated[int, Field(ge=0)], ...] | None = None


@configclass
class Choice(Outer):
    shape: SHAPES.union = Square()


def _message(path: Path | None, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load(Outer, path, overrides)
    return str(caught.value)


def test_a_written_config_reads_back_equal(tmp_path: Path):
    file = tmp_path / "a.yaml"
    config = Outer(train=Inner(rate=1e-5), shapes=(Circle(radius=2.0), Square()), path="x")
    file.write_text(dump(config))
    assert load(Outer, file) == config


def test_flattened_values_are_overrides():
    config = Outer(train=Inner(rate=1e-5), shapes=(Circle(radius=2.0), Square()))
    shapes = "shapes=[{type: circle, radius: 0}, {type: square}]"
    overrides = [f"{name}={value}" for name, value in flatten(config).items() if value is not None]
    assert load(Outer, None, [shapes, *overrides]) == config


def test_overrides_reach_into_lists_and_read_scientific_numbers(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text("shapes:\n- type: square\n")
    config = load(Outer, file, ["shapes.0.side=3", "train.rate=1e-5", "path=here"])
    assert config == Outer(train=Inner(rate=1e-5), shapes=(Square(side=3.0),), path="here")


def test_base_is_merged(tmp_path: Path):
    (tmp_path / "base.yaml").write_text("train: {steps: 3, rate: 0.5}\n")
    (tmp_path / "a.yaml").write_text("base: base.yaml\ntrain: {steps: 4}\n")
    assert load(Outer, tmp_path / "a.yaml").train == Inner(steps=4, rate=0.5)


def test_a_new_type_removes_the_fields_of_the_former_one(tmp_path: Path):
    (tmp_path / "base.yaml").write_text("shape: {type: square, side: 3}")
    (tmp_path / "a.yaml").write_text("base: base.yaml\nshape: {type: circle, radius: 1}")
    assert load(Choice, tmp_path / "a.yaml").shape == Circle(radius=1.0)
    changed = load(Choice, tmp_path / "base.yaml", ["shape.type=circle", "shape.radius=2"])
    assert changed.shape == Circle(radius=2.0)
    assert load(Choice, tmp_path / "base.yaml", ["shape={type: square}"]).shape == Square()
    assert load(Choice, tmp_path / "base.yaml", ["shape.type=square"]).shape == Square(side=3.0)


@pytest.mark.parametrize(
    ("base", "override", "expected"),
    [
        ("shapes: [{type: square}]", "shapes: {type: square}", "shapes: input should be a list"),
        ("train: {steps: 3}", "train: [3]", "train: "),
    ],
)
def test_a_value_of_another_kind_replaces_that_of_the_base(
    tmp_path: Path, base: str, override: str, expected: str
):
    (tmp_path / "base.yaml").write_text(base)
    (tmp_path / "a.yaml").write_text(f"base: base.yaml\n{override}")
    (line,) = _message(tmp_path / "a.yaml").splitlines()
    assert f"a.yaml: {expected}" in line


def test_dates_are_text(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("path: 2026-01-01")
    assert load(Outer, tmp_path / "a.yaml").path == "2026-01-01"


def test_all_mistakes_are_reported_at_once():
    message = _message(
        None, "train.step=5", "train.rate=no", "shapes=[{type: squar}, {type: circle}]"
    )
    assert "train.step: there is no such field. Did you mean `steps`?" in message
    assert "train.rate: input should be a valid number; got False (true/false)" in message
    assert "shapes[0].type: no choice is called `squar`. Did you mean `square`?" in message
    assert "shapes[1].radius: missing; it has to be given." in message


def test_a_refused_item_does_not_also_make_its_list_too_short():
    message = _message(None, "shapes=[{type: squar}]")
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("[-1]", "layers[0]: input should be greater than or equal to 0; got -1."),
        ("0", "layers: input should be greater than 0 or a list; got 0."),
        ("true", "layers: input should be a valid integer or a list; got True (true/false)."),
        ("{a: 1}", "layers: input should be a valid integer or a list; got {'a': 1}."),
    ],
)
def test_an_error_in_a_union_is_one_line_without_member_names(value: str, expected: str):
    assert _message(None, f"layers={value}") == f"config: {expected}"


def test_an_empty_list_is_refused_with_the_least_length():
    assert _message(None, "shapes=[]") == "config: shapes: holds nothing; expected at least 1."


def test_fields_of_a_type_are_checked_in_its_class():
    assert "shapes[0].sid: there is no such field. Did you mean `side`?" in _message(
        None, "shapes=[{type: square, sid: 1}]"
    )
    assert "shapes[0].side: input should be greater than 0; got -1" in _message(
        None, "shapes=[{type: square, side: -1}]"
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.steps=abc", "train.steps: input should be a valid integer; got 'abc' (text)"),
        ("train.mode=fats", "train.mode: `fats` is not one of fast, slow. Did you mean `fast`?"),
        ("train", "expected `a.b=value`"),
        ("train.steps=1.5", "train.steps"),
        ("train=[", "override `train=[`"),
    ],
)
def test_a_wrong_override_is_refused(override: str, expected: str):
    assert expected in _message(None, override)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a: [", "not valid YAML"),
        ("- 1", "a config is a mapping"),
        ("base: a.yaml", "back to this"),
        ("base: [a.yaml]", "base: expected one file's name, got ['a.yaml']"),
        ("path: !!binary aGVsbG8=", "path: binary data; write it as text"),
        ("path: !!timestamp 2026-01-01", "not valid YAML"),
        ("train: {steps: " + "9" * 5000 + "}", "not valid YAML"),
        ("path: ${train.steps}\n7: x", "7: there is no such field. There are train, shapes, "),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, content: str, expected: str):
    (tmp_path / "a.yaml").write_text(content)
    assert expected in _message(tmp_path / "a.yaml")


def test_a_missing_file_suggests_the_closest(tmp_path: Path):
    (tmp_path / "quickstart.yaml").write_text("")
    assert "quickstart.yaml`?" in _message(tmp_path / "quickstar.yaml")


def test_the_registry_suggests_the_closest_name():
    with pytest.raises(UserError, match="Did you mean `circle`"):
        SHAPES["circl"]
    assert list(SHAPES) == ["circle", "square"]
