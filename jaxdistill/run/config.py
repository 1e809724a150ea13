"""Config of a run: the configs of all packages, nested."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from jaxdistill.config import configclass, load
from jaxdistill.data import DataConfig
from jaxdistill.errors import UserError
from jaxdistill.objectives import OBJECTIVES
from jaxdistill.sharding import MeshConfig
from jaxdistill.teachers import TEACHERS, OnlineTeacher
from jaxdistill.track import TrackConfig
from jaxdistill.train import TrainConfig

if TYPE_CHECKING:
    from jaxdistill.objectives import Objective

    Teacher = OnlineTeacher
else:
    Objective = OBJECTIVES.union
    Teacher = TEACHERS.union

_Count = Annotated[int, Field(gt=0)]


@configclass
class LayerChoice:
    """A number of layers to keep and the rule that chooses them.

    Attributes:
        count: Number of layers to keep.
        by: `importance` keeps the layers that change the hidden states most: those with the
            largest 1 - cos(input, output), averaged over the positions that count in the loss
            (Men et al., "ShortGPT", 2024, https://arxiv.org/abs/2403.03853). `spacing` keeps
            evenly spaced layers, with the first and the last among them.
        calibration_examples: Number of training examples to average over, from the first.
    """

    count: _Count
    by: Literal["importance", "spacing"]
    calibration_examples: _Count = 48


@configclass
class StudentConfig:
    """The model to train.

    Attributes:
        model: Initial weights: a Hugging Face folder, a `.gguf` file or a Hub name.
        layers: Layers of `model` to keep. A number keeps that many, evenly spaced, with the first
            and the last among them. A list keeps the layers of these indices, from 0. A mapping
            also names the rule, as in `{count: 20, by: importance}`. Null keeps all layers.
        compute_dtype: Data type of the forward and backward pass. The parameters themselves are
            float32, because bfloat16 would round small updates away.
        export_dtype: Data type of the exported weights. The final evaluation uses the weights
            rounded to it.
        gguf_dtype: Storage type of a GGUF file of the student for llama.cpp, written beside the
            exported folder; null writes none.
    """

    model: Annotated[str, Field(min_length=1)]
    layers: _Count | tuple[Annotated[int, Field(ge=0)], ...] | LayerChoice | None = None
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    export_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    gguf_dtype: Literal["f16", "q8_0", "q4_1"] | None = None


@configclass
class EvaluationConfig:
    """Measurements on the held-out rows before, during and after training.

    Attributes:
        every_steps: Steps between evaluations during training; 0 evaluates before and after
            training only.
        batch_size: Sequences per batch.
        samples: Number of held-out prompts that both models complete for the report.
        max_new_tokens: Maximum number of tokens in each of these completions.
        teacher: Measure the teacher beside the student for the report.
        speed: Measure how fast the models generate for the report.
        similarity: Draw the similarity of both models' layers (linear CKA) on held-out rows in the
            report.
    """

    every_steps: Annotated[int, Field(ge=0)] = 0
    batch_size: _Count = 8
    samples: Annotated[int, Field(ge=0)] = 3
    max_new_tokens: _Count = 64
    teacher: bool = True
    speed: bool = True
    similarity: bool = False


@configclass
class RunConfig:
    """One distillation run.

    Attributes:
        output: Run folder: checkpoints, records, the report and the exported student.
        seed: Seed of the order of the rows and of the initial modules of objectives.
        objectives: Objectives to minimise. The loss is their sum, each times its weight.
        student: The model to train.
        teacher: The model to learn from; null if no objective needs a teacher.
        data: Rows to train and evaluate on.
        train: Number of steps, batch size, optimizer, logging and checkpoints.
        evaluation: Measurements on the held-out rows.
        mesh: Division of the devices.
        track: Further records of the metrics.
    """

    output: Annotated[str, Field(min_length=1)]
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    student: StudentConfig
    teacher: Teacher | None = None
    data: DataConfig
    objectives: Annotated[tuple[Objective, ...], Field(min_length=1)]
    train: TrainConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    mesh: MeshConfig = MeshConfig()
    track: TrackConfig = TrackConfig()


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run config from YAML, with `a.b=value` overrides; UserError names every mistake."""
    return load(RunConfig, path, overrides)


def layer_indices(config: StudentConfig, num_layers: int) -> tuple[int, ...] | None:
    """Return the indices of the layers of `config.model`, which has `num_layers`, to keep.

    None where they are chosen by importance, which needs weights and examples.

    Raises:
        UserError: If the model has no such layers.
    """
    layers = config.layers
    if layers is None:
        return tuple(range(num_layers))
    if isinstance(layers, tuple):
        if not layers or max(layers) >= num_layers:
            raise UserError(
                f"student.layers: {list(layers)} are not indices of layers; the model has "
                f"{num_layers} layers, 0 to {num_layers - 1}. Take one or more of these."
            )
        return layers
    count = num_kept_layers(config, num_layers)
    if count > num_layers:
        raise UserError(
            f"student.layers: {count} layers are more than the {num_layers} that the model has. "
            "Take at most that many."
        )
    if isinstance(layers, LayerChoice) and layers.by == "importance" and count < num_layers:
        return None
    return tuple(round(i * (num_layers - 1) / max(count - 1, 1)) for i in range(count))


def num_kept_layers(config: StudentConfig, num_layers: int) -> int:
    """Return the number of layers of `config.model`, which has `num_layers`, to keep."""
    match config.layers:
        case None:
            return num_layers
        case int(count) | LayerChoice(count=count):
            return count
        case layers:
            return len(layers)
