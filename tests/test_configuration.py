"""The config reference explains every field, and its page in `docs/` is current."""

from dataclasses import fields
from pathlib import Path

import pytest

from jaxdistill.cli import main
from jaxdistill.cli.config_reference import explain_config
from jaxdistill.config import config_sections, configclass
from jaxdistill.objectives import OBJECTIVES
from jaxdistill.run import RunConfig

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"


def test_the_page_is_the_output_of_explain():
    command = f"jaxdistill explain > {PAGE.relative_to(PAGE.parents[1])}"
    assert PAGE.read_text() == explain_config([]) + "\n", f"update the page: {command}"


def test_every_field_of_every_objective_is_explained():
    sections = {section.key: section for section in config_sections(RunConfig)}
    for name in OBJECTIVES:
        expected = {field.name for field in fields(OBJECTIVES[name])} - {"type"}
        assert sections[f"objectives.{name}"].field_lines.keys() == expected


def test_a_field_has_its_type_its_default_and_its_description_from_any_base():
    @configclass
    class Base:
        """A base.

        Args:
            size: Size in
                bytes.
        """

        size: int

    @configclass
    class Config(Base):
        """A config.

        Attributes:
            name: Name of the file.
        """

        name: str | None = None

    (section,) = config_sections(Config, "section")
    assert str(section) == (
        "## `section`\n\nA config.\n\n"
        "- **`size`** (whole number; required). Size in bytes.\n"
        "- **`name`** (text or null; default `null`). Name of the file."
    )


@pytest.mark.parametrize(
    ("name", "expected"),
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
def test_explain_prints_a_section_a_type_or_a_field(name, expected, capsys):
    assert main(["explain", name]) == 0
    assert expected in capsys.readouterr().out


def test_an_unknown_name_suggests_the_closest(capsys):
    assert main(["explain", "data.lngth"]) == 2
    assert capsys.readouterr().err == (
        "error: explain: there is no section, type or field `data.lngth`. "
        "Did you mean `data.length`?\n"
    )
