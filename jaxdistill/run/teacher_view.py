"""Teacher view of a run: a teacher that reads the rows with its own tokenizer or prompts."""

from transformers import PreTrainedTokenizerBase

from jaxdistill import align, data
from jaxdistill.errors import UserError
from jaxdistill.objectives import OBJECTIVES, TrainableObjective
from jaxdistill.objectives.base import objective_names
from jaxdistill.run.config import RunConfig


def make_teacher_view(
    config: RunConfig, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase
) -> data.TeacherView | None:
    """Build the view of a teacher with its own tokenizer; None if the tokenizers are the same."""
    difference = align.tokenizer_difference(student, teacher)
    if difference is None:
        return None
    objectives = [objective for objective in config.objectives if objective.needs_teacher]
    if types := [o.type for o in objectives if not o.is_cross_tokenizer]:  # pyright: ignore
        raise UserError(
            f"teacher.model: its tokenizer is not the student's: {difference}. {', '.join(types)} "
            "compares token with token. Take a teacher and a student of one family, start the "
            "student from the teacher's files, or use one of "
            f"{', '.join(_cross_tokenizer_objectives())}."
        )
    view = _make_view(config, teacher)
    if view.alignment is not None:
        _ = align.token_bytes(student)
    return view


def make_teacher_prompt_view(
    config: RunConfig, tokenizer: PreTrainedTokenizerBase
) -> data.TeacherView:
    """Build the view of a teacher with the student's tokenizer and prompts of its own."""
    objectives = [o for o in config.objectives if isinstance(o, TrainableObjective)]
    if types := [o.type for o in objectives if not o.is_cross_tokenizer]:  # pyright: ignore
        raise UserError(
            f"objectives: {', '.join(types)} needs both models to read the same tokens, but rows "
            f"have a `teacher_prompt`. Use one of {', '.join(_cross_tokenizer_objectives())}."
        )
    return _make_view(config, tokenizer)


def _make_view(config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> data.TeacherView:
    alignment, renderer = _shared_alignment(config), data.Renderer(tokenizer)
    if alignment is not None:
        _ = renderer.token_bytes  # report an unreadable tokenizer once, not for every row
    return data.TeacherView(renderer, alignment, config.data.unpaired)


def _shared_alignment(config: RunConfig) -> align.AlignmentRule | None:
    """Return the alignment that all objectives share, by default spans; None to compare nothing."""
    named = zip(objective_names(config.objectives), config.objectives, strict=True)
    rules = {name: o.alignment_rule for name, o in named if o.needs_teacher}
    set_rules = {name: rule for name, rule in rules.items() if rule is not None}
    if len(set(set_rules.values())) > 1:
        listed = "; ".join(f"`{name}` compares {rule}" for name, rule in set_rules.items())
        cure = "Set `align` and `average` alike where an objective has them, or take one of these."
        if len({rule.compare_at for rule in set_rules.values()}) > 1:
            cure = "The compared tokens of a span cannot be set: take objectives that agree."
        raise UserError(f"objectives: a run aligns both models in one way, but {listed}. {cure}")
    return next(iter(set_rules.values()), align.AlignmentRule("spans") if rules else None)


def _cross_tokenizer_objectives() -> list[str]:
    """Return the names of the objectives that compare two tokenizers."""
    return [name for name in OBJECTIVES if OBJECTIVES[name]().is_cross_tokenizer]
