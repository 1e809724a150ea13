"""How a teacher reads the rows of a run, where that is another way than the student's."""

from transformers import PreTrainedTokenizerBase

from jaxdistill import align, data
from jaxdistill.errors import UserError
from jaxdistill.objectives import OBJECTIVES, TrainableObjective
from jaxdistill.objectives.base import objective_names
from jaxdistill.run.config import RunConfig


def make_teacher_view(
    config: RunConfig, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase
) -> data.TeacherView | None:
    """How a teacher of another tokenizer reads the rows; None where both are one.

    Raises:
        UserError: where an objective compares word with word and the words are not the same, or
            two want places to meet in different ways.
    """
    found = align.tokenizer_difference(student, teacher)
    if found is None:
        return None
    comparing = [objective for objective in config.objectives if objective.needs_teacher]
    if kinds := [one.type for one in comparing if not one.is_cross_tokenizer]:  # pyright: ignore
        raise UserError(
            f"teacher.model: its tokenizer is not the student's: {found}. {', '.join(kinds)} "
            "compares token with token. Take a teacher and a student of one family, start the "
            f"student from the teacher's files, or use one of {', '.join(_cross_tokenizer_objectives())}."
        )
    way, templates = _shared_alignment(config), data.Renderer(teacher)
    if way is not None:
        _ = templates.token_bytes, align.token_bytes(student)  # told once, not of every row
    return data.TeacherView(templates, way, config.data.unpaired)


def make_teacher_prompt_view(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase
) -> data.TeacherView:
    """How a teacher of the student's tokenizer reads rows that have a prompt for it alone.

    Raises:
        UserError: where objectives want the places of both to meet in different ways, or to be
            the same.
    """
    learned = [one for one in config.objectives if isinstance(one, TrainableObjective)]
    if kinds := [one.type for one in learned if not one.is_cross_tokenizer]:  # pyright: ignore
        raise UserError(
            f"objectives: {', '.join(kinds)} wants both models to read the same tokens, but rows "
            f"have a `teacher_prompt`. Use one of {', '.join(_cross_tokenizer_objectives())}."
        )
    way, templates = _shared_alignment(config), data.Renderer(tokenizer)
    if way is not None:
        _ = templates.token_bytes
    return data.TeacherView(templates, way, config.data.unpaired)


def _shared_alignment(config: RunConfig) -> align.AlignmentRule | None:
    """How places meet that are not the same: in groups, unless an objective says otherwise.

    None where nothing is compared.

    Raises:
        UserError: where two say so differently.
    """
    comparing = [objective for objective in config.objectives if objective.needs_teacher]
    named = zip(objective_names(config.objectives), config.objectives, strict=True)
    ways = {name: one.alignment_rule for name, one in named if one.needs_teacher}
    wanted = {name: way for name, way in ways.items() if way is not None}
    if len(set(wanted.values())) > 1:
        said = "; ".join(f"`{name}` compares {way}" for name, way in wanted.items())
        cure = "Set `align` and `average` alike where an objective has them, or take one of these."
        if len({way.compare_at for way in wanted.values()}) > 1:
            cure = "Where groups meet cannot be set: take those that agree in it."
        raise UserError(
            f"objectives: the places of both models meet in one way in a run, but {said}. {cure}"
        )
    return next(iter(wanted.values()), align.AlignmentRule("spans") if comparing else None)


def _cross_tokenizer_objectives() -> list[str]:
    """The objectives that compare across tokenizers."""
    return [name for name in OBJECTIVES if OBJECTIVES[name]().is_cross_tokenizer]
