"""One decoder for all families, and the families: configs and tables of weights."""

from jaxdistill.models.attention import Cache as Cache
from jaxdistill.models.config import Activation as Activation
from jaxdistill.models.config import DecoderConfig as DecoderConfig
from jaxdistill.models.config import LayerKind as LayerKind
from jaxdistill.models.config import Norm as Norm
from jaxdistill.models.config import Rope as Rope
from jaxdistill.models.config import RopeKind as RopeKind
from jaxdistill.models.decode import Layers as Layers
from jaxdistill.models.decode import StepCache as StepCache
from jaxdistill.models.decode import extend as extend
from jaxdistill.models.decode import step as step
from jaxdistill.models.decode import take_apart as take_apart
from jaxdistill.models.decoder import Decoder as Decoder
from jaxdistill.models.decoder import abstract_params as abstract_params
from jaxdistill.models.decoder import embedding as embedding
from jaxdistill.models.decoder import forward as forward
from jaxdistill.models.decoder import forward_batch as forward_batch
from jaxdistill.models.decoder import head as head
from jaxdistill.models.decoder import init_cache as init_cache
from jaxdistill.models.decoder import init_params as init_params
from jaxdistill.models.decoder import parameter_axes as parameter_axes
from jaxdistill.models.decoder import select_layers as select_layers
from jaxdistill.models.families import FAMILIES as FAMILIES
from jaxdistill.models.families import Family as Family
from jaxdistill.models.rules import Rule as Rule
