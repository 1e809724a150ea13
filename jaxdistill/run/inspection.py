"""Everything known of a run before and after its rows are tokenized."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from jax.sharding import Mesh
from transformers import PreTrainedTokenizerBase

from jaxdistill import data, hub
from jaxdistill.data.split import ChatKind
from jaxdistill.models import DecoderModel
from jaxdistill.models.execution import Execution, Remat
from jaxdistill.objectives import Objective
from jaxdistill.run.config import RunConfig
from jaxdistill.run.fingerprint import Models
from jaxdistill.run.folder import RunFolder
from jaxdistill.run.vocab_tables import VocabTablePair, make_vocab_tables
from jaxdistill.sharding import num_batch_shards
from jaxdistill.taps import Widths
from jaxdistill.types import Batch, Params


@dataclass(frozen=True)
class Inspection:
    """Everything known of a run from headers and tokenizers, without weights.

    Attributes:
        num_layers: Number of the source's layers that the student keeps.
        layers: Indices of these layers; None until they are chosen by importance.
        tokenizer: Tokenizer of the student, and of the teacher unless `teacher_view` has another.
        vocab_size: Number of tokens of the student; further rows of its LM head are padding.
        teacher_view: The teacher's view of the rows; None if it reads the student's tokens.
        objectives: Objectives of the run, bound to both models.
        chat_kinds: Kinds of rows that occur, chat or plain for student and teacher.
        teacher_renderer: The teacher's own tokenizer and chat template; None if it is the student's
            model, or there is none.
        view_reason: Why a teacher of the student's tokenizer has a view of its own.
        template_note: Whose chat template the student has, if it had none.
        remat: What the student's backward pass computes again.
    """

    student: hub.Source
    num_layers: int
    layers: tuple[int, ...] | None
    teacher: hub.Source | None
    tokenizer: PreTrainedTokenizerBase
    vocab_size: int
    teacher_view: data.TeacherView | None
    mesh: Mesh
    vocab_needs: frozenset[str]
    objectives: tuple[Objective, ...] = ()
    chat_kinds: tuple[ChatKind, ...] = ()
    teacher_renderer: data.Renderer | None = None
    view_reason: str = ""
    template_note: str = ""
    remat: Remat = "projections"

    @property
    def source_model(self) -> DecoderModel:
        """Architecture of the student's source, with all layers."""
        return self.student.language_model.with_execution(Execution(self.mesh, self.remat))

    @property
    def teacher_model(self) -> DecoderModel:
        """Architecture of the teacher; there is a teacher."""
        assert self.teacher is not None, "there is a teacher"
        return self.teacher.language_model.with_execution(Execution(self.mesh))

    @cached_property
    def student_model(self) -> DecoderModel:
        """Architecture of the student.

        Before its layers are chosen, the first layers stand in for them: parameters have the same
        shapes whichever are kept, but layers may differ in kind.
        """
        kept = range(self.num_layers) if self.layers is None else self.layers
        return self.source_model.with_layers(kept)

    @property
    def widths(self) -> tuple[Widths, Widths]:
        """Sizes of student and teacher; there is a teacher."""
        return self.student_model.widths, self.teacher_model.widths

    def student_pretrained(self, params: Params) -> hub.Pretrained:
        """Join the student's parameters with tokenizer and source config, ready to export.

        Its generation config names every token that ends a completion.
        """
        student = hub.from_source(self.student, params, self.tokenizer, self.student_model)
        ends = data.Renderer(self.tokenizer).end_ids(student.eos_ids)
        if self.teacher_view is not None and self.has_one_tokenizer:
            ends = self.teacher_view.renderer.end_ids(ends)  # it may learn the teacher's end, too
        return student.with_eos_ids(ends)

    @property
    def teacher_tokenizer(self) -> PreTrainedTokenizerBase:
        """The teacher's tokenizer."""
        return self.tokenizer if self.teacher_view is None else self.teacher_view.renderer.tokenizer

    @property
    def models(self) -> Models:
        """Both models with their tokenizers."""
        models = {"the student's": (self.student, self.tokenizer)}
        if self.teacher is not None:
            models["the teacher's"] = self.teacher, self.teacher_tokenizer
        return models

    @property
    def has_one_tokenizer(self) -> bool:
        """True if student and teacher have the same tokenizer."""
        return self.teacher_view is None or not self.teacher_view.has_own_tokens

    @property
    def teacher_vocab_size(self) -> int:
        """Number of tokens of the teacher."""
        if self.has_one_tokenizer or self.teacher is None:
            return self.vocab_size
        return hub.real_vocab_size(self.teacher_tokenizer, self.teacher.language_model.vocab_size)

    @property
    def vocab_rows(self) -> data.VocabRows:
        """Rows of embeddings and LM heads that the tokens of the rows may name."""
        student = self.student.language_model.vocab_size
        teacher = student if self.teacher is None else self.teacher.language_model.vocab_size
        if self.teacher_view is None:
            student = min(student, teacher)
        return data.VocabRows(student, teacher)

    @cached_property
    def vocab_tables(self) -> VocabTablePair:
        """The vocabulary tables of both models that the objectives need."""
        teacher = None
        if self.teacher_view is not None and not self.has_one_tokenizer:
            teacher = self.teacher_view.renderer
        return make_vocab_tables(
            data.Renderer(self.tokenizer),
            teacher,
            (self.vocab_size, self.teacher_vocab_size),
            self.vocab_needs,
            self.chat_kinds,
        )


@dataclass(frozen=True)
class RunContext:
    """Config, folder, inspected models and tokenized rows of a run."""

    config: RunConfig
    folder: RunFolder
    inspection: Inspection
    prepared: data.PreparedData

    def ordered_batches(self, examples: Sequence[data.Example]) -> Iterator[Batch]:
        """Yield batches of examples to measure; the mesh divides their size."""
        num_shards = num_batch_shards(self.inspection.mesh)
        size = min(self.config.evaluation.batch_size, len(examples))
        batch_size = -(-size // num_shards) * num_shards
        length = self.config.data.length
        return data.ordered_batches(examples, length=length, batch_size=batch_size)
