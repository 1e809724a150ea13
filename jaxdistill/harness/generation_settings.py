"""Generation settings of a harness task: sampling and stop strings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.models.utils import normalize_gen_kwargs
from transformers import PreTrainedTokenizerBase

from jaxdistill.errors import UserError
from jaxdistill.sampling import Sampling

DEFAULT_MAX_NEW_TOKENS = 256
"""The harness's own default, for tasks that set none."""

# Accepted in a task, since these values change nothing.
_NO_OP_KWARGS = {"num_beams": 1, "repetition_penalty": 1.0, "use_cache": True}


@dataclass(frozen=True)
class GenerationSettings:
    """Sampling and stop strings of a task.

    Attributes:
        sampling: Choice of tokens, and the maximum number of them.
        stop_strings: A completion ends before the first of these.
        stop_token_ids: Those stop strings that are special tokens, which decoded text omits.
    """

    sampling: Sampling
    stop_strings: tuple[str, ...]
    stop_token_ids: frozenset[int]


def parse_generation_kwargs(
    generation_kwargs: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
) -> GenerationSettings:
    """Convert a task's `generation_kwargs`.

    Raises:
        UserError: Names every option that is not supported.
    """
    options: dict[str, Any] = dict(
        normalize_gen_kwargs(dict(generation_kwargs), DEFAULT_MAX_NEW_TOKENS)
    )
    stop_strings = tuple(text for text in options.pop("until") if text)
    temperature = float(options.pop("temperature", 1.0))
    sampling = Sampling(
        max_new_tokens=options.pop("max_gen_toks"),
        temperature=temperature if options.pop("do_sample") else 0.0,
        top_k=options.pop("top_k", None) or 0,
        top_p=float(options.pop("top_p", None) or 1.0),
    )
    if unknown := [name for name, value in options.items() if _NO_OP_KWARGS.get(name) != value]:
        raise UserError(
            f"generation_kwargs: {', '.join(unknown)} not supported; expected until, "
            "max_gen_toks, do_sample, temperature, top_k or top_p. Remove it from the task."
        )
    ids = {str(token): id for id, token in tokenizer.added_tokens_decoder.items()}
    stop_token_ids = frozenset(ids[text] for text in stop_strings if text in ids)
    return GenerationSettings(sampling, stop_strings, stop_token_ids)


def decode_until_stop(
    completion: Sequence[int], settings: GenerationSettings, tokenizer: PreTrainedTokenizerBase
) -> str:
    """Return the text of a completion up to its first stop string, without special tokens."""
    end = next(
        (index for index, token in enumerate(completion) if token in settings.stop_token_ids),
        len(completion),
    )
    text = str(tokenizer.decode(list(completion[:end]), skip_special_tokens=True))
    for stop in settings.stop_strings:
        text = text.partition(stop)[0]
    return text
