"""Files in and out: Hugging Face folders, GGUF files, names on the hub and pinned wheels."""

from jaxdistill.hub.fetch import fetch as fetch
from jaxdistill.hub.parameters import load_params as load_params
from jaxdistill.hub.pretrained import Pretrained as Pretrained
from jaxdistill.hub.pretrained import load as load
from jaxdistill.hub.read import read as read
from jaxdistill.hub.save import Format as Format
from jaxdistill.hub.save import save as save
from jaxdistill.hub.source import Source as Source
from jaxdistill.hub.tensors import LazyTensor as LazyTensor
from jaxdistill.hub.tokenizer import real_vocab_size as real_vocab_size
