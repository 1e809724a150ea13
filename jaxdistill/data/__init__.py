"""Data: from files of rows to batches of tokens. It sees a tokenizer, never a model."""

from jaxdistill.data.config import DataConfig as DataConfig
from jaxdistill.data.examples import Counts as Counts
from jaxdistill.data.examples import Example as Example
from jaxdistill.data.pack import rounded_length as rounded_length
from jaxdistill.data.pipeline import Prepared as Prepared
from jaxdistill.data.pipeline import Rows as Rows
from jaxdistill.data.pipeline import batches as batches
from jaxdistill.data.pipeline import check as check
from jaxdistill.data.pipeline import ordered_batches as ordered_batches
from jaxdistill.data.pipeline import prepare as prepare
from jaxdistill.data.pipeline import read as read
from jaxdistill.data.rollouts import ROLLOUTS as ROLLOUTS
from jaxdistill.data.rollouts.dataset import DatasetRollout as DatasetRollout
from jaxdistill.data.rollouts.teacher import TeacherRollout as TeacherRollout
from jaxdistill.data.rollouts.writer import Writer as Writer
from jaxdistill.data.rows import Chat as Chat
from jaxdistill.data.rows import Row as Row
from jaxdistill.data.rows import Text as Text
from jaxdistill.data.rows import asked as asked
from jaxdistill.data.rows import parse as parse
from jaxdistill.data.sources import records as records
from jaxdistill.data.tokenize import prompt_tokens as prompt_tokens
from jaxdistill.data.tokenize import render_prompt as render_prompt
from jaxdistill.data.words import Words as Words
from jaxdistill.data.words import words as words
