"""Approximate Likelihood Matching: both models find the same stretch of text equally likely.

Minixhofer et al., "Universal Cross-Tokenizer Distillation via Approximate Likelihood Matching",
2025, https://arxiv.org/abs/2503.20083.
"""

from typing import Annotated, ClassVar, Literal

from jaxtyping import Array, Float32
from pydantic import Field

from jaxdistill import losses
from jaxdistill.align import Alignment
from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, RowLogits, RowObjective


@OBJECTIVES.register
@configclass
class ALM(RowObjective):
    """The binary cross-entropy of how likely a group of tokens is, by the student and the teacher.

    It looks at the words that are there and at no others.

    Args:
        temperature: Likelihoods are taken to the power of its inverse, which keeps apart what
            would all be nearly 0.
    """

    type: Literal["alm"] = "alm"
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 100.0

    needs: ClassVar[frozenset[str]] = frozenset({"teacher_logits", "labels"})

    @property
    def alignment(self) -> Alignment:
        """Groups that stand for the same text."""
        return Alignment("spans")

    @property
    def merges(self) -> bool:
        """Groups may be of several tokens."""
        return True

    def row_values(self, student: RowLogits, teacher: RowLogits | None) -> Float32[Array, " R"]:
        """How far the two are apart, plus the entropy of the teacher's side."""
        assert teacher is not None, "the wall shows the teacher to whom needs it"
        return losses.binary_cross_entropy(
            teacher.group_log_probs(), student.group_log_probs(), temperature=self.temperature
        )
