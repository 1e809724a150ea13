"""The online teacher: a model that runs in the training step, outside the gradient."""

from typing import Annotated, ClassVar, Literal

import jax
from pydantic import Field

from jaxdistill.config import configclass
from jaxdistill.models import DecoderConfig, forward_batch, lm_head, token_embedding
from jaxdistill.teachers import TEACHERS
from jaxdistill.types import Batch, HiddenSignal, Params


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

    provides: ClassVar[frozenset[str]] = frozenset({"teacher_logits", "teacher_hidden"})


def online_signal(
    config: DecoderConfig, params: Params, batch: Batch, *, vocab_size: int
) -> HiddenSignal:
    """Compute the teacher's hidden states of a batch; no gradient flows through them.

    With an alignment, the teacher reads its own view of the student's batch. Rows of its LM head
    from `vocab_size` on are padding.
    """
    params = jax.lax.stop_gradient(params)
    teacher_batch = batch if batch.alignment is None else batch.alignment.teacher
    output = forward_batch(config, params, teacher_batch)
    return HiddenSignal(
        hidden=jax.lax.stop_gradient(output.hidden),
        lm_head=lm_head(config, params, vocab_size=vocab_size),
        embedding=token_embedding(config, params),
    )
