"""Methods, one file each, and the one walk over the vocabulary that serves them all."""

from jaxdistill.objectives.base import OBJECTIVES as OBJECTIVES
from jaxdistill.objectives.base import Divergence as Divergence
from jaxdistill.objectives.base import Objective as Objective
from jaxdistill.objectives.base import RowLogits as RowLogits
from jaxdistill.objectives.base import RowObjective as RowObjective
from jaxdistill.objectives.combined import Combined as Combined
from jaxdistill.objectives.unembed import logits as logits
from jaxdistill.objectives.wall import row_statistics as row_statistics
from jaxdistill.objectives.wall import weighted_loss as weighted_loss
from jaxdistill.objectives.whole import LearnedObjective as LearnedObjective
from jaxdistill.objectives.whole import init_modules as init_modules
from jaxdistill.objectives.whole import learning_rate_scales as learning_rate_scales
