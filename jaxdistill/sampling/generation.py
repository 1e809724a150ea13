"""Continuing prompts in batches, with a cache of keys and values and the loop on the device.

What is written for a prompt depends on its tokens, its place in the list and the seed, and on
nothing else: not on the batch it shares or on how large batches are.
"""

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxdistill import objectives
from jaxdistill.data import bucket_length
from jaxdistill.errors import UserError
from jaxdistill.models import (
    DecoderConfig,
    KVCache,
    UnstackedCache,
    UnstackedLayers,
    decode_step,
    forward,
    init_cache,
    lm_head,
    unstack_cache,
    unstack_layers,
)
from jaxdistill.sampling.config import Sampling
from jaxdistill.sampling.next_token import sample_next_token
from jaxdistill.types import Params

OnBatch = Callable[[int, int, int], None]
"""Called after a batch with the prompts done, the prompts in all, and the tokens just written."""

_NO_TOKEN = -1
"""Stands in the array of written tokens where a row has ended."""


def generate(
    config: DecoderConfig,
    params: Params,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    eos_ids: Collection[int],
    seed: int = 0,
    first_index: int = 0,
    vocab_size: int | None = None,
    batch_size: int = 32,
    on_batch: OnBatch | None = None,
) -> list[list[int]]:
    """Continue every prompt until the model ends it, or `sampling` or the model's length does.

    Prompts of similar length go through together, and shapes are rounded up, so that few
    programs are compiled.

    Args:
        config: The model's shape.
        params: Its parameters.
        prompts: Token ids of each prompt, at least one token each.
        sampling: How the next token is chosen, and how many there are at most.
        eos_ids: The tokens that end an answer.
        seed: Decides what is sampled, for each prompt by its place in the list. Any whole number;
            the lowest 32 bits count.
        first: The place of the first prompt, where the list is a part of a longer one.
        vocab_size: How many tokens the tokenizer has; rows of the head beyond that are never
            chosen. None for all of them.
        batch_size: How many prompts are continued at a time.
        on_batch: Is told of the progress.

    Returns:
        The new tokens of each prompt in the given order, the one that ended it included.

    Raises:
        UserError: naming every prompt that is empty, too long, or not made of known tokens; or
            when the model makes no numbers of one.
    """
    check_token_ids(config, prompts, "prompt")
    if not prompts:
        return []
    # No answer is longer than the model reads, and no cache need be.
    room = config.max_positions + 1 - min(map(len, prompts))
    sampling = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, room))
    writer = _GenerationSpec(config, sampling, tuple(sorted(eos_ids)), vocab_size)
    layers = unstack_layers(config, params)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
        jax.random.key(seed % 2**32), first_index + np.arange(len(prompts))
    )
    answers: list[list[int]] = [[] for _ in prompts]
    by_length = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    for first_index in range(0, len(by_length), batch_size):
        numbers = by_length[first_index : first_index + batch_size]
        tokens, lengths = _pad_prompts([prompts[number] for number in numbers], batch_size)
        row_keys = keys[np.resize(numbers, len(tokens))]
        token, is_sound, cache = _prefill(writer, params, tokens, lengths, row_keys)
        cache = unstack_cache(cache, tokens.shape[1] + sampling.max_new_tokens)
        written, _ = _decode_loop(writer, params, layers, lengths, row_keys, token, cache)
        _check_finite(np.asarray(is_sound)[: len(numbers)], numbers, params)
        rows = np.asarray(written)[: len(numbers)]
        for number, row in zip(numbers, rows, strict=True):
            answers[number] = row[row != _NO_TOKEN].tolist()
        if on_batch is not None:
            on_batch(first_index + len(numbers), len(prompts), int((rows != _NO_TOKEN).sum()))
    return answers


@dataclass(frozen=True)
class _GenerationSpec:
    """What is the same for all batches, and compiled into their programs.

    Attributes:
        config: The model's shape.
        sampling: How tokens are chosen.
        eos_ids: The tokens that end an answer.
        vocab_size: How many tokens there are.
    """

    config: DecoderConfig
    sampling: Sampling
    eos_ids: tuple[int, ...]
    vocab_size: int | None

    def next_tokens(
        self,
        params: Params,
        hidden: Float[Array, "B D"],
        keys: Key[Array, " B"],
        step: Array | int,
    ) -> Int[Array, " B"]:
        """The new token of every row that comes as this `number`, from 0."""
        logits = objectives.compute_logits(
            hidden, lm_head(self.config, params, vocab_size=self.vocab_size)
        )
        token_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
        return sample_next_token(logits, token_keys, self.sampling)

    def is_finished(
        self, token: Int[Array, " B"], prompt_lengths: Int[Array, " B"], step: Array | int
    ) -> Bool[Array, " B"]:
        """Whether a row ends with this token, or has no position at which to read it."""
        ends = jnp.array(self.eos_ids, jnp.int32)
        is_end = (token[:, None] == ends[None]).any(axis=1)
        return is_end | (prompt_lengths + step >= self.config.max_positions)


@functools.partial(jax.jit, static_argnums=0)
def _prefill(
    spec: _GenerationSpec,
    params: Params,
    prompts: Int[Array, "B T"],
    prompt_lengths: Int[Array, " B"],
    keys: Key[Array, " B"],
) -> tuple[Int[Array, " B"], Bool[Array, " B"], KVCache]:
    """Read the prompts in one pass.

    Returns:
        The first new token of every row, whether it was chosen by numbers, and the cache.
    """
    batch, time = prompts.shape
    places = jnp.broadcast_to(jnp.arange(time)[None], (batch, time))
    output = forward(
        spec.config,
        params,
        prompts,
        positions=places,
        segment_ids=(places < prompt_lengths[:, None]).astype(jnp.int32),
        cache=init_cache(spec.config, batch, time, params["embedding"].dtype),
    )
    last = jnp.maximum(prompt_lengths - 1, 0)[:, None, None]
    hidden = jnp.take_along_axis(output.hidden, last, axis=1)[:, 0]
    is_sound = jnp.isfinite(hidden).all(axis=1)
    return spec.next_tokens(params, hidden, keys, 0), is_sound, output.cache


@functools.partial(jax.jit, static_argnums=0, donate_argnums=6)
def _decode_loop(
    spec: _GenerationSpec,
    params: Params,
    unstacked_layers: UnstackedLayers,
    prompt_lengths: Int[Array, " B"],
    keys: Key[Array, " B"],
    first_token: Int[Array, " B"],
    cache: UnstackedCache,
) -> tuple[Int[Array, "B new"], UnstackedCache]:
    """All new tokens of every row, `_NO_TOKEN` after its end; rows of length 0 have none.

    The cache is given back so that it is changed in place: a donated array must become a result.
    """
    num_new = spec.sampling.max_new_tokens
    is_padding = prompt_lengths == 0
    written = jnp.full((len(prompt_lengths), num_new), _NO_TOKEN, jnp.int32)
    written = written.at[:, 0].set(jnp.where(is_padding, _NO_TOKEN, first_token))

    def advance(state):
        number, token, is_done, written, cache = state
        positions = prompt_lengths + number - 1
        hidden, cache = decode_step(
            spec.config, params, unstacked_layers, token, positions=positions, cache=cache
        )
        token = spec.next_tokens(params, hidden, keys, number)
        written = written.at[:, number].set(jnp.where(is_done, _NO_TOKEN, token))
        is_done |= spec.is_finished(token, prompt_lengths, number)
        return number + 1, token, is_done, written, cache

    def is_going_on(state):
        return (state[0] < num_new) & ~state[2].all()

    is_done = is_padding | spec.is_finished(first_token, prompt_lengths, 0)
    state = (1, first_token, is_done, written, cache)
    return jax.lax.while_loop(is_going_on, advance, state)[3:]


def _pad_prompts(
    prompts: Sequence[Sequence[int]], batch_size: int
) -> tuple[Int[np.ndarray, "B T"], Int[np.ndarray, " B"]]:
    """The prompts as rows of one of few shapes, and their lengths; padding rows have length 0."""
    rows = min(batch_size, 1 << (len(prompts) - 1).bit_length())
    longest = max(map(len, prompts))
    tokens = np.zeros((rows, bucket_length(longest)), np.int32)
    lengths = np.zeros(rows, np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
        lengths[row] = len(prompt)
    return tokens, lengths


def _check_finite(
    is_finite: Bool[np.ndarray, " _"], prompt_indices: Sequence[int], params: Params
) -> None:
    """Refuse to go on where a model's hidden states are NaN: it would end every answer at once."""
    if not is_finite.all():
        raise UserError(
            f"prompt {prompt_indices[int(is_finite.argmin())]}: the model makes no numbers of it (NaN or "
            f"infinity, in {params['embedding'].dtype}). Its weights are damaged, or were made by "
            "training that diverged; if they are not of 32 bits, try `--dtype float32`."
        )


def check_token_ids(
    config: DecoderConfig, sequences: Sequence[Sequence[int] | np.ndarray], item_name: str
) -> None:
    """Refuse rows of token ids that the model cannot read; `what` a row is, the findings say.

    Raises:
        UserError: naming every row that is empty, too long, or not made of known tokens.
    """
    findings = []
    for number, row in enumerate(sequences):
        if not len(row):
            findings.append(
                f"{item_name} {number}: it has no token. Begin it with the tokenizer's first token "
                "(BOS), or with a text."
            )
        elif len(row) > config.max_positions:
            findings.append(
                f"{item_name} {number}: it has {len(row):,} tokens, and the model reads "
                f"{config.max_positions:,} at most. Shorten it."
            )
        elif min(row) < 0 or max(row) >= config.vocab_size:
            unknown = min(row) if min(row) < 0 else max(row)
            findings.append(
                f"{item_name} {number}: it has token {unknown}, and the model knows 0 to "
                f"{config.vocab_size - 1}. Encode it with the model's own tokenizer."
            )
    if findings:
        raise UserError(*findings)
