"""How a task of the harness wants answers written, and where they end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.models.utils import normalize_gen_kwargs
from transformers import PreTrainedTokenizerBase

from jaxdistill.errors import UserError
from jaxdistill.sampling import Sampling

DEFAULT_MAX_NEW_TOKENS = 256
"""The harness's own, for tasks that do not say."""

# What may stand in a task and changes nothing for us.
_NO_OP_KWARGS = {"num_beams": 1, "repetition_penalty": 1.0, "use_cache": True}


@dataclass(frozen=True)
class GenerationSettings:
    """How answers are written.

    Attributes:
        sampling: How tokens are chosen, and how many there are at most.
        stop: An answer ends before the first of these.
        stop_token_ids: Those of them that are special tokens, which no decoded text shows.
    """

    sampling: Sampling
    stop_strings: tuple[str, ...]
    stop_token_ids: frozenset[int]


def parse_generation_kwargs(
    generation_kwargs: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase
) -> GenerationSettings:
    """What a task's `generation_kwargs` ask for.

    Raises:
        UserError: naming what cannot be honoured.
    """
    asked: dict[str, Any] = dict(
        normalize_gen_kwargs(dict(generation_kwargs), DEFAULT_MAX_NEW_TOKENS)
    )
    stop = tuple(text for text in asked.pop("until") if text)
    temperature = float(asked.pop("temperature", 1.0))
    sampling = Sampling(
        max_new_tokens=asked.pop("max_gen_toks"),
        temperature=temperature if asked.pop("do_sample") else 0.0,
        top_k=asked.pop("top_k", None) or 0,
        top_p=float(asked.pop("top_p", None) or 1.0),
    )
    if unknown := [name for name, value in asked.items() if _NO_OP_KWARGS.get(name) != value]:
        raise UserError(
            f"generation_kwargs: {', '.join(unknown)} cannot be honoured; known are until, "
            "max_gen_toks, do_sample, temperature, top_k and top_p. Take it out of the task."
        )
    special = {str(token): id for id, token in tokenizer.added_tokens_decoder.items()}
    return GenerationSettings(
        sampling, stop, frozenset(special[text] for text in stop if text in special)
    )


def decode_until_stop(
    completion: Sequence[int], settings: GenerationSettings, tokenizer: PreTrainedTokenizerBase
) -> str:
    """The text of an answer up to its first stop string, without special tokens."""
    end = next(
        (n for n, token in enumerate(completion) if token in settings.stop_token_ids),
        len(completion),
    )
    text = str(tokenizer.decode(list(completion[:end]), skip_special_tokens=True))
    for stop in settings.stop_strings:
        text = text.partition(stop)[0]
    return text
