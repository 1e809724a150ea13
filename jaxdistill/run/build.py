"""Models, optimizer and step of a run, placed on its mesh."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import optax
from transformers import PreTrainedTokenizerBase

from jaxdistill import hub
from jaxdistill.model import Model
from jaxdistill.models import (
    DecoderConfig,
    abstract_params,
    forward_batch,
    lm_head,
    parameter_axes,
    select_layers,
    token_embedding,
)
from jaxdistill.objectives import init_modules, learning_rate_scales
from jaxdistill.run.check import Inspection
from jaxdistill.run.config import RunConfig
from jaxdistill.run.folder import RunFolder
from jaxdistill.sharding import named_shardings
from jaxdistill.teachers import online
from jaxdistill.train import (
    Checkpoints,
    TrainState,
    abstract_state,
    jit_step,
    make_step,
    state_shardings,
)
from jaxdistill.types import Batch, HiddenSignal, LMHead, ModelOutput, Params, VocabTables


@dataclass(frozen=True)
class Student:
    """The shape of what is trained, where it lies, and how it is updated.

    Attributes:
        config: Its shape.
        vocab_size: How many of its head's rows stand for a token.
        vocab_tables: What its words are to the teacher, where an objective asks.
        compute_dtype: What its parameters are cast to before they are used.
        shapes: The shape of each parameter.
        modules: The shapes of what objectives learn beside it.
        optimizer: What updates them.
        shardings: Where the state lies.
    """

    config: DecoderConfig
    vocab_size: int
    vocab_tables: VocabTables | None
    compute_dtype: str
    param_shapes: Params
    module_shapes: Params
    optimizer: optax.GradientTransformation
    shardings: TrainState

    @property
    def abstract_state(self) -> TrainState:
        """What a restore asks for."""
        return abstract_state(self.param_shapes, self.optimizer, self.shardings, self.module_shapes)

    def forward(self, params: Params, batch: Batch) -> ModelOutput:
        """Its hidden states for a batch."""
        return forward_batch(self.config, self._cast(params), batch)

    def lm_head(self, params: Params) -> LMHead:
        """Its unembedding."""
        plain = lm_head(self.config, self._cast(params), vocab_size=self.vocab_size)
        return replace(plain, vocab_tables=self.vocab_tables)

    def signal(self, params: Params, batch: Batch) -> HiddenSignal:
        """What it says of a batch."""
        read = token_embedding(self.config, self._cast(params))
        return HiddenSignal(self.forward(params, batch).hidden, self.lm_head(params), read)

    def _cast(self, params: Params) -> Params:
        return jax.tree.map(lambda leaf: leaf.astype(self.compute_dtype), params)


def make_student(config: RunConfig, inspection: Inspection) -> Student:
    """The student without its arrays."""
    decoder = inspection.student_config
    shapes = abstract_params(decoder)
    axes = parameter_axes(decoder)
    placed = named_shardings(inspection.mesh, axes, shapes)
    modules = jax.eval_shape(lambda: initial_modules(config, inspection))
    optimizer = config.train.optimizer.make_optimizer(
        config.train.steps,
        {**axes, **jax.tree.map(lambda leaf: (None,) * leaf.ndim, modules)},
        learning_rate_scales=learning_rate_scales(config.objectives),
    )
    return Student(
        config=decoder,
        vocab_size=inspection.vocab_size,
        vocab_tables=inspection.vocab_tables[0],
        compute_dtype=config.student.compute_dtype,
        param_shapes=shapes,
        module_shapes=modules,
        optimizer=optimizer,
        shardings=state_shardings(inspection.mesh, shapes, placed, optimizer, modules),
    )


def initial_modules(config: RunConfig, inspection: Inspection) -> Params:
    """What objectives learn beside the student, before the first step; mostly nothing."""
    if inspection.teacher is None:
        return {}
    widths = inspection.student_config.embed_dim, inspection.teacher.config.embed_dim
    return init_modules(config.objectives, config.seed, *widths)


def load_teacher(config: RunConfig, inspection: Inspection) -> Model | None:
    """The teacher on the mesh; None where there is none."""
    if config.teacher is None or inspection.teacher is None:
        return None
    source = inspection.teacher
    params = _load_params(source, config.teacher.dtype, inspection)
    return _make_model(source, source.config, params, inspection.teacher_tokenizer)


def initial_student(config: RunConfig, inspection: Inspection, teacher: Model | None) -> Model:
    """What training starts with: the chosen layers of the files that the student comes from.

    Args:
        config: The run.
        inspection: Its files.
        teacher: Its parameters are used where the student is made of them.
    """
    is_shared = (
        teacher is not None
        and config.teacher is not None
        and config.teacher.model == config.student.model
        and config.teacher.dtype == "float32"
    )
    if teacher is not None and is_shared:
        whole = teacher.params
    else:
        whole = _load_params(inspection.student, "float32", inspection)
    _, params = select_layers(inspection.student.config, whole, inspection.layers)
    return student_model(inspection, params)


def student_model(inspection: Inspection, params: Params) -> Model:
    """The student with everything that is written when it leaves."""
    return _make_model(inspection.student, inspection.student_config, params, inspection.tokenizer)


def make_run_step(config: RunConfig, inspection: Inspection, student: Student) -> Any:
    """The compiled step."""
    compares = any(objective.needs_teacher for objective in config.objectives)
    step = make_step(
        student_signal=student.signal,
        teacher_signal=make_teacher_signal(inspection) if compares else None,
        objectives=config.objectives,
        optimizer=student.optimizer,
        learning_rate=config.train.optimizer.learning_rate_schedule(config.train.steps),
        shardings=student.shardings,
        mesh=inspection.mesh,
        accumulate=config.train.accumulate,
        chunk_size=config.train.chunk_rows,
    )
    placed = None
    if inspection.teacher is not None and config.teacher is not None:
        placed = _param_shardings(inspection.teacher.config, config.teacher.dtype, inspection)
    return jit_step(step, student.shardings, placed, inspection.mesh)


def make_teacher_signal(inspection: Inspection) -> Any:
    """`(teacher params, batch) -> Signal`, or None where there is no teacher."""
    if inspection.teacher is None:
        return None
    decoder = inspection.teacher.config
    vocab_tables = inspection.vocab_tables[1]

    def signal(params: Params, batch: Batch) -> HiddenSignal:
        vocab_size = inspection.teacher_vocab_size
        said = online.online_signal(decoder, params, batch, vocab_size=vocab_size)
        return replace(said, head=replace(said.lm_head, vocab_tables=vocab_tables))

    return signal


def restore_student(config: RunConfig, inspection: Inspection, folder: RunFolder) -> Model | None:
    """The student of the newest checkpoint; None where there is no checkpoint."""
    if not folder.checkpoints.is_dir():
        return None
    checkpoints = Checkpoints(folder.checkpoints)
    restored = checkpoints.restore(make_student(config, inspection).abstract_state)
    checkpoints.close()
    return None if restored is None else student_model(inspection, restored.state.params)


def _make_model(
    source: hub.Source, config: DecoderConfig, params: Params, tokenizer: PreTrainedTokenizerBase
) -> Model:
    return Model(
        hub.Pretrained(
            family=source.family,
            config=config,
            params=params,
            tokenizer=tokenizer,
            hf_config=source.hf_config,
            generation_config=source.generation_config,
        )
    )


def _load_params(source: hub.Source, dtype: str, inspection: Inspection) -> Params:
    placed = _param_shardings(source.config, dtype, inspection)
    return hub.load_params(source, dtype=dtype, shardings=placed)


def _param_shardings(config: DecoderConfig, dtype: str, inspection: Inspection) -> Any:
    axes, shapes = parameter_axes(config), abstract_params(config, dtype)
    return named_shardings(inspection.mesh, axes, shapes)
