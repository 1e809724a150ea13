"""Cross-entropy: what the student thinks of the word that really follows."""

from typing import ClassVar, Literal

from jaxtyping import Array, Float32

from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, PositionObjective, TokenDistribution


@OBJECTIVES.register
@configclass
class CrossEntropy(PositionObjective):
    """-log q(label), per row, in nats."""

    type: Literal["cross_entropy"] = "cross_entropy"
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    def values(
        self, student: TokenDistribution, teacher: TokenDistribution | None
    ) -> Float32[Array, " R"]:
        """The label's negative log-probability."""
        return -student.label_log_probs()
