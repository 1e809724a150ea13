"""Online: the teacher is a model that runs inside the student's step, outside the gradient."""

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
    """A model that reads every batch beside the student.

    Attributes:
        model: A Hugging Face folder, a `.gguf` file or a hub name.
        dtype: What its parameters are kept and computed in; any float type serves.
    """

    type: Literal["online"] = "online"
    model: Annotated[str, Field(min_length=1)]
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    provides: ClassVar[frozenset[str]] = frozenset({"teacher_logits", "teacher_hidden"})


def online_signal(
    config: DecoderConfig, params: Params, batch: Batch, *, vocab_size: int
) -> HiddenSignal:
    """The teacher's hidden states for `batch`, with its head; no gradient passes.

    Args:
        config: The teacher's shape.
        params: Its parameters.
        batch: What the student reads, with what this teacher reads of it if that differs.
        vocab_size: How many words its tokenizer has; further rows of the head are padding.
    """
    params = jax.lax.stop_gradient(params)
    read = batch if batch.alignment is None else batch.alignment.teacher
    output = forward_batch(config, params, read)
    return HiddenSignal(
        hidden=jax.lax.stop_gradient(output.hidden),
        lm_head=lm_head(config, params, vocab_size=vocab_size),
        embedding=token_embedding(config, params),
    )
