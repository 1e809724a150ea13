"""Writing: tokens chosen one after the other from a model's own distribution."""

from jaxdistill.sampling.config import Sampling as Sampling
from jaxdistill.sampling.generate import OnBatch as OnBatch
from jaxdistill.sampling.generate import check_tokens as check_tokens
from jaxdistill.sampling.generate import generate as generate
from jaxdistill.sampling.select import select as select
