"""Distillation objectives, one file each, and the chunked loss that evaluates them."""

from jaxdistill.objectives.base import OBJECTIVES as OBJECTIVES
from jaxdistill.objectives.base import Divergence as Divergence
from jaxdistill.objectives.base import Objective as Objective
from jaxdistill.objectives.base import PositionObjective as PositionObjective
from jaxdistill.objectives.chunked_loss import position_metrics as position_metrics
from jaxdistill.objectives.chunked_loss import weighted_loss as weighted_loss
from jaxdistill.objectives.logits import compute_logits as compute_logits
from jaxdistill.objectives.loss import CombinedLoss as CombinedLoss
from jaxdistill.objectives.modules import TrainableObjective as TrainableObjective
from jaxdistill.objectives.modules import init_modules as init_modules
from jaxdistill.objectives.modules import learning_rate_scales as learning_rate_scales
from jaxdistill.objectives.tap_objective import TapObjective as TapObjective
from jaxdistill.objectives.token_distribution import TokenDistribution as TokenDistribution
