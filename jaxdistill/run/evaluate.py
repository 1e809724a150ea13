"""Commands on one model outside of a run: open, evaluate and export."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import jax

from jaxdistill import align, data, evals, hub
from jaxdistill.errors import UserError
from jaxdistill.model import Model, load
from jaxdistill.run import build
from jaxdistill.run.calibration import restore_objectives
from jaxdistill.run.check import inspect
from jaxdistill.run.config import load_config
from jaxdistill.run.folder import RunFolder, exported_model_path
from jaxdistill.run.heldout import summarize
from jaxdistill.run.layer_choice import restore_layers
from jaxdistill.run.result import read_result
from jaxdistill.run.settings import check_length
from jaxdistill.sharding import MeshConfig, check_single_process, make_mesh
from jaxdistill.teachers import online
from jaxdistill.train import Checkpoints


def open_model(path: str, *, dtype: str | None = "float32") -> Model:
    """Load the model in a folder, in a `.gguf` file, on the Hub, or in a run folder.

    A run folder gives its exported student, or the student of its newest checkpoint while the run
    is unfinished. `dtype` is that of the parameters in memory; None keeps that of the files.
    """
    if (model_path := exported_model_path(path)) is not None:
        return load(model_path, dtype=dtype)
    model = _restore_latest(RunFolder(path))
    return model if dtype is None else model.astype(dtype)


def model_source(path: str) -> hub.Source:
    """Return the files of the model that `open_model` loads, without reading weights.

    An unfinished run gives its `student.model`, with the same maximum length and tokenizer.
    """
    model_path = exported_model_path(path) or load_config(RunFolder(path).config).student.model
    return hub.read_source(model_path)


_DEFAULT_DATA_OPTIONS = {"length": 512, "loss_on": "completion", "prompt_template": "plain"}
"""Data options where neither the user nor a run sets them."""


def resolve_data_options(
    model_paths: Mapping[str, str], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return `length`, `loss_on` and `prompt_template`, by default those of the models' runs.

    Models are paths by name. Raises UserError if runs differ in an option that is None or missing.
    """
    runs = {name: config for name, path in model_paths.items() if (config := run_data_config(path))}
    resolved = {}
    for name, default in _DEFAULT_DATA_OPTIONS.items():
        run_values = {getattr(config, name) for config in runs.values()}
        if (value := options.get(name)) is None:
            if len(run_values) > 1:
                raise UserError(
                    f"compare: the runs {' and '.join(runs)} read rows in different ways: "
                    f"data.{name} is {' and '.join(map(str, sorted(run_values)))}. "
                    f"Say which with `--{name.replace('_', '-')}`."
                )
            value = next(iter(run_values), default)
        resolved[name] = value
    return resolved


def run_data_config(path: str) -> data.DataConfig | None:
    """Return the data config of the run in a folder; None if there is no run."""
    return load_config(RunFolder(path).config).data if RunFolder.is_run(path) else None


def reads_chats(path: str) -> bool | None:
    """Return whether a run learned prompts as chats; None where that is unknown.

    `path` is a run folder, or the student that was exported into one.
    """
    folders = [Path(path), Path(path).parent] if Path(path).name == "student" else [Path(path)]
    for folder in filter(RunFolder.is_run, folders):
        if (result := read_result(RunFolder(folder).result)) is not None:
            return result.is_chat
        if load_config(RunFolder(folder).config).data.prompt_template == "chat":
            return True
    return None


def check_max_positions(path: str, length: int | None, *, option: str) -> int:
    """Return a model's maximum number of positions; UserError if `length` of `option` is larger."""
    language_model = hub.read_source(path).language_model
    if length is not None:
        check_length(length, language_model, path, option)
    return language_model.max_positions


def _restore_latest(folder: RunFolder) -> Model:
    """Return the student of a run's newest checkpoint, in float32."""
    config = load_config(folder.config)
    inspection = restore_layers(inspect(config), folder)
    inspection = restore_objectives(config, inspection, folder)
    restored = None
    if folder.checkpoints.is_dir():
        with closing(Checkpoints(folder.checkpoints)) as checkpoints:
            restored = checkpoints.restore(build.make_student(config, inspection).abstract_state)
    if restored is None:
        raise UserError(
            f"{folder.path}: this run has no checkpoint yet. `jaxdistill train` makes one."
        )
    return build.student_model(inspection, restored.state.params)


def evaluate(
    model: str,
    *,
    data_config: data.DataConfig,
    teacher: str | None = None,
    batch_size: int = 8,
    dtype: str = "float32",
    by_position: int | None = None,
) -> dict[str, float]:
    """Return the mean token metrics of a model on all rows, with agreement if there is a teacher.

    If `by_position`, means of that many positions each follow.

    UserError if files, rows or length are wrong, or if the tokenizers differ.
    """
    student = open_model(model, dtype=dtype)
    teacher_model = open_model(teacher, dtype=dtype) if teacher is not None else None
    if teacher_model is not None and (
        difference := align.tokenizer_difference(student.tokenizer, teacher_model.tokenizer)
    ):
        raise UserError(
            f"{teacher}: its tokenizer is not that of {model}: {difference}. Agreement is measured "
            "token by token; leave `--teacher` out to measure the likelihood alone."
        )
    for name, opened in ((model, student), (teacher, teacher_model)):
        if opened is not None:
            check_length(data_config.length, opened.language_model, str(name), "--length")
    num_rows = min(
        opened.language_model.vocab_size for opened in (student, teacher_model) if opened
    )
    examples = data.prepare(
        data_config,
        student.tokenizer,
        vocab_rows=data.VocabRows(num_rows, num_rows),
        is_scoring_only=True,
    ).train
    metrics = token_metrics(
        student, teacher_model, examples, length=data_config.length, batch_size=batch_size
    )
    means = summarize(metrics, examples)
    return means | (evals.mean_by_position(metrics, by_position) if by_position else {})


def token_metrics(
    student: Model,
    teacher: Model | None,
    examples: Sequence[data.Example],
    *,
    length: int,
    batch_size: int,
) -> evals.TokenMetrics:
    """Return the metrics of every scored position, with agreement if there is a teacher."""
    return make_token_evaluator(student, teacher)(
        student.params,
        data.ordered_batches(examples, length=length, batch_size=min(batch_size, len(examples))),
        teacher_params=teacher.params if teacher is not None else None,
    )


def make_token_evaluator(student: Model, teacher: Model | None = None) -> evals.TokenEvaluator:
    """Build the evaluation of a model on one device, with agreement if there is a teacher."""
    vocab_size = min(model.vocab_size for model in (student, teacher) if model is not None)
    teacher_signal = None
    if teacher is not None:
        teacher_signal = partial(
            online.online_signal, teacher.language_model, vocab_size=vocab_size
        )
    return evals.TokenEvaluator(
        student_signal=partial(student.language_model.signal, vocab_size=vocab_size),
        teacher_signal=teacher_signal,
        mesh=make_mesh(MeshConfig(), jax.devices()[:1]),
    )


def export(
    model: str, out: str, *, format: hub.ExportFormat = "safetensors", dtype: str | None = None
) -> Path:
    """Write a model as a folder that `transformers` loads, or as a file for llama.cpp.

    Args:
        model: As for `open_model`.
        out: The folder to write; for format "gguf" a `.gguf` file, or a folder to put it into.
        format: "safetensors", "torch" for `pytorch_model.bin`, or "gguf".
        dtype: Data type of the stored tensors; None keeps that of the model (f16 for "gguf"). If
            it is set, a run exports its checkpoint, which has full precision, instead of its
            exported student.
    """
    check_single_process()
    hub.check_export_dtype(format, dtype)
    folder = RunFolder(model)
    has_checkpoint = folder.is_run(model) and folder.checkpoints.is_dir()
    if dtype is not None and has_checkpoint:
        exported = _restore_latest(folder)
    else:
        exported = open_model(model, dtype=None if format == "gguf" else dtype)
    return exported.save(out, format=format, dtype=dtype)
