"""What a model is worth: likelihood of held-out text, agreement with a teacher, size, speed."""

from jaxdistill.evals.evaluate import Evaluation as Evaluation
from jaxdistill.evals.size import num_parameters as num_parameters
from jaxdistill.evals.size import size_on_disk as size_on_disk
from jaxdistill.evals.speed import tokens_per_second as tokens_per_second
