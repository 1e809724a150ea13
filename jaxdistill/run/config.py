"""What a run is: every room's config, nested, and nothing else."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from jaxdistill.config import configclass, load
from jaxdistill.data import DataConfig
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
class StudentConfig:
    """The model that learns.

    Attributes:
        model: Where it starts: a Hugging Face folder, a `.gguf` file or a hub name.
        layers: How many layers of `model` to keep, evenly spaced with the first and the last
            among them, or the list of those to keep; null keeps all.
        compute_dtype: What it is computed in. The parameters that are updated are float32: in
            bfloat16 small updates would round away.
        export_dtype: What the exported weights are stored in. What is measured in the end is
            measured of the weights as they were rounded.
    """

    model: Annotated[str, Field(min_length=1)]
    layers: _Count | tuple[Annotated[int, Field(ge=0)], ...] | None = None
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    export_dtype: Literal["float32", "bfloat16", "float16"] = "float32"


@configclass
class EvaluationConfig:
    """What is measured on the held-out rows, before, during and after training.

    Attributes:
        every_steps: How often during training; 0 for before and after only.
        batch_size: Sequences at a time.
        samples: How many held-out prompts both models answer for the report.
        max_new_tokens: The longest of these answers.
        teacher: Whether the report has the teacher beside the student.
        speed: Whether it has how fast they write.
    """

    every_steps: Annotated[int, Field(ge=0)] = 0
    batch_size: _Count = 8
    samples: Annotated[int, Field(ge=0)] = 3
    max_new_tokens: _Count = 64
    teacher: bool = True
    speed: bool = True


@configclass
class RunConfig:
    """One distillation run.

    Attributes:
        output: The run folder: checkpoints, records, the report and the exported student.
        seed: Decides the order of the rows, and what objectives that learn begin with.
        objectives: What is compared, each with its weight; their sum is minimised.
        student: The model that learns.
        teacher: Where the signal comes from; null when no objective needs one.
        data: What it learns from, and what it is measured on.
        train: How long it learns, and how.
        evaluation: What is measured.
        mesh: How the devices are used.
        track: Where the numbers of the run go.
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
    """The config in a YAML file, with `a.b=value` overrides; UserError names every mistake."""
    return load(RunConfig, path, overrides)


def layer_indices(config: StudentConfig, num_layers: int) -> tuple[int, ...]:
    """The layers of `config.model`, which has `num_layers`, that the student starts with."""
    from jaxdistill.errors import UserError

    layers: Any = config.layers
    if layers is None:
        return tuple(range(num_layers))
    if isinstance(layers, int):
        if layers > num_layers:
            raise UserError(
                f"student.layers: {layers} layers were asked of a model that has {num_layers}."
            )
        if layers == 1:
            return (0,)
        return tuple(round(i * (num_layers - 1) / (layers - 1)) for i in range(layers))
    if not layers or max(layers) >= num_layers:
        raise UserError(
            f"student.layers: {list(layers)} does not name layers of a model that has "
            f"{num_layers} (0 to {num_layers - 1})."
        )
    return tuple(layers)
