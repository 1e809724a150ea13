"""Text generation: continue prompts token by token, greedily or by sampling."""

from jaxdistill.sampling.generation import check_token_ids as check_token_ids
from jaxdistill.sampling.generation import generate as generate
from jaxdistill.sampling.next_token import Sampling as Sampling
from jaxdistill.sampling.next_token import sample_next_token as sample_next_token
