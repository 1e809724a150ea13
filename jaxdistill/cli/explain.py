"""`explain`: what may stand in the configs of runs, studies and tasks, as Markdown."""

from collections.abc import Sequence

from jaxdistill.config import Section, sections
from jaxdistill.errors import UserError, nearest

_HEAD = """# Configuration

What may stand in the YAML file of a run, and behind `train` and `check` as `data.length=512`. A
file may name another in `base:` and change it. Studies (`study`) and tasks (`task`) have files of
their own. `jaxdistill explain` prints this page, and `jaxdistill explain NAME` a part of it."""


def explain(names: Sequence[str]) -> str:
    """What these names stand for: a place (`data`), a choice (`uld`) or a field (`data.length`).

    Args:
        names: None asks for everything.

    Raises:
        UserError: for a name that is none, with the nearest one.
    """
    known = _sections()
    return "\n\n".join([_found(name, known) for name in names] or [_HEAD, *map(str, known)])


def _sections() -> list[Section]:
    from jaxdistill.evals import Task
    from jaxdistill.run import RunConfig
    from jaxdistill.study import StudyConfig

    return [*sections(RunConfig), *sections(StudyConfig, "study"), *sections(Task, "task")]


def _found(name: str, known: Sequence[Section]) -> str:
    if exact := [str(one) for one in known if name in (one.key, one.choice)]:
        return "\n\n".join(exact)
    if choices := [one.summary for one in known if name == one.name]:
        return "\n".join((f"## `{name}`, by `type`\n", *choices))
    fields = {
        f"{one.key}.{field}".lstrip("."): line
        for one in known
        for field, line in one.fields.items()
    }
    if name in fields:
        return fields[name]
    names = [*fields, *(one.key for one in known), *(one.choice for one in known if one.choice)]
    raise UserError(f"explain: nothing is called `{name}`.{nearest(name, names)}")
