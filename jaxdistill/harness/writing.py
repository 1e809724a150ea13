"""How a task of the harness wants answers written, and where they end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.models.utils import normalize_gen_kwargs
from transformers import PreTrainedTokenizerBase

from jaxdistill.errors import UserError
from jaxdistill.sampling import Sampling

DEFAULT_NEW_TOKENS = 256
"""The harness's own, for tasks that do not say."""

# What may stand in a task and changes nothing for us.
_NEUTRAL = {"num_beams": 1, "repetition_penalty": 1.0, "use_cache": True}


@dataclass(frozen=True)
class Wish:
    """How answers are written.

    Attributes:
        sampling: How tokens are chosen, and how many there are at most.
        stop: An answer ends before the first of these.
        stop_ids: Those of them that are special tokens, which no decoded text shows.
    """

    sampling: Sampling
    stop: tuple[str, ...]
    stop_ids: frozenset[int]


def wish(options: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Wish:
    """What a task's `generation_kwargs` ask for.

    Raises:
        UserError: naming what cannot be honoured.
    """
    asked: dict[str, Any] = dict(normalize_gen_kwargs(dict(options), DEFAULT_NEW_TOKENS))
    stop = tuple(text for text in asked.pop("until") if text)
    temperature = float(asked.pop("temperature", 1.0))
    sampling = Sampling(
        max_new_tokens=asked.pop("max_gen_toks"),
        temperature=temperature if asked.pop("do_sample") else 0.0,
        top_k=asked.pop("top_k", None) or 0,
        top_p=float(asked.pop("top_p", None) or 1.0),
    )
    if unknown := [name for name, value in asked.items() if _NEUTRAL.get(name) != value]:
        raise UserError(
            f"generation_kwargs: {', '.join(unknown)} cannot be honoured; known are until, "
            "max_gen_toks, do_sample, temperature, top_k and top_p. Take it out of the task."
        )
    special = {str(token): id for id, token in tokenizer.added_tokens_decoder.items()}
    return Wish(sampling, stop, frozenset(special[text] for text in stop if text in special))


def cut(answer: Sequence[int], wanted: Wish, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of an answer up to its first stop string, without special tokens."""
    end = next((n for n, token in enumerate(answer) if token in wanted.stop_ids), len(answer))
    text = str(tokenizer.decode(list(answer[:end]), skip_special_tokens=True))
    for stop in wanted.stop:
        text = text.partition(stop)[0]
    return text
