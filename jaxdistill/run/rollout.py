"""Completions of a run's teacher: their cache, and a preview of what is learned of them."""

from pathlib import Path

from jaxdistill import data, hub
from jaxdistill.run.check import CheckedRun
from jaxdistill.run.config import RunConfig
from jaxdistill.run.folder import RunFolder
from jaxdistill.run.inspection import Inspection


def rollout_cache(
    config: RunConfig,
    inspection: Inspection,
    *,
    generate: data.GenerateFunction | None = None,
    on_batch: data.ProgressCallback | None = None,
) -> data.GenerationCache | None:
    """Return the cache of the teacher's completions; None if the rollout asks no teacher.

    Without `generate`, there are only the completions that an earlier run wrote.
    """
    rollout, teacher = config.data.rollout, inspection.teacher
    if not (isinstance(rollout, data.TeacherRollout) and teacher and config.teacher):
        return None
    params = teacher.language_model.abstract_params()
    described = hub.from_source(teacher, params, inspection.teacher_tokenizer)
    return data.GenerationCache(
        generate=generate,
        identity=f"{teacher.identity_hash} {config.teacher.dtype}",
        eos_ids=data.Renderer(inspection.teacher_tokenizer).end_ids(described.eos_ids),
        directory=Path(rollout.directory or RunFolder(config.output).path).expanduser(),
        on_batch=on_batch,
    )


def preview_examples(checked: CheckedRun, count: int) -> list[data.RowPreview]:
    """Return the first rows of a run as its models will read them.

    Completions that the teacher wrote for this run already are among them.
    """
    config, inspection = checked.config, checked.inspection
    with data.template_time(RunFolder(config.output).start_time()):
        return data.preview_rows(
            config.data,
            checked.rows,
            data.Renderer(inspection.tokenizer),
            teacher_view=inspection.teacher_view,
            generation_cache=rollout_cache(config, inspection),
            count=count,
        )
