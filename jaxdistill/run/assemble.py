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
    embedding,
    forward_batch,
    head,
    parameter_axes,
    select_layers,
)
from jaxdistill.objectives import init_modules, learning_rate_scales
from jaxdistill.run.check import Inspection
from jaxdistill.run.config import RunConfig
from jaxdistill.run.folder import RunFolder
from jaxdistill.sharding import shardings
from jaxdistill.teachers import online
from jaxdistill.train import (
    Checkpoints,
    TrainState,
    abstract_state,
    jit_step,
    make_step,
    state_shardings,
)
from jaxdistill.types import Batch, Head, Lexicon, Output, Params, Signal


@dataclass(frozen=True)
class Student:
    """The shape of what is trained, where it lies, and how it is updated.

    Attributes:
        config: Its shape.
        vocab_size: How many of its head's rows stand for a token.
        lexicon: What its words are to the teacher, where an objective asks.
        compute_dtype: What its parameters are cast to before they are used.
        shapes: The shape of each parameter.
        modules: The shapes of what objectives learn beside it.
        optimizer: What updates them.
        shardings: Where the state lies.
    """

    config: DecoderConfig
    vocab_size: int
    lexicon: Lexicon | None
    compute_dtype: str
    shapes: Params
    modules: Params
    optimizer: optax.GradientTransformation
    shardings: TrainState

    @property
    def abstract_state(self) -> TrainState:
        """What a restore asks for."""
        return abstract_state(self.shapes, self.optimizer, self.shardings, self.modules)

    def forward(self, params: Params, batch: Batch) -> Output:
        """Its hidden states for a batch."""
        return forward_batch(self.config, self._cast(params), batch)

    def head(self, params: Params) -> Head:
        """Its unembedding."""
        plain = head(self.config, self._cast(params), vocab_size=self.vocab_size)
        return replace(plain, lexicon=self.lexicon)

    def signal(self, params: Params, batch: Batch) -> Signal:
        """What it says of a batch."""
        read = embedding(self.config, self._cast(params))
        return Signal(self.forward(params, batch).hidden, self.head(params), read)

    def _cast(self, params: Params) -> Params:
        return jax.tree.map(lambda leaf: leaf.astype(self.compute_dtype), params)


def make_student(config: RunConfig, inspection: Inspection) -> Student:
    """The student without its arrays."""
    decoder = inspection.student_config
    shapes = abstract_params(decoder)
    axes = parameter_axes(decoder)
    placed = shardings(inspection.mesh, axes, shapes)
    modules = jax.eval_shape(lambda: initial_modules(config, inspection))
    optimizer = config.train.optimizer.transform(
        config.train.steps,
        {**axes, **jax.tree.map(lambda leaf: (None,) * leaf.ndim, modules)},
        scales=learning_rate_scales(config.objectives),
    )
    return Student(
        config=decoder,
        vocab_size=inspection.vocab_size,
        lexicon=inspection.lexicons[0],
        compute_dtype=config.student.compute_dtype,
        shapes=shapes,
        modules=modules,
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
    params = _load(source, config.teacher.dtype, inspection)
    return _model(source, source.config, params, inspection.teacher_tokenizer)


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
        whole = _load(inspection.student, "float32", inspection)
    _, params = select_layers(inspection.student.config, whole, inspection.layers)
    return student_model(inspection, params)


def student_model(inspection: Inspection, params: Params) -> Model:
    """The student with everything that is written when it leaves."""
    return _model(inspection.student, inspection.student_config, params, inspection.tokenizer)


def make_run_step(config: RunConfig, inspection: Inspection, student: Student) -> Any:
    """The compiled step."""
    compares = any(objective.compares for objective in config.objectives)
    step = make_step(
        student=student.signal,
        teacher=teacher_signal(inspection) if compares else None,
        objectives=config.objectives,
        optimizer=student.optimizer,
        rate=config.train.optimizer.rate(config.train.steps),
        shardings=student.shardings,
        mesh=inspection.mesh,
        accumulate=config.train.accumulate,
        chunk_rows=config.train.chunk_rows,
    )
    placed = None
    if inspection.teacher is not None and config.teacher is not None:
        placed = _shardings(inspection.teacher.config, config.teacher.dtype, inspection)
    return jit_step(step, student.shardings, placed, inspection.mesh)


def teacher_signal(inspection: Inspection) -> Any:
    """`(teacher params, batch) -> Signal`, or None where there is no teacher."""
    if inspection.teacher is None:
        return None
    decoder = inspection.teacher.config
    lexicon = inspection.lexicons[1]

    def signal(params: Params, batch: Batch) -> Signal:
        vocab_size = inspection.teacher_vocab_size
        said = online.signal(decoder, params, batch, vocab_size=vocab_size)
        return replace(said, head=replace(said.head, lexicon=lexicon))

    return signal


def restored_student(config: RunConfig, inspection: Inspection, folder: RunFolder) -> Model | None:
    """The student of the newest checkpoint; None where there is no checkpoint."""
    if not folder.checkpoints.is_dir():
        return None
    checkpoints = Checkpoints(folder.checkpoints)
    restored = checkpoints.restore(make_student(config, inspection).abstract_state)
    checkpoints.close()
    return None if restored is None else student_model(inspection, restored.state.params)


def _model(
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


def _load(source: hub.Source, dtype: str, inspection: Inspection) -> Params:
    placed = _shardings(source.config, dtype, inspection)
    return hub.load_params(source, dtype=dtype, shardings=placed)


def _shardings(config: DecoderConfig, dtype: str, inspection: Inspection) -> Any:
    axes, shapes = parameter_axes(config), abstract_params(config, dtype)
    return shardings(inspection.mesh, axes, shapes)
