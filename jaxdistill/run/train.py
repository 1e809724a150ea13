"""Training run from its config to its report, with resume (`jaxdistill train`)."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from datetime import datetime

import jax
import rich

from jaxdistill import data
from jaxdistill.config import dump
from jaxdistill.errors import INTERRUPTED_EXIT_CODE, UserError
from jaxdistill.files import cache_folder
from jaxdistill.model import Model
from jaxdistill.run import build
from jaxdistill.run.check import drop_bad_rows, inspect, inspect_rows
from jaxdistill.run.config import RunConfig, load_config
from jaxdistill.run.dtype_check import check_export_dtype
from jaxdistill.run.fingerprint import run_fingerprint
from jaxdistill.run.folder import RunFolder, write_json, write_text
from jaxdistill.run.heldout import HeldoutEvaluator, make_heldout_evaluator, summarize
from jaxdistill.run.inspection import Inspection, RunContext
from jaxdistill.run.prepare import PreparedRun, prepare_run
from jaxdistill.run.result import RunResult, read_initial_metrics, read_result
from jaxdistill.sharding import batch_sharding
from jaxdistill.track import Tracker, open_trackers
from jaxdistill.train import Checkpoints, Frozen, Hook, Restored, TrainState, init_state, train_loop
from jaxdistill.types import Params


def train(config: RunConfig) -> int:
    """Train, evaluate before and after, export and report; continue an unfinished run.

    Returns:
        Exit code: 0, or 130 if a signal stopped the run early. Completed steps are then saved.

    Raises:
        UserError: If something is wrong with the config, the files, the data or the disk.
    """
    folder = RunFolder(config.output)
    started = folder.start_time()
    with data.template_time(started):
        return _train_at(started, config, folder)


def _train_at(started: datetime, config: RunConfig, folder: RunFolder) -> int:
    """Train with `started` as the time that chat templates read."""
    inspection = inspect(config)
    rows = data.read_split(config.data)  # before weights are loaded, to report errors early
    inspection = inspect_rows(config, inspection, rows)
    rows = drop_bad_rows(config, inspection, rows)
    with folder.lock():
        input_digests = _input_digests(inspection, rows)
        if (result := _finished_result(config, folder, input_digests)) is not None:
            from jaxdistill.run.finish import print_result

            print_result(folder, result)
            return 0
        write_text(folder.started, started.isoformat() + "\n")
        use_compilation_cache()
        return _train(config, folder, inspection, rows, input_digests)


def _train(
    config: RunConfig,
    folder: RunFolder,
    inspection: Inspection,
    rows: data.DataSplit,
    input_digests: Mapping[str, str],
) -> int:
    run = prepare_run(config, folder, inspection, rows)
    evaluate_heldout = make_heldout_evaluator(run.context, run.student, run.teacher)
    state = _take_steps(run, evaluate_heldout)
    if int(state.step) < config.train.steps:
        return INTERRUPTED_EXIT_CODE
    from jaxdistill.run.finish import finish_run  # matplotlib would delay the first step

    finish_run(
        run.context,
        student=build.student_model(run.context.inspection, state.params),
        teacher=run.teacher,
        evaluate_heldout=evaluate_heldout,
        facts=run.facts,
        input_digests=input_digests,
        scores=run.calibration.scores,
    )
    return 0


def _take_steps(run: PreparedRun, evaluate_heldout: HeldoutEvaluator | None) -> TrainState:
    """Take the steps that are left, from the newest checkpoint or from the start."""
    context, student, teacher = run.context, run.student, run.teacher
    config, folder = context.config, context.folder
    batches = data.shuffled_batches(
        context.prepared.train,
        length=config.data.length,
        batch_size=config.train.batch_size,
        pack=config.data.pack,
        seed=config.seed,
    )
    with ExitStack() as stack:
        checkpoints = stack.enter_context(closing(_open_checkpoints(run)))
        restored = checkpoints.restore(student.abstract_state, batches.get_state())
        folder.result.unlink(missing_ok=True)  # the result of another config
        if run.chosen_layers is not None:
            write_json(folder.layers, asdict(run.chosen_layers))
        write_text(folder.config, dump(config))
        trackers = [
            stack.enter_context(closing(t)) for t in _open_trackers(config, folder, restored)
        ]
        for tracker in trackers:
            tracker.log_config(run.facts)
        if restored is None:
            state = _first_state(context, student, teacher, evaluate_heldout, trackers)
        else:
            _announce_continuation(context, restored, teacher, evaluate_heldout)
            batches.set_state(restored.data_state)
            state = restored.state
        return train_loop(
            build.make_run_step(config, context.inspection, student),
            state,
            Frozen(None if teacher is None else teacher.params, run.calibration.frozen),
            batches,
            num_steps=config.train.steps,
            sharding=batch_sharding(context.inspection.mesh),
            trackers=trackers,
            log_every_steps=config.train.log_every_steps,
            hooks=_evaluation_hooks(context, evaluate_heldout),
            checkpoints=checkpoints,
            save_every_steps=config.train.save_every_steps,
            source_of=context.prepared.row_source,
            elapsed=None if restored is None else restored.elapsed,
        )


def _first_state(
    context: RunContext,
    student: build.Student,
    teacher: Model | None,
    evaluate_heldout: HeldoutEvaluator | None,
    trackers: Sequence[Tracker],
) -> TrainState:
    """Return the state before the first step, evaluated; UserError if it cannot be exported."""
    initial = build.initial_student(context.config, context.inspection, teacher)
    check_export_dtype(context, initial)
    _record_initial_metrics(context, evaluate_heldout, initial.params, trackers)
    modules = build.initial_modules(context.config, context.inspection)
    return init_state(initial.params, student.optimizer, student.shardings, modules)


def _announce_continuation(
    context: RunContext,
    restored: Restored,
    teacher: Model | None,
    evaluate_heldout: HeldoutEvaluator | None,
) -> None:
    """Say where a run goes on, and evaluate its start again if that was lost."""
    if read_initial_metrics(context.folder.initial_metrics) is None and evaluate_heldout:
        initial = build.initial_student(context.config, context.inspection, teacher)
        _record_initial_metrics(context, evaluate_heldout, initial.params, ())
    notes = [f"note: {line}" for line in restored.skipped]
    step, steps = int(restored.state.step), context.config.train.steps
    for line in (*notes, f"continues from step {step} of {steps}"):
        rich.get_console().print(line, markup=False, soft_wrap=True, highlight=False)


def use_compilation_cache() -> None:
    """Keep compiled programs in the cache folder, unless JAX already has a cache folder."""
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))


def _input_digests(inspection: Inspection, rows: data.DataSplit) -> dict[str, str]:
    """Return hashes of everything that a run is made from besides its config, by name."""
    sources = {"student.model": inspection.student, "teacher.model": inspection.teacher}
    digests = {name: source.identity_hash for name, source in sources.items() if source is not None}
    if inspection.teacher_view is not None and inspection.teacher_renderer is not None:
        digests["the teacher's tokenizer"] = inspection.teacher_view.renderer.identity
    return {**digests, "data.sources": rows.digest}


def _finished_result(
    config: RunConfig, folder: RunFolder, input_digests: Mapping[str, str]
) -> RunResult | None:
    """Return the result of a finished run of this config and these inputs; None for any other.

    UserError if only the inputs have changed since then.
    """
    has_gguf = config.student.gguf_dtype is None or folder.gguf.is_file()
    if not (folder.student.is_dir() and has_gguf and _has_config(folder, config)):
        return None
    if (result := read_result(folder.result)) is None:
        return None
    before = result.inputs or input_digests
    if changed := [name for name in input_digests if input_digests[name] != before.get(name)]:
        raise UserError(
            f"output: the run in {folder.path} is finished, and since then the content of "
            f"{' and '.join(changed)} has changed. Choose another run folder (`output=...`)."
        )
    return result


def _has_config(folder: RunFolder, config: RunConfig) -> bool:
    """Return True if the folder holds this config, perhaps without fields added since then."""
    try:
        return load_config(folder.config) == config
    except UserError:
        return False


def _open_checkpoints(run: PreparedRun) -> Checkpoints:
    context = run.context
    return Checkpoints(
        context.folder.checkpoints,
        keep=context.config.train.keep_checkpoints,
        fingerprint=run_fingerprint(context.config, context.inspection.models, run.content),
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


def _record_initial_metrics(
    context: RunContext,
    evaluate_heldout: HeldoutEvaluator | None,
    params: Params,
    trackers: Sequence[Tracker],
) -> None:
    """Evaluate the student before its first step, for the record and for the report."""
    context.folder.initial_metrics.unlink(missing_ok=True)
    if evaluate_heldout is None:
        return
    values = summarize(evaluate_heldout(params), context.prepared.heldout)
    write_json(context.folder.initial_metrics, values)
    for tracker in trackers:
        tracker.log_metrics(0, _add_eval_prefix(values))


def _evaluation_hooks(
    context: RunContext, evaluate_heldout: HeldoutEvaluator | None
) -> Sequence[Hook]:
    every_steps = context.config.evaluation.every_steps
    if not every_steps or evaluate_heldout is None:
        return ()

    def evaluate(step: int, state: TrainState) -> dict[str, float]:
        metrics = evaluate_heldout(state.params)
        return _add_eval_prefix(summarize(metrics, context.prepared.heldout))

    return (Hook(every_steps, evaluate),)


def _add_eval_prefix(values: Mapping[str, float]) -> dict[str, float]:
    return {f"eval/{name}": value for name, value in values.items()}
