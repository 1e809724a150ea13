"""Decoder-only language models: one decoder shared by all, and one file per model family."""

from jaxdistill.models.attention import KVCache as KVCache
from jaxdistill.models.config import Activation as Activation
from jaxdistill.models.config import DecoderConfig as DecoderConfig
from jaxdistill.models.config import LayerKind as LayerKind
from jaxdistill.models.config import NormKind as NormKind
from jaxdistill.models.config import Rope as Rope
from jaxdistill.models.config import RopeKind as RopeKind
from jaxdistill.models.decode_step import UnstackedCache as UnstackedCache
from jaxdistill.models.decode_step import UnstackedLayers as UnstackedLayers
from jaxdistill.models.decode_step import decode_step as decode_step
from jaxdistill.models.decode_step import unstack_cache as unstack_cache
from jaxdistill.models.decode_step import unstack_layers as unstack_layers
from jaxdistill.models.decoder import abstract_params as abstract_params
from jaxdistill.models.decoder import forward as forward
from jaxdistill.models.decoder import forward_batch as forward_batch
from jaxdistill.models.decoder import init_cache as init_cache
from jaxdistill.models.decoder import init_params as init_params
from jaxdistill.models.decoder import lm_head as lm_head
from jaxdistill.models.decoder import parameter_axes as parameter_axes
from jaxdistill.models.decoder import select_layers as select_layers
from jaxdistill.models.decoder import token_embedding as token_embedding
from jaxdistill.models.families import FAMILIES as FAMILIES
from jaxdistill.models.families import Family as Family
from jaxdistill.models.layer_importance import importance_sums as importance_sums
from jaxdistill.models.tensor_rules import TensorRule as TensorRule
