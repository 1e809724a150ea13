"""Facts of a run worth reading before it starts."""

from collections.abc import Mapping

import jax

from jaxdistill import data, hub
from jaxdistill.evals import num_parameters
from jaxdistill.models import LanguageModel
from jaxdistill.objectives import TapObjective
from jaxdistill.objectives.base import objective_names
from jaxdistill.objectives.weight_schedule import format_weight
from jaxdistill.run.config import RunConfig
from jaxdistill.run.inspection import Inspection


def run_facts(config: RunConfig, inspection: Inspection) -> dict[str, str]:
    """Return facts worth reading before a run, by name."""
    facts = {"student": describe_model(inspection.student_model, config.student.model)}
    if config.student.layers is not None:
        facts["layers"] = _describe_layers(inspection)
    head_sizes = [inspection.student_model.vocab_size]
    if inspection.teacher is not None and config.teacher is not None:
        facts["teacher"] = describe_model(inspection.teacher.language_model, config.teacher.model)
        head_sizes.append(inspection.teacher.language_model.vocab_size)
    rows = " and ".join(f"{size:,}" for size in head_sizes)
    facts["vocabulary"] = f"{inspection.vocab_size:,} tokens; the LM heads have {rows} rows"
    if inspection.teacher_view is not None:
        facts["vocabulary"] += f"; {_alignment_fact(inspection, inspection.teacher_view)}"
    names = objective_names(inspection.objectives)
    for name, one, configured in zip(names, inspection.objectives, config.objectives, strict=True):
        if isinstance(one, TapObjective) and isinstance(configured, TapObjective):
            pairs = ", ".join(f"{s}–{t}" for s, t in one.pairs)
            is_searched = configured.layers == "searched"  # a calibration says which
            facts[f"layers, {name}"] = "to be searched" if is_searched else pairs
    facts["ends"] = _describe_ends(inspection)
    if inspection.template_note:
        facts["template"] = inspection.template_note
    facts["objectives"] = " + ".join(
        f"{format_weight(objective.weight)} · {objective.type}"  # pyright: ignore
        for objective in config.objectives
    )
    shape: Mapping[str, int] = inspection.mesh.shape
    sizes = ", ".join(f"{name} {size}" for name, size in shape.items())
    facts["devices"] = f"{inspection.mesh.size} {jax.devices()[0].device_kind} ({sizes})"
    return facts


def _describe_ends(inspection: Inspection) -> str:
    """Say which tokens end a completion, and which of them the student's files do not declare."""
    renderer = data.Renderer(inspection.tokenizer)
    student = inspection.student_pretrained({})
    declared = hub.from_source(inspection.student, {}, inspection.tokenizer).eos_ids
    names = renderer.tokenizer.convert_ids_to_tokens(list(student.eos_ids))
    listed = ", ".join(
        f"{name} ({token_id})" for name, token_id in zip(names, student.eos_ids, strict=True)
    )
    is_chat = any(kind.student_is_chat for kind in inspection.chat_kinds)
    if is_chat and renderer.template_end_id is None:
        listed += "; the chat template ends no turn with a token, so chats teach no end"
    added = len(set(student.eos_ids) - set(declared))
    return f"{listed}; {added} of them added to the student's files" if added else listed


def _alignment_fact(inspection: Inspection, view: data.TeacherView) -> str:
    difference = inspection.view_reason
    if not inspection.has_one_tokenizer:
        difference = f"the teacher has its own {inspection.teacher_vocab_size:,} tokens"
    if view.alignment is None:
        return f"{difference}; completions are not compared"
    return f"{difference}; completions are aligned by {view.alignment.method}"


def _describe_layers(inspection: Inspection) -> str:
    counts = f"{inspection.num_layers} of {inspection.student.language_model.widths.layers}"
    if inspection.layers is None:
        return f"{counts}, to be chosen by importance over the training examples"
    return f"{counts}: {', '.join(map(str, inspection.layers))}"


def describe_model(model: LanguageModel, name: str) -> str:
    """Return name, layers, width and number of parameters of a model in one line."""
    return (
        f"{name}: {model.widths.layers} layer(s), width {model.widths.hidden}, "
        f"{num_parameters(model.abstract_params()) / 1e6:,.1f} M parameters"
    )
