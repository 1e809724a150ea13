"""What is said of configs is so: every field is explained, and the page in `docs/` is current."""

from dataclasses import fields
from pathlib import Path

import pytest

from jaxdistill.cli import main
from jaxdistill.cli.config_reference import explain_config
from jaxdistill.config import config_sections, configclass
from jaxdistill.objectives import OBJECTIVES
from jaxdistill.run import RunConfig

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"


def test_the_page_is_what_the_command_prints():
    again = f"jaxdistill explain > {PAGE.relative_to(PAGE.parents[1])}"
    assert PAGE.read_text() == explain_config([]) + "\n", f"write it again: {again}"


def test_every_objective_and_every_field_is_there():
    found = {one.key: one for one in config_sections(RunConfig)}
    for name in OBJECTIVES:
        expected = {one.name for one in fields(OBJECTIVES[name])} - {"type"}
        assert found[f"objectives.{name}"].field_lines.keys() == expected


def test_a_field_is_told_with_its_kind_its_default_and_what_bases_say_of_it():
    @configclass
    class Base:
        """What is below.

        Args:
            size: How large
                it is.
        """

        size: int

    @configclass
    class Config(Base):
        """What is above.

        Attributes:
            name: What it is called.
        """

        name: str | None = None

    (section,) = config_sections(Config, "place")
    assert str(section) == (
        "## `place`\n\nWhat is above.\n\n"
        "- **`size`** (whole number; required). How large it is.\n"
        "- **`name`** (text or null; default `null`). What it is called."
    )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("objectives", "- **`uld`**: Σ |"),
        ("uld", '**`align`** (`positions` or `spans`; default `"positions"`)'),
        ("data.rollout.teacher", "**`max_new_tokens`**"),
        ("train.steps", "default `1000`"),
        ("objectives.gold.beta", "above 0, below 1"),
        ("task", "**`reference`**"),
        ("study", "**`arms`**"),
    ],
)
def test_a_part_is_printed_by_its_name(name, said, capsys):
    assert main(["explain", name]) == 0
    assert said in capsys.readouterr().out


def test_another_name_is_told_the_nearest(capsys):
    assert main(["explain", "data.lngth"]) == 2
    assert capsys.readouterr().err == (
        "error: explain: nothing is called `data.lngth`. Did you mean `data.length`?\n"
    )
