"""Cross-entropy with the labels, as in fine-tuning without a teacher."""

from typing import ClassVar, Literal

from jaxdistill.config import configclass
from jaxdistill.objectives.base import OBJECTIVES, PositionObjective
from jaxdistill.objectives.needs import Needs
from jaxdistill.objectives.token_distribution import PerPosition, TokenDistribution


@OBJECTIVES.register
@configclass
class CrossEntropy(PositionObjective):
    """-log q(label) per position, in nats."""

    type: Literal["cross_entropy"] = "cross_entropy"
    needs: ClassVar[Needs] = Needs(labels=True)

    def values(self, student: TokenDistribution, teacher: TokenDistribution | None) -> PerPosition:
        """Compute the label's negative log-probability."""
        return -student.label_log_probs()
