"""Runs: the one place that knows all rooms. It only assembles."""

from jaxdistill.run.check import check as check
from jaxdistill.run.check import check_length as check_length
from jaxdistill.run.check import check_objectives as check_objectives
from jaxdistill.run.config import RunConfig as RunConfig
from jaxdistill.run.config import read as read
from jaxdistill.run.cost import NEW_TOKENS as NEW_TOKENS
from jaxdistill.run.cost import PROMPT_TOKENS as PROMPT_TOKENS
from jaxdistill.run.cost import cost as cost
from jaxdistill.run.evaluate import check_reads as check_reads
from jaxdistill.run.evaluate import evaluate as evaluate
from jaxdistill.run.evaluate import evaluation as evaluation
from jaxdistill.run.evaluate import export as export
from jaxdistill.run.evaluate import measure_places as measure_places
from jaxdistill.run.evaluate import open_model as open_model
from jaxdistill.run.evaluate import reading as reading
from jaxdistill.run.evaluate import trained_on as trained_on
from jaxdistill.run.task import check_task as check_task
from jaxdistill.run.task import evaluate_task as evaluate_task
from jaxdistill.run.task import read_task as read_task
from jaxdistill.run.task import task_questions as task_questions
from jaxdistill.run.task import task_scores as task_scores
from jaxdistill.run.train import train as train
