"""A run from its config to its report: the one place where all rooms meet."""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import ModuleType

import jax
import rich

from jaxdistill import data
from jaxdistill.config import dump
from jaxdistill.errors import INTERRUPTED_EXIT_CODE, UserError
from jaxdistill.files import cache_folder
from jaxdistill.model import Model
from jaxdistill.run import build
from jaxdistill.run.check import Inspection, inspect, inspect_rows, run_facts
from jaxdistill.run.config import RunConfig, load_config
from jaxdistill.run.folder import RunFolder, fingerprint, write_json, write_text
from jaxdistill.run.heldout import HeldoutEvaluator, add_eval_prefix, make_heldout_evaluator
from jaxdistill.run.heldout import summarize as measured
from jaxdistill.sampling import Sampling
from jaxdistill.sharding import batch_sharding
from jaxdistill.track import Progress, Tracker, open_trackers
from jaxdistill.train import Checkpoints, Hook, Restored, TrainState, init_state
from jaxdistill.train import train_loop as run_loop
from jaxdistill.types import Params


def train(config: RunConfig) -> int:
    """Train, evaluate before and after, export, and report; continue where a run was left.

    Returns:
        0, or 130 when a signal ended the run early; what was done by then is saved.

    Raises:
        UserError: when something is wrong with the config, the files, the data or the disk.
    """
    folder = RunFolder(config.output)
    inspection = inspect(config)
    with folder.lock():
        rows = data.read_split(
            config.data
        )  # what is wrong with them is told before weights are loaded
        inspection = inspect_rows(config, inspection, rows)
        made_of = _input_digests(inspection, rows)
        if _is_finished(config, folder, made_of):
            _import_finish().show(folder)
            return 0
        use_compilation_cache()
        return _train(config, folder, inspection, rows, made_of)


def _train(
    config: RunConfig,
    folder: RunFolder,
    inspection: Inspection,
    rows: data.DataSplit,
    input_digests: Mapping[str, str],
) -> int:
    student = build.make_student(config, inspection)
    teacher = build.load_teacher(config, inspection)
    prepared = _prepare_data(config, inspection, rows, teacher, folder)
    facts = {**run_facts(config, inspection), **_data_facts(prepared)}
    measure = make_heldout_evaluator(config, inspection, student, teacher, prepared.heldout)
    batches = data.shuffled_batches(
        prepared.train,
        length=config.data.length,
        batch_size=config.train.batch_size,
        pack=config.data.pack,
        seed=config.seed,
    )
    with ExitStack() as stack:
        checkpoints = stack.enter_context(_open_checkpoints(config, folder, inspection, prepared))
        restored = checkpoints.restore(student.abstract_state)
        folder.result.unlink(missing_ok=True)  # it was another config's
        write_text(folder.config, dump(config))
        trackers = [
            stack.enter_context(closing(t)) for t in _open_trackers(config, folder, restored)
        ]
        for tracker in trackers:
            tracker.log_config(facts)
        if restored is None:
            initial = build.initial_student(config, inspection, teacher).params
            _record_initial_metrics(folder, measure, initial, prepared, trackers)
            modules = build.initial_modules(config, inspection)
            state = init_state(initial, student.optimizer, student.shardings, modules)
            del initial  # the state has its own copy
        else:
            state = restored.state
            notes = [f"note: {line}" for line in restored.skipped]
            for line in (*notes, f"goes on from step {state.step} of {config.train.steps}"):
                rich.get_console().print(line, markup=False, soft_wrap=True, highlight=False)
            batches.set_state(restored.data_state)
        state = run_loop(
            build.make_run_step(config, inspection, student),
            state,
            None if teacher is None else teacher.params,
            batches,
            num_steps=config.train.steps,
            sharding=batch_sharding(inspection.mesh),
            trackers=trackers,
            log_every_steps=config.train.log_every_steps,
            hooks=_evaluation_hooks(config, measure, prepared),
            checkpoints=checkpoints,
            save_every_steps=config.train.save_every_steps,
            source_of=prepared.row_source,
            elapsed=None if restored is None else restored.elapsed,
        )
    if int(state.step) < config.train.steps:
        return INTERRUPTED_EXIT_CODE
    model = build.student_model(inspection, state.params)
    _import_finish().finish_run(
        config, folder, inspection, prepared, facts, input_digests, measure, model, teacher
    )
    return 0


def _import_finish() -> ModuleType:
    """What ends a run, imported then: it draws, and nobody waits for that before the first step."""
    from jaxdistill.run import finish

    return finish


def use_compilation_cache() -> None:
    """Keep compiled programs for the next run, unless JAX was told where to or not to."""
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))


def _input_digests(inspection: Inspection, rows: data.DataSplit) -> dict[str, str]:
    """What a run is made of besides its config, by name: other files, another run."""
    sources = {"student.model": inspection.student, "teacher.model": inspection.teacher}
    found = {name: source.identity for name, source in sources.items() if source is not None}
    if inspection.teacher_view is not None and not inspection.has_one_tokenizer:
        found["the teacher's tokenizer"] = inspection.teacher_view.renderer.identity
    return {**found, "data.sources": rows.digest}


def _is_finished(config: RunConfig, folder: RunFolder, input_digests: Mapping[str, str]) -> bool:
    """Whether there is nothing to add: the run was concluded, under this very config.

    Raises:
        UserError: when it was, and what it was made of is not there any more.
    """
    is_same = folder.config.is_file() and _holds_config(folder.config, config)
    if not (is_same and folder.result.is_file() and folder.student.is_dir()):
        return False
    before = json.loads(folder.result.read_text())["made_of"]
    if changed := [name for name in input_digests if input_digests[name] != before.get(name)]:
        raise UserError(
            f"output: the run in {folder.path} is finished, and since then the content of "
            f"{' and '.join(changed)} has changed. Choose another run folder (`output=...`)."
        )
    return True


def _holds_config(path: Path, config: RunConfig) -> bool:
    """Whether a file holds this config, whichever fields there were when it was written."""
    try:
        return load_config(path) == config
    except UserError:
        return False


def _open_checkpoints(
    config: RunConfig, folder: RunFolder, inspection: Inspection, prepared: data.PreparedData
) -> closing[Checkpoints]:
    return closing(
        Checkpoints(
            folder.checkpoints,
            keep=config.train.keep_checkpoints,
            fingerprint=fingerprint(config, prepared, inspection.teacher),
        )
    )


def _open_trackers(
    config: RunConfig, folder: RunFolder, restored: Restored | None
) -> Sequence[Tracker]:
    if jax.process_index() != 0:
        return ()
    return open_trackers(
        config.track,
        folder.path,
        restored_step=None if restored is None else int(restored.state.step),
        num_steps=config.train.steps,
    )


def _prepare_data(
    config: RunConfig,
    inspection: Inspection,
    rows: data.DataSplit,
    teacher: Model | None,
    folder: RunFolder,
) -> data.PreparedData:
    """The data, with the teacher's answers where the rollout asks for them."""
    rollout = config.data.rollout
    if not (rollout.needs_teacher and teacher and inspection.teacher and config.teacher):
        return data.prepare(
            config.data, inspection.tokenizer, split=rows, teacher_view=inspection.teacher_view
        )
    sampling = Sampling(
        max_new_tokens=rollout.max_new_tokens,
        temperature=rollout.temperature,
        top_k=rollout.top_k,
        top_p=rollout.top_p,
    )

    def generate(prompts: Sequence[Sequence[int]], seed: int, first: int) -> list[list[int]]:
        return teacher.generate_tokens(
            prompts, sampling, seed=seed, first_index=first, batch_size=len(prompts)
        )

    with Progress("teacher writes", 0) as progress:
        writer = data.GenerationCache(
            generate=generate,
            identity=f"{inspection.teacher.weights_hash} {config.teacher.dtype}",
            eos_ids=teacher.pretrained.eos_ids,
            directory=Path(rollout.directory or folder.path).expanduser(),
            on_batch=progress.advance_to,
        )
        return data.prepare(
            config.data,
            inspection.tokenizer,
            split=rows,
            generation_cache=writer,
            teacher_view=inspection.teacher_view,
        )


def _record_initial_metrics(
    folder: RunFolder,
    evaluate_heldout: HeldoutEvaluator | None,
    params: Params,
    prepared: data.PreparedData,
    trackers: Sequence[Tracker],
) -> None:
    """The student before its first step, for the record and for the report."""
    folder.initial_metrics.unlink(missing_ok=True)
    if evaluate_heldout is None:
        return
    values = measured(evaluate_heldout(params), prepared.heldout)
    write_json(folder.initial_metrics, values)
    for tracker in trackers:
        tracker.log_metrics(0, add_eval_prefix(values))


def _evaluation_hooks(
    config: RunConfig, evaluate_heldout: HeldoutEvaluator | None, prepared: data.PreparedData
) -> Sequence[Hook]:
    every = config.evaluation.every_steps
    if not every or evaluate_heldout is None:
        return ()

    def evaluate(step: int, state: TrainState) -> dict[str, float]:
        return add_eval_prefix(measured(evaluate_heldout(state.params), prepared.heldout))

    return ((every, evaluate),)


def _data_facts(prepared: data.PreparedData) -> dict[str, str]:
    return {"train": str(prepared.train_counts), "held out": str(prepared.heldout_counts)}
