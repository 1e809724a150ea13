"""`eval` and `export`: one model, outside of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxdistill import align, data, evals, hub
from jaxdistill.errors import UserError
from jaxdistill.model import Model, load
from jaxdistill.models import forward_batch, lm_head
from jaxdistill.run import build
from jaxdistill.run.check import check_length, inspect
from jaxdistill.run.config import load_config
from jaxdistill.run.folder import RunFolder
from jaxdistill.run.heldout import summarize
from jaxdistill.sharding import MeshConfig, make_mesh
from jaxdistill.teachers import online
from jaxdistill.types import Batch, HiddenSignal, LMHead, ModelOutput, Params


def open_model(path: str, *, dtype: str | None = "float32") -> Model:
    """The model in a folder, a `.gguf` file, on the hub, or in a run folder.

    A run that is not finished gives the student of its newest checkpoint.

    Raises:
        UserError: when there is none.
    """
    if (whole := _finished_model_path(path)) is not None:
        return load(whole, dtype=dtype)
    model = _restore_latest(RunFolder(path))
    return model if dtype is None else model.astype(dtype)


def model_source(path: str) -> hub.Source:
    """The files of the model that `open_model` opens, before a weight is read.

    A run that is not finished gives those that its student starts from, which has their places
    and their tokenizer.

    Raises:
        UserError: when there are none.
    """
    return hub.read_source(
        _finished_model_path(path) or load_config(RunFolder(path).config).student.model
    )


def _finished_model_path(path: str) -> str | Path | None:
    """Where all of a model lies: here, or in a finished run; None where a run is not finished."""
    folder = RunFolder(path)
    if not folder.is_run(path):
        return path
    return folder.student if folder.student.is_dir() else None


_DEFAULT_DATA_OPTIONS = {"length": 512, "loss_on": "completion", "prompt_template": "plain"}
"""How rows are read where neither the user nor a run says how."""


def data_options(model_paths: Mapping[str, str], options: Mapping[str, Any]) -> dict[str, Any]:
    """How rows are read: as is given, or as the runs among some models read theirs.

    Args:
        models: Where each model is, by its name.
        given: `length`, `loss_on` and `prompt_template`; None leaves one to the runs.

    Raises:
        UserError: when runs read rows in different ways, and it is not said which is meant.
    """
    runs = {name: config for name, path in model_paths.items() if (config := run_data_config(path))}
    found = {}
    for name, default in _DEFAULT_DATA_OPTIONS.items():
        ways = {getattr(config, name) for config in runs.values()}
        if options.get(name) is None and len(ways) > 1:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(
                f"compare: the runs {' and '.join(runs)} read rows in different ways: "
                f"data.{name} is {' and '.join(map(str, sorted(ways)))}. Say which with `{flag}`."
            )
        trained = next(iter(ways), default)
        found[name] = trained if options.get(name) is None else options[name]
    return found


def run_data_config(path: str) -> data.DataConfig | None:
    """How the run in this folder reads its rows; None where there is no run."""
    folder = RunFolder(path)
    return load_config(folder.config).data if folder.is_run(path) else None


def check_max_positions(path: str, length: int | None, *, option: str) -> int:
    """How many places the model at `path` reads, which is no run, before its weights are read.

    Raises:
        UserError: when there is none, or `length` is more.
    """
    config = hub.read_source(path).config
    if length is not None:
        check_length(length, config, path, option)
    return config.max_positions


def _restore_latest(folder: RunFolder) -> Model:
    """The student as a run's newest checkpoint has it, in float32."""
    config = load_config(folder.config)
    model = build.restore_student(config, inspect(config), folder)
    if model is None:
        raise UserError(
            f"{folder.path}: this run has no checkpoint yet. `jaxdistill train` makes one."
        )
    return model


def evaluate(
    model: str,
    *,
    data_config: data.DataConfig,
    teacher: str | None = None,
    batch_size: int = 8,
    dtype: str = "float32",
) -> dict[str, float]:
    """Likelihood of all rows of `data_config`, and agreement with a teacher on them.

    Raises:
        UserError: when files or rows are wrong, the tokenizers are not the same, or the models do
            not read sequences of that length.
    """
    student = open_model(model, dtype=dtype)
    guide = open_model(teacher, dtype=dtype) if teacher is not None else None
    if guide is not None and (
        found := align.tokenizer_difference(student.tokenizer, guide.tokenizer)
    ):
        raise UserError(
            f"{teacher}: its tokenizer is not that of {model}: {found}. Agreement is measured "
            "token by token; leave `--teacher` out to measure the likelihood alone."
        )
    for name, opened in ((model, student), (teacher, guide)):
        if opened is not None:
            check_length(data_config.length, opened.config, str(name), "--length")
    prepared = data.prepare(data_config, student.tokenizer, is_scoring_only=True)
    places = token_metrics(
        student, guide, prepared.train, length=data_config.length, batch_size=batch_size
    )
    return summarize(places, prepared.train)


def token_metrics(
    student: Model,
    teacher: Model | None,
    examples: Sequence[data.Example],
    *,
    length: int,
    batch_size: int,
) -> evals.TokenMetrics:
    """What a model says at every scored place, beside another of the same tokenizer if given."""
    return make_evaluation(student, teacher)(
        student.params,
        data.ordered_batches(examples, length=length, batch_size=min(batch_size, len(examples))),
        teacher_params=teacher.params if teacher is not None else None,
    )


def make_evaluation(student: Model, teacher: Model | None = None) -> evals.TokenEvaluator:
    """Reads text on one device with a model, beside another of the same tokenizer if given."""
    vocab_size = min(m.vocab_size for m in (student, teacher) if m is not None)

    def hidden(params: Params, batch: Batch) -> ModelOutput:
        return forward_batch(student.config, params, batch)

    def unembedding(params: Params) -> LMHead:
        return lm_head(student.config, params, vocab_size=vocab_size)

    def signal(params: Params, batch: Batch) -> HiddenSignal:
        assert teacher is not None
        return online.online_signal(teacher.config, params, batch, vocab_size=vocab_size)

    return evals.TokenEvaluator(
        forward=hidden,
        lm_head=unembedding,
        teacher_signal=signal if teacher is not None else None,
        mesh=make_mesh(MeshConfig(), jax.devices()[:1]),
    )


def export(model: str, out: str, *, format: Any = "safetensors", dtype: str | None = None) -> Path:
    """Write a model as a folder that plain PyTorch `transformers` loads.

    Args:
        model: As for `open_model`.
        out: The folder to write.
        format: "safetensors", or "torch" for `pytorch_model.bin`.
        dtype: Of the stored tensors; None keeps what they are. A run that exported its student in
            less precision than this still has its checkpoint, which is taken then.
    """
    folder = RunFolder(model)
    has_checkpoint = folder.is_run(model) and folder.checkpoints.is_dir()
    is_whole = dtype is None or not has_checkpoint
    opened = open_model(model, dtype=dtype) if is_whole else _restore_latest(folder)
    return hub.save(opened.pretrained, out, format=format, dtype=dtype)
