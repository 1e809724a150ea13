"""`explain`: what may stand in the configs of runs, studies and tasks, as Markdown."""

from collections.abc import Sequence

from jaxdistill.config import ConfigSection, config_sections
from jaxdistill.errors import UserError, did_you_mean

_INTRODUCTION = """# Configuration

What may stand in the YAML file of a run, and behind `train` and `check` as `data.length=512`. A
file may name another in `base:` and change it. Studies (`study`) and tasks (`task`) have files of
their own. `jaxdistill explain` prints this page, and `jaxdistill explain NAME` a part of it."""


def explain_config(names: Sequence[str]) -> str:
    """What these names stand for: a place (`data`), a choice (`uld`) or a field (`data.length`).

    Args:
        names: None asks for everything.

    Raises:
        UserError: for a name that is none, with the nearest one.
    """
    known = _all_sections()
    return "\n\n".join(
        [_find_section(name, known) for name in names] or [_INTRODUCTION, *map(str, known)]
    )


def _all_sections() -> list[ConfigSection]:
    from jaxdistill.evals import Task
    from jaxdistill.run import RunConfig
    from jaxdistill.study import StudyConfig

    return [
        *config_sections(RunConfig),
        *config_sections(StudyConfig, "study"),
        *config_sections(Task, "task"),
    ]


def _find_section(name: str, known_sections: Sequence[ConfigSection]) -> str:
    if exact := [str(one) for one in known_sections if name in (one.key, one.type_name)]:
        return "\n\n".join(exact)
    if choices := [one.summary for one in known_sections if name == one.name]:
        return "\n".join((f"## `{name}`, by `type`\n", *choices))
    fields = {
        f"{one.key}.{field}".lstrip("."): line
        for one in known_sections
        for field, line in one.field_lines.items()
    }
    if name in fields:
        return fields[name]
    names = [
        *fields,
        *(one.key for one in known_sections),
        *(one.type_name for one in known_sections if one.type_name),
    ]
    raise UserError(f"explain: nothing is called `{name}`.{did_you_mean(name, names)}")
