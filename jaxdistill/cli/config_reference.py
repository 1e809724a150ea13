"""Reference of all config fields as Markdown: the output of `jaxdistill explain`."""

from collections.abc import Sequence

from jaxdistill.config import ConfigSection, config_sections
from jaxdistill.errors import UserError, did_you_mean

_INTRODUCTION = """# Configuration

Fields of a run's YAML file. On the command line, `train` and `check` take them as
`data.length=512`. A file can start from another with `base: other.yaml` and change some of its
fields. Studies (`study`) and tasks (`task`) have their own files. `jaxdistill explain` prints this
page, and `jaxdistill explain NAME` a part of it."""


def explain_config(names: Sequence[str]) -> str:
    """Return the reference of sections (`data`), types (`uld`) or fields (`data.length`).

    No names stand for the whole page; UserError has the closest name to an unknown one.
    """
    sections = _all_sections()
    parts = [_find(name, sections) for name in names]
    return "\n\n".join(parts or [_INTRODUCTION, *map(str, sections)])


def _all_sections() -> list[ConfigSection]:
    from jaxdistill.evals import Task
    from jaxdistill.run import RunConfig
    from jaxdistill.study import StudyConfig

    return [
        *config_sections(RunConfig),
        *config_sections(StudyConfig, "study"),
        *config_sections(Task, "task"),
    ]


def _find(name: str, sections: Sequence[ConfigSection]) -> str:
    if exact := [str(section) for section in sections if name in (section.key, section.type_name)]:
        return "\n\n".join(exact)
    if choices := [section.summary for section in sections if name == section.name]:
        return "\n".join((f"## `{name}`, by `type`\n", *choices))
    fields = {
        f"{section.key}.{field}".lstrip("."): line
        for section in sections
        for field, line in section.field_lines.items()
    }
    if name in fields:
        return fields[name]
    names = [*fields, *(section.key for section in sections)]
    names += [section.type_name for section in sections if section.type_name]
    raise UserError(
        f"explain: there is no section, type or field `{name}`.{did_you_mean(name, names)}"
    )
