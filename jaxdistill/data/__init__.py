"""Data: from files of rows to batches of tokens. It uses tokenizers, never models."""

from jaxdistill.data.batches import ordered_batches as ordered_batches
from jaxdistill.data.batches import shuffled_batches as shuffled_batches
from jaxdistill.data.config import DataConfig as DataConfig
from jaxdistill.data.examples import Example as Example
from jaxdistill.data.packing import bucket_length as bucket_length
from jaxdistill.data.preparation import PreparedData as PreparedData
from jaxdistill.data.preparation import check_data as check_data
from jaxdistill.data.preparation import prepare as prepare
from jaxdistill.data.renderer import Renderer as Renderer
from jaxdistill.data.rollouts.generation_cache import GenerationCache as GenerationCache
from jaxdistill.data.rollouts.generation_cache import ProgressCallback as ProgressCallback
from jaxdistill.data.rollouts.teacher import TeacherRollout as TeacherRollout
from jaxdistill.data.row_formats import parse_row as parse_row
from jaxdistill.data.rows import Chat as Chat
from jaxdistill.data.rows import Row as Row
from jaxdistill.data.rows import Text as Text
from jaxdistill.data.rows import apply_teacher_prompt as apply_teacher_prompt
from jaxdistill.data.rows import readable_prompt as readable_prompt
from jaxdistill.data.sources import read_rows as read_rows
from jaxdistill.data.split import DataSplit as DataSplit
from jaxdistill.data.split import read_split as read_split
from jaxdistill.data.teacher_view import TeacherView as TeacherView
from jaxdistill.data.tokenization import prompt_tokens as prompt_tokens
from jaxdistill.data.tokenization import tokenize_prompt as tokenize_prompt
from jaxdistill.data.word_offsets import WordOffsets as WordOffsets
from jaxdistill.data.word_offsets import word_offsets as word_offsets
