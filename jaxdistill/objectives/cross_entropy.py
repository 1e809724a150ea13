"""Cross-entropy: what the student thinks of the word that really follows."""

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Int

from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, RowLogits, RowObjective


@OBJECTIVES.register
@configclass
class CrossEntropy(RowObjective):
    """-log q(label), per row, in nats."""

    type: Literal["cross_entropy"] = "cross_entropy"
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    def row_values(
        self, student: RowLogits, teacher: RowLogits | None, labels: Int[Array, " R"]
    ) -> Float32[Array, " R"]:
        """The label's negative log-probability."""
        log_q = student.log_probs()
        # Compared with every word rather than looked up: it fuses with what else reads the row,
        # its gradient scatters nothing, and a vocabulary spread over devices stays where it is.
        is_label = jax.lax.broadcasted_iota(labels.dtype, log_q.shape, 1) == labels[:, None]
        return -jnp.sum(jnp.where(is_label, log_q, 0), axis=-1)
