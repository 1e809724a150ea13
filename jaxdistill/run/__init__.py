"""Runs: from a config to a trained, measured and exported student, and commands on one model."""

from jaxdistill.run.check import check as check
from jaxdistill.run.check import check_objectives as check_objectives
from jaxdistill.run.check import check_rows as check_rows
from jaxdistill.run.config import RunConfig as RunConfig
from jaxdistill.run.config import load_config as load_config
from jaxdistill.run.cost import NEW_TOKENS as NEW_TOKENS
from jaxdistill.run.cost import PROMPT_TOKENS as PROMPT_TOKENS
from jaxdistill.run.cost import measure_cost as measure_cost
from jaxdistill.run.evaluate import check_max_positions as check_max_positions
from jaxdistill.run.evaluate import evaluate as evaluate
from jaxdistill.run.evaluate import export as export
from jaxdistill.run.evaluate import make_token_evaluator as make_token_evaluator
from jaxdistill.run.evaluate import open_model as open_model
from jaxdistill.run.evaluate import reads_chats as reads_chats
from jaxdistill.run.evaluate import resolve_data_options as resolve_data_options
from jaxdistill.run.evaluate import run_data_config as run_data_config
from jaxdistill.run.evaluate import token_metrics as token_metrics
from jaxdistill.run.rollout import preview_examples as preview_examples
from jaxdistill.run.settings import check_length as check_length
from jaxdistill.run.task import check_task as check_task
from jaxdistill.run.task import evaluate_task as evaluate_task
from jaxdistill.run.task import load_task as load_task
from jaxdistill.run.task import make_task_prompts as make_task_prompts
from jaxdistill.run.task import score_task as score_task
from jaxdistill.run.train import train as train
