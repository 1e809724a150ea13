"""Batched generation with a key/value cache and the decoding loop on the device.

The completion of a prompt depends on its tokens, its index in the list and the seed, but not on
the other prompts of its batch or on the size of batches.
"""

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxdistill import objectives
from jaxdistill.data import ProgressCallback, bucket_length
from jaxdistill.errors import UserError
from jaxdistill.models import LanguageModel
from jaxdistill.sampling.next_token import Sampling, sample_next_token
from jaxdistill.types import Params

_NO_TOKEN = -1
"""Marks the steps after the end of a sequence in the array of generated tokens."""


def generate(
    model: LanguageModel,
    params: Params,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    eos_ids: Collection[int],
    seed: int = 0,
    first_index: int = 0,
    vocab_size: int | None = None,
    batch_size: int = 32,
    on_batch: ProgressCallback | None = None,
) -> list[list[int]]:
    """Generate a completion of every prompt: its new tokens, with the end-of-text token.

    A completion ends with an end-of-text token, at `sampling.max_new_tokens`, or at the model's
    maximum length. Prompts of similar length share a batch of at most `batch_size`, and shapes are
    rounded up, so that few programs are compiled. `on_batch` is called after each batch.

    The lowest 32 bits of `seed` and the index of a prompt determine its samples. `first_index` is
    the index of the first prompt, if `prompts` is a part of a longer list. Rows of the LM head from
    `vocab_size` on, the number of tokens of the tokenizer, are never sampled.

    Raises:
        UserError: Some prompts are empty, too long or contain unknown tokens (names every one),
            or the model's hidden states are not finite.
    """
    check_token_ids(model, prompts, "prompt")
    if not prompts:
        return []
    # No completion is longer than the model's maximum length, and no cache needs to be.
    longest = model.max_positions + 1 - min(map(len, prompts))
    sampling = replace(sampling, max_new_tokens=min(sampling.max_new_tokens, longest))
    spec = _GenerationSpec(model, sampling, tuple(sorted(eos_ids)), vocab_size)
    decode_params = model.decode_params(params)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
        jax.random.key(seed % 2**32), first_index + np.arange(len(prompts))
    )
    completions: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        tokens, lengths = _pad_prompts([prompts[index] for index in indices], batch_size)
        batch_keys = keys[np.resize(indices, len(tokens))]
        token, is_finite, cache = _prefill(spec, params, tokens, lengths, batch_keys)
        state = model.decode_state(cache, tokens.shape[1] + sampling.max_new_tokens)
        del cache  # it is freed before the loop
        generated, _ = _decode_loop(spec, params, decode_params, lengths, batch_keys, token, state)
        is_finite = np.asarray(is_finite)[: len(indices)]
        if not is_finite.all():  # every completion would end at once
            raise UserError(
                f"prompt {indices[int(is_finite.argmin())]}: the model's hidden states have NaN "
                f"or infinity (in {params['embedding'].dtype}). Its weights are damaged, or its "
                "training diverged; if they have 16 bits, try dtype `bfloat16` or `float32`."
            )
        generated = np.asarray(generated)[: len(indices)]
        for index, new_tokens in zip(indices, generated, strict=True):
            completions[index] = new_tokens[new_tokens != _NO_TOKEN].tolist()
        if on_batch is not None:
            on_batch(start + len(indices), len(prompts), int((generated != _NO_TOKEN).sum()))
    return completions


@dataclass(frozen=True)
class _GenerationSpec:
    """The static arguments of the compiled programs, shared by all batches.

    Attributes are those of `generate`.
    """

    model: LanguageModel
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
        """Sample the new token of every sequence at a step, counted from 0."""
        logits = objectives.compute_logits(
            hidden, self.model.lm_head(params, vocab_size=self.vocab_size)
        )
        token_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step)
        return sample_next_token(logits, token_keys, self.sampling)

    def is_finished(
        self, token: Int[Array, " B"], prompt_lengths: Int[Array, " B"], step: Array | int
    ) -> Bool[Array, " B"]:
        """Return True for sequences that end with this token or have no position left for it."""
        is_eos = (token[:, None] == jnp.array(self.eos_ids, jnp.int32)[None]).any(axis=1)
        return is_eos | (prompt_lengths + step >= self.model.max_positions)


@functools.partial(jax.jit, static_argnums=0)
def _prefill(
    spec: _GenerationSpec,
    params: Params,
    prompts: Int[Array, "B T"],
    prompt_lengths: Int[Array, " B"],
    keys: Key[Array, " B"],
) -> tuple[Int[Array, " B"], Bool[Array, " B"], Any]:
    """Read the prompts in one pass.

    Returns:
        The first new token of each prompt, False where it was sampled from hidden states that
        are not finite, and the cache.
    """
    hidden, cache = spec.model.prefill(params, prompts, prompt_lengths)
    last = jnp.maximum(prompt_lengths - 1, 0)[:, None, None]
    hidden = jnp.take_along_axis(hidden, last, axis=1)[:, 0]
    is_finite = jnp.isfinite(hidden).all(axis=1)
    return spec.next_tokens(params, hidden, keys, 0), is_finite, cache


class _LoopState(NamedTuple):
    """The loop state of decoding: `generated` has the new tokens of the steps before `step`."""

    step: Array | int
    token: Int[Array, " B"]
    is_done: Bool[Array, " B"]
    generated: Int[Array, "B new"]
    state: Any


@functools.partial(jax.jit, static_argnums=0, donate_argnums=6)
def _decode_loop(
    spec: _GenerationSpec,
    params: Params,
    decode_params: Any,
    prompt_lengths: Int[Array, " B"],
    keys: Key[Array, " B"],
    first_token: Int[Array, " B"],
    state: Any,
) -> tuple[Int[Array, "B new"], Any]:
    """Generate all new tokens: `_NO_TOKEN` after the end, and in sequences of length 0.

    The state is returned so that it is updated in place: a donated array must become a result.
    """
    num_new = spec.sampling.max_new_tokens
    is_padding = prompt_lengths == 0
    generated = jnp.full((len(prompt_lengths), num_new), _NO_TOKEN, jnp.int32)
    generated = generated.at[:, 0].set(jnp.where(is_padding, _NO_TOKEN, first_token))

    def decode(loop: _LoopState) -> _LoopState:
        step, token, is_done, generated, model_state = loop
        positions = prompt_lengths + step - 1
        hidden, model_state = spec.model.decode_step(
            params, decode_params, model_state, token, positions
        )
        token = spec.next_tokens(params, hidden, keys, step)
        generated = generated.at[:, step].set(jnp.where(is_done, _NO_TOKEN, token))
        is_done |= spec.is_finished(token, prompt_lengths, step)
        return _LoopState(step + 1, token, is_done, generated, model_state)

    def is_unfinished(loop: _LoopState) -> Array:
        return (loop.step < num_new) & ~loop.is_done.all()

    is_done = is_padding | spec.is_finished(first_token, prompt_lengths, 0)
    start = _LoopState(1, first_token, is_done, generated, state)
    end = jax.lax.while_loop(is_unfinished, decode, start)
    return end.generated, end.state


def _pad_prompts(
    prompts: Sequence[Sequence[int]], batch_size: int
) -> tuple[Int[np.ndarray, "B T"], Int[np.ndarray, " B"]]:
    """Pad prompts to one of few shapes; return their lengths, too: 0 for added sequences."""
    batch = min(batch_size, 1 << (len(prompts) - 1).bit_length())
    tokens = np.zeros((batch, bucket_length(max(map(len, prompts)))), np.int32)
    lengths = np.zeros(batch, np.int32)
    for index, prompt in enumerate(prompts):
        tokens[index, : len(prompt)] = prompt
        lengths[index] = len(prompt)
    return tokens, lengths


def check_token_ids(
    model: LanguageModel, sequences: Sequence[Sequence[int] | np.ndarray], item_name: str
) -> None:
    """Check that the model can read sequences of token ids.

    Raises:
        UserError: Some are empty, too long or contain unknown tokens; names every one as
            `item_name` and its index.
    """
    problems = []
    for index, tokens in enumerate(sequences):
        if not len(tokens):
            problems.append(
                f"{item_name} {index}: it has no token. Begin it with the tokenizer's BOS "
                "token, or with a text."
            )
        elif len(tokens) > model.max_positions:
            problems.append(
                f"{item_name} {index}: it has {len(tokens):,} tokens, and the model reads "
                f"{model.max_positions:,} at most. Shorten it."
            )
        elif min(tokens) < 0 or max(tokens) >= model.vocab_size:
            unknown = min(tokens) if min(tokens) < 0 else max(tokens)
            problems.append(
                f"{item_name} {index}: it has token {unknown}, and the model knows 0 to "
                f"{model.vocab_size - 1}. Encode it with the model's own tokenizer."
            )
    if problems:
        raise UserError(*problems)
