"""Models, optimizer and compiled step of a run, on its mesh."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import optax
from jaxtyping import Array

from jaxdistill import hub
from jaxdistill.model import Model
from jaxdistill.models import LanguageModel
from jaxdistill.objectives import init_modules, learning_rate_scales
from jaxdistill.objectives.base import joint_taps
from jaxdistill.objectives.weight_schedule import is_always_zero
from jaxdistill.run.config import RunConfig
from jaxdistill.run.inspection import Inspection
from jaxdistill.sharding import named_shardings
from jaxdistill.taps import NO_OFFSETS, NO_TAPS, Taps
from jaxdistill.teachers import online
from jaxdistill.train import (
    GradientBalance,
    SignalFunction,
    StepFunction,
    TrainState,
    abstract_state,
    jit_step,
    last_shared_layer,
    make_step,
    state_shardings,
)
from jaxdistill.types import Batch, HiddenSignal, Params, VocabTables


@dataclass(frozen=True)
class Student:
    """Shapes, optimizer and shardings of the trained model and modules, without their arrays.

    Parameters are cast to `compute_dtype` before use. Rows of the LM head from `vocab_size` on are
    padding. `vocab_tables` lead to the teacher's vocabulary; None where no objective needs them.
    """

    language_model: LanguageModel
    vocab_size: int
    vocab_tables: VocabTables | None
    compute_dtype: str
    param_shapes: Params
    module_shapes: Params
    optimizer: optax.GradientTransformation
    shardings: TrainState

    @property
    def abstract_state(self) -> TrainState:
        """The template of `Checkpoints.restore`."""
        return abstract_state(self.param_shapes, self.optimizer, self.shardings, self.module_shapes)

    def signal(
        self,
        params: Params,
        batch: Batch,
        taps: Taps = NO_TAPS,
        offsets: Mapping[int, Array] = NO_OFFSETS,
    ) -> HiddenSignal:
        """Compute the student's signal for a batch."""
        return self.language_model.signal(
            jax.tree.map(lambda leaf: leaf.astype(self.compute_dtype), params),
            batch,
            vocab_size=self.vocab_size,
            vocab_tables=self.vocab_tables,
            taps=taps,
            offsets=offsets,
        )


def make_student(config: RunConfig, inspection: Inspection) -> Student:
    """Build the student's shapes, optimizer and shardings."""
    language_model = inspection.student_model
    shapes, axes = language_model.abstract_params(), language_model.axes()
    param_shardings = named_shardings(inspection.mesh, axes, shapes)
    modules = module_shapes(config, inspection)
    optimizer = config.train.optimizer.make_optimizer(
        config.train.steps,
        {**axes, **jax.tree.map(lambda leaf: (None,) * leaf.ndim, modules)},
        learning_rate_scales=learning_rate_scales(config.objectives),
    )
    return Student(
        language_model=language_model,
        vocab_size=inspection.vocab_size,
        vocab_tables=inspection.vocab_tables.student,
        compute_dtype=config.student.compute_dtype,
        param_shapes=shapes,
        module_shapes=modules,
        optimizer=optimizer,
        shardings=state_shardings(inspection.mesh, shapes, param_shardings, optimizer, modules),
    )


def initial_modules(config: RunConfig, inspection: Inspection) -> Params:
    """Return the initial modules of the objectives; empty for objectives without modules."""
    if inspection.teacher is None:
        return {}
    return init_modules(inspection.objectives, config.seed, *inspection.widths)


def module_shapes(config: RunConfig, inspection: Inspection) -> Params:
    """Return the shapes of `initial_modules`."""
    return jax.eval_shape(lambda: initial_modules(config, inspection))


def load_teacher(config: RunConfig, inspection: Inspection) -> Model | None:
    """Load the teacher onto the mesh; None for a run without a teacher."""
    if config.teacher is None or inspection.teacher is None:
        return None
    source = inspection.teacher
    params = _load_params(source, config.teacher.dtype, inspection)
    tokenizer, model = inspection.teacher_tokenizer, inspection.teacher_model
    return Model(hub.from_source(source, params, tokenizer, model))


def abstract_teacher(config: RunConfig, inspection: Inspection) -> Params | None:
    """Return shapes, dtypes and shardings of the teacher's parameters; None without a teacher."""
    if config.teacher is None or inspection.teacher is None:
        return None
    model, dtype = inspection.teacher_model, config.teacher.dtype
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        model.abstract_params(dtype),
        _param_shardings(model, dtype, inspection),
    )


def initial_student(config: RunConfig, inspection: Inspection, teacher: Model | None) -> Model:
    """Return the student before the first step: the kept layers of its source."""
    assert inspection.layers is not None, "layers are chosen before the student is made"
    params = source_params(config, inspection, teacher)
    params = inspection.source_model.select_layers(params, inspection.layers)
    return student_model(inspection, params)


def source_params(config: RunConfig, inspection: Inspection, teacher: Model | None) -> Params:
    """Return all layers of the student's source, in float32; the teacher's arrays if it is that."""
    is_shared = (
        config.teacher is not None
        and config.teacher.model == config.student.model
        and config.teacher.dtype == "float32"
    )
    if teacher is not None and is_shared:
        return teacher.params
    return _load_params(inspection.student, "float32", inspection)


def student_model(inspection: Inspection, params: Params) -> Model:
    """Return the student with tokenizer and source config, ready to export."""
    return Model(inspection.student_pretrained(params))


def make_run_step(config: RunConfig, inspection: Inspection, student: Student) -> StepFunction:
    """Build the compiled training step of a run."""
    objectives = inspection.objectives
    student_taps, teacher_taps = joint_taps(objectives)
    needs_teacher = any(objective.needs_teacher for objective in objectives)
    step = make_step(
        student_signal=partial(student.signal, taps=student_taps),
        teacher_signal=make_teacher_signal(inspection, teacher_taps) if needs_teacher else None,
        objectives=objectives,
        optimizer=student.optimizer,
        learning_rate=config.train.optimizer.learning_rate_schedule(config.train.steps),
        shardings=student.shardings,
        mesh=inspection.mesh,
        accumulate=config.train.accumulate,
        chunk_size=config.train.chunk_rows,
        balance=_make_balance(config, inspection, student, student_taps),
    )
    teacher_shardings = None
    if inspection.teacher is not None and config.teacher is not None:
        teacher_shardings = _param_shardings(
            inspection.teacher_model, config.teacher.dtype, inspection
        )
    return jit_step(step, student.shardings, teacher_shardings, inspection.mesh)


def _make_balance(
    config: RunConfig, inspection: Inspection, student: Student, taps: Taps
) -> GradientBalance | None:
    """Return the balance of the objectives at the last layer that all of them depend on."""
    balanced = [one for one in inspection.objectives if not is_always_zero(one.weight)]
    if config.train.balance is None or len(balanced) < 2:
        return None
    widths = student.language_model.widths
    layer = last_shared_layer(balanced, widths)
    signal = partial(student.signal, taps=taps | Taps(hidden=(layer,)))
    return GradientBalance(layer, widths.hidden, signal)


def make_teacher_signal(inspection: Inspection, taps: Taps = NO_TAPS) -> SignalFunction | None:
    """Build `(teacher parameters, batch) -> signal`; None for a run without a teacher."""
    if inspection.teacher is None:
        return None
    return partial(
        online.online_signal,
        inspection.teacher_model,
        vocab_size=inspection.teacher_vocab_size,
        vocab_tables=inspection.vocab_tables.teacher,
        taps=taps,
    )


def _load_params(source: hub.Source, dtype: str, inspection: Inspection) -> Params:
    shardings = _param_shardings(source.language_model, dtype, inspection)
    return hub.load_params(source, dtype=dtype, shardings=shardings)


def _param_shardings(model: LanguageModel, dtype: str, inspection: Inspection) -> Any:
    return named_shardings(inspection.mesh, model.axes(), model.abstract_params(dtype))
