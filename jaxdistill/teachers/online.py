"""The online teacher: a model that runs in the training step, outside the gradient."""

from typing import Annotated, ClassVar, Literal

import jax
from pydantic import Field

from jaxdistill.config import configclass
from jaxdistill.models import LanguageModel
from jaxdistill.objectives.needs import Provides
from jaxdistill.taps import NO_TAPS, Taps
from jaxdistill.teachers import TEACHERS
from jaxdistill.types import Batch, HiddenSignal, Params, VocabTables


@TEACHERS.register
@configclass
class OnlineTeacher:
    """A teacher model in memory, which reads every batch of the student.

    Attributes:
        model: A Hugging Face folder, a `.gguf` file or a name on the Hugging Face Hub.
        dtype: Type in which its parameters are kept and its hidden states computed.
    """

    type: Literal["online"] = "online"
    model: Annotated[str, Field(min_length=1)]
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    provides: ClassVar[Provides] = Provides(logits=True, hidden=True, taps=True)


def online_signal(
    model: LanguageModel,
    params: Params,
    batch: Batch,
    *,
    vocab_size: int,
    vocab_tables: VocabTables | None = None,
    taps: Taps = NO_TAPS,
) -> HiddenSignal:
    """Compute the teacher's signal for a batch; no gradient flows through it.

    With an alignment, the teacher reads its own view of the student's batch. Rows of its LM head
    from `vocab_size` on are padding.
    """
    params = jax.lax.stop_gradient(params)
    teacher_batch = batch if batch.alignment is None else batch.alignment.teacher
    signal = model.signal(
        params, teacher_batch, vocab_size=vocab_size, vocab_tables=vocab_tables, taps=taps
    )
    return jax.lax.stop_gradient(signal)
