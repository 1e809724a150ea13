"""What a model is worth: likelihood of held-out text, agreement with a teacher, size, speed."""

from jaxdistill.evals.bootstrap import Estimate as Estimate
from jaxdistill.evals.bootstrap import difference as difference
from jaxdistill.evals.bootstrap import ratio as ratio
from jaxdistill.evals.continuations import Likelihood as Likelihood
from jaxdistill.evals.continuations import likelihoods as likelihoods
from jaxdistill.evals.places import Evaluation as Evaluation
from jaxdistill.evals.places import Places as Places
from jaxdistill.evals.size import num_parameters as num_parameters
from jaxdistill.evals.size import size_on_disk as size_on_disk
from jaxdistill.evals.summary import RATIOS as RATIOS
from jaxdistill.evals.summary import by_row as by_row
from jaxdistill.evals.summary import summary as summary
from jaxdistill.evals.task import Task as Task
from jaxdistill.evals.task import questions as questions
from jaxdistill.evals.task import score as score
from jaxdistill.evals.words import Bin as Bin
from jaxdistill.evals.words import WordTable as WordTable
from jaxdistill.evals.words import bins as bins
from jaxdistill.evals.words import bits_per_byte as bits_per_byte
from jaxdistill.evals.words import excess as excess
from jaxdistill.evals.words import word_nats as word_nats
from jaxdistill.evals.words import word_table as word_table
from jaxdistill.runtimes.cost import Cost as Cost
from jaxdistill.runtimes.cost import Speed as Speed
from jaxdistill.runtimes.cost import speed as speed
