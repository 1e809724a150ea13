"""PyTorch runtime: `transformers`, without running code from a model's folder."""

import pickle
from collections.abc import Sequence
from typing import Any

from jaxdistill.errors import UserError
from jaxdistill.runtimes.cost import CostRequest, GenerateTokens, LoadedModel

_EXPORT_HINT = (
    "Where `--runtime jax` reads the model, `jaxdistill export --model MODEL --out DIR` writes a "
    "folder that `transformers` loads."
)


def load_model(request: CostRequest) -> LoadedModel:
    """Load the model of a request, without its tokenizer."""
    model = _load_transformers_model(request)
    return LoadedModel(
        generate=_greedy_generator(
            model, request.dummy_prompts(model.config.get_text_config().vocab_size)
        ),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
    )


def _load_transformers_model(request: CostRequest) -> Any:
    try:
        import torch
    except ImportError:
        raise UserError(
            "--runtime torch: PyTorch is not installed. Run `pip install 'jaxdistill[torch]'`, or "
            "use `--runtime jax`."
        ) from None
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(request.path, **local)
        request.check_length(getattr(config.get_text_config(), "max_position_embeddings", None))
        return AutoModelForCausalLM.from_pretrained(
            request.path, dtype=getattr(torch, request.dtype), weights_only=True, **local
        )
    except pickle.UnpicklingError:
        raise UserError(
            f"{request.path}: its .bin is damaged or holds more than weights, and code in a "
            f"pickle is never run. {_EXPORT_HINT}"
        ) from None
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"{request.path}: `transformers` cannot load it: {reason.rstrip('.')}. {_EXPORT_HINT}"
        ) from None


def _greedy_generator(model: Any, prompts: Sequence[Sequence[int]]) -> GenerateTokens:
    import torch
    from transformers import GenerationConfig

    # Replaces the model's own config, which may name an EOS token, or sample.
    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)
    tokens = torch.tensor(prompts, device=model.device)

    def generate_tokens(new_tokens: int) -> int:
        with torch.inference_mode():
            sequences = model.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=new_tokens
            )
        return sequences[:, tokens.shape[1] :].numel()

    return generate_tokens
