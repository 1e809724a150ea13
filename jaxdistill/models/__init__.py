"""Decoder-only language models: one decoder shared by all, and one file per model family."""

from jaxdistill.models.config import Activation as Activation
from jaxdistill.models.config import DecoderConfig as DecoderConfig
from jaxdistill.models.config import LayerKind as LayerKind
from jaxdistill.models.config import NormKind as NormKind
from jaxdistill.models.config import Rope as Rope
from jaxdistill.models.config import RopeKind as RopeKind
from jaxdistill.models.decoder_model import DecoderModel as DecoderModel
from jaxdistill.models.families import FAMILIES as FAMILIES
from jaxdistill.models.families import Family as Family
from jaxdistill.models.language_model import LanguageModel as LanguageModel
from jaxdistill.models.tensor_rules import TensorRule as TensorRule
