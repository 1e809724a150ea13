"""Teacher view of a run: a teacher that reads the rows with its own tokenizer or prompts."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, starmap

from transformers import PreTrainedTokenizerBase

from jaxdistill import align, data
from jaxdistill.errors import UserError
from jaxdistill.objectives import OBJECTIVES, TrainableObjective
from jaxdistill.objectives.base import objective_names
from jaxdistill.run.config import RunConfig

_USER, _ASSISTANT, _SYSTEM = (
    {"role": role, "content": role} for role in ("user", "assistant", "system")
)
_PROBES = (
    data.Chat((_USER, _ASSISTANT), num_prompt=1),
    data.Chat((_SYSTEM, _USER, _ASSISTANT, _USER, _ASSISTANT), num_prompt=4),
)
_NUM_COMPARED = 100
"""Number of rows, and of rows with tools, by which two chat templates are compared."""


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
    config: RunConfig, tokenizer: PreTrainedTokenizerBase, reason: str
) -> data.TeacherView:
    """Build the view of a teacher with the student's vocabulary and, for a `reason`, own prompts.

    `tokenizer` is the teacher's.
    """
    objectives = [o for o in config.objectives if isinstance(o, TrainableObjective)]
    if types := [o.type for o in objectives if not o.is_cross_tokenizer]:  # pyright: ignore
        raise UserError(
            f"objectives: {', '.join(types)} needs both models to read the same tokens, but "
            f"{reason}. Use one of {', '.join(_cross_tokenizer_objectives())}."
        )
    return replace(_make_view(config, tokenizer), has_own_tokens=False)


def reading_difference(
    student: data.Renderer, teacher: data.Renderer, rows: data.DataSplit
) -> str | None:
    """Describe how two models of one vocabulary read the rows in different tokens.

    None if they read them alike, as far as short probes and some of the rows show.
    """
    is_chat = {kind.student_is_chat for kind in rows.chat_kinds}
    if False in is_chat and student.tokenizer("a").input_ids != teacher.tokenizer("a").input_ids:
        return "the teacher's tokenizer adds other special tokens"
    templates = student.chat_template, teacher.chat_template
    if True not in is_chat or templates[0].source == templates[1].source:
        return None
    chats = [
        row.content for row in (*rows.train, *rows.heldout) if isinstance(row.content, data.Chat)
    ]
    with_calls = [chat for chat in chats if chat.tools or "tool_calls" in repr(chat.messages)]
    chats = [*_PROBES, *chats[:_NUM_COMPARED], *with_calls[:_NUM_COMPARED]]
    if all(_render(templates[0], chat) == _render(templates[1], chat) for chat in chats):
        return None
    return "the teacher has another chat template"


def _render(template: data.ChatTemplate, chat: data.Chat) -> list[str]:
    """Return a chat and its prompt as a template renders them; none if it refuses them."""
    try:
        return [
            template.render(chat.messages, chat.tools),
            template.render(
                chat.messages[: chat.num_prompt], chat.tools, add_generation_prompt=True
            ),
        ]
    except UserError:
        return []


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
    if not all(starmap(align.AlignmentRule.agrees_with, combinations(set_rules.values(), 2))):
        listed = "; ".join(f"`{name}` compares {rule}" for name, rule in set_rules.items())
        cure = f"{_alignment_cure(list(set_rules.values()))} Or take one of these."
        raise UserError(f"objectives: a run aligns both models in one way, but {listed}. {cure}")
    if not rules:
        return None
    by_unit = sorted(set_rules.values(), key=lambda rule: rule.average_over is None)
    return next(iter(by_unit), align.AlignmentRule("spans"))


def _alignment_cure(rules: Sequence[align.AlignmentRule]) -> str:
    """Return what to set so that these rules agree."""
    if len({rule.compare_at for rule in rules}) > 1:
        return "The compared tokens of a span cannot be set."
    fields = []
    if len({rule.method for rule in rules}) > 1:
        fields.append("`align: spans`")
    if len({rule.average_over for rule in rules} - {None}) > 1:
        fields.append("`average` alike")
    return f"Set {' and '.join(fields)} where an objective has that field."


def _cross_tokenizer_objectives() -> list[str]:
    """Return the names of the objectives that compare two tokenizers."""
    return [name for name in OBJECTIVES if OBJECTIVES[name]().is_cross_tokenizer]
