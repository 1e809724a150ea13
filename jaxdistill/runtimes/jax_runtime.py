"""Our own runtime: models of `hub`, written with by `sampling`."""

from collections.abc import Sequence

import jax

from jaxdistill import hub
from jaxdistill.models import DecoderConfig
from jaxdistill.runtimes.cost import GenerateTokens
from jaxdistill.runtimes.request import CostRequest, LoadedModel
from jaxdistill.sampling import Sampling, generate
from jaxdistill.types import Params


def load_model(request: CostRequest) -> LoadedModel:
    """Load the model, without its tokenizer.

    Raises:
        UserError: when it cannot be loaded, or does not read as much.
    """
    request.check_length(hub.read_source(request.path).config.max_positions)
    model = hub.load(request.path, dtype=request.dtype, with_tokenizer=False)
    return LoadedModel(
        generate=greedy_generator(
            model.config, model.params, request.dummy_prompts(model.config.vocab_size)
        ),
        num_parameters=sum(leaf.size for leaf in jax.tree.leaves(model.params)),
    )


def greedy_generator(
    config: DecoderConfig,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    vocab_size: int | None = None,
) -> GenerateTokens:
    """What continues all `prompts` in one batch, greedily and past any end of text.

    Args:
        config: The model's shape.
        params: Its parameters.
        prompts: What is continued; one prompt measures how long a single reader waits.
        vocab_size: How many tokens the tokenizer has.
    """

    def write(new_tokens: int) -> int:
        sampling = Sampling(max_new_tokens=new_tokens)
        size = len(prompts)
        answers = generate(
            config, params, prompts, sampling, eos_ids=(), vocab_size=vocab_size, batch_size=size
        )
        return sum(map(len, answers))

    return write
