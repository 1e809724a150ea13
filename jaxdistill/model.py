"""The Python API: a language model with its tokenizer, for notebooks and scripts.

Example:
    >>> import jaxdistill
    >>> model = jaxdistill.load("runs/quickstart/student")  # doctest: +SKIP
    >>> model.generate("What is a lighthouse for?", max_new_tokens=40)  # doctest: +SKIP
    'A lighthouse shows ships where the coast is.'
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from transformers import PreTrainedTokenizerBase

from jaxdistill import evals, hub, objectives
from jaxdistill.data import ProgressCallback, Renderer, tokenize_prompt
from jaxdistill.errors import UserError
from jaxdistill.models import LanguageModel
from jaxdistill.sampling import Sampling, check_token_ids, generate
from jaxdistill.types import Batch, Params

_PROBE = "The lighthouse was built in 1883, and its lamp is lit every evening."
"""Text that a model is tried on before it is exported in float16."""

Prompts = TypeVar("Prompts", str, list[str])


class Model:
    """A language model with its tokenizer.

    Attributes:
        pretrained: Everything that was loaded: family, architecture, parameters, tokenizer and
            configs of Hugging Face.
    """

    def __init__(self, pretrained: hub.Pretrained):
        self.pretrained = pretrained

    @property
    def language_model(self) -> LanguageModel:
        """The architecture, with the passes of the model."""
        return self.pretrained.language_model

    @property
    def params(self) -> Params:
        """The parameters, nested dicts of arrays."""
        return self.pretrained.params

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer."""
        assert self.pretrained.tokenizer is not None
        return self.pretrained.tokenizer

    @cached_property
    def eos_ids(self) -> tuple[int, ...]:
        """The ids of the tokens that end a completion, of a turn in the chat template, too."""
        return Renderer(self.tokenizer).end_ids(self.pretrained.eos_ids)

    @property
    def vocab_size(self) -> int:
        """The number of tokens of the tokenizer; the LM head may have more rows, for padding."""
        return self.pretrained.vocab_size

    def astype(self, dtype: str) -> "Model":
        """Return the model with its parameters converted to a floating-point type."""
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), self.params)
        return Model(replace(self.pretrained, params=params))

    def logits(
        self, tokens: Int[Array | np.ndarray, "B T"] | Sequence[Sequence[int]]
    ) -> Float[Array, "B T V"]:
        """Compute the next-token logits at every position, in float32.

        The result is large: 8,192 positions of 151,936 tokens take 5 GB. Logits of tokens that
        the tokenizer does not have are -inf.

        Args:
            tokens: Token ids; all sequences have one length.

        Raises:
            UserError: The model cannot read some sequences (names every one), or their lengths
                differ.
        """
        sequences = [np.asarray(sequence) for sequence in tokens]
        shapes = sorted({sequence.shape for sequence in sequences})
        if len(shapes) != 1 or len(shapes[0]) != 1:
            raise UserError(
                f"tokens: the sequences have the shapes {shapes}, expected one length for all, as "
                "in [[1, 2, 3], [4, 5, 6]]. Call `logits` once for each length."
            )
        check_token_ids(self.language_model, sequences, "sequence")
        tokens = jnp.asarray(np.stack(sequences))
        batch, time = tokens.shape
        output = self.language_model.forward(
            self.params,
            tokens,
            positions=jnp.broadcast_to(jnp.arange(time), (batch, time)),
            segment_ids=jnp.ones((batch, time), jnp.int32),
        )
        hidden = output.hidden.reshape(batch * time, -1)
        head = self.language_model.lm_head(self.params, vocab_size=self.vocab_size)
        return objectives.compute_logits(hidden, head).reshape(batch, time, -1)

    def generate(
        self,
        prompts: Prompts,
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int = 0,
        chat: bool | None = None,
    ) -> Prompts:
        """Generate a completion of a prompt, or of several in batches.

        Args:
            prompts: A text, or a list of texts.
            max_new_tokens: Maximum number of generated tokens; an end-of-text token stops earlier.
            temperature: 0 is greedy decoding; 1 samples from the model's own distribution.
            top_k: Sample only from this many most probable tokens; 0 for all.
            top_p: Sample only from the fewest most probable tokens whose probabilities sum to
                at least this.
            seed: Determines the samples, together with the index of a prompt in the list.
            chat: True if a prompt is a user's message in the tokenizer's chat template. None
                means True if the tokenizer has a chat template.

        Returns:
            The completions without special tokens: a text for a text, a list for a list.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        as_chat = bool(self.tokenizer.chat_template) if chat is None else chat
        sampling = Sampling(
            max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p
        )
        tokens = [tokenize_prompt(text, self.tokenizer, as_chat=as_chat) for text in texts]
        completions = self.decode(self.generate_tokens(tokens, sampling, seed=seed))
        return cast(Prompts, completions[0] if isinstance(prompts, str) else completions)

    def generate_tokens(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        seed: int = 0,
        first_index: int = 0,
        batch_size: int = 32,
        on_batch: ProgressCallback | None = None,
    ) -> list[list[int]]:
        """Generate completions of token ids, with the end-of-text token (`sampling.generate`)."""
        return generate(
            self.language_model,
            self.params,
            prompts,
            sampling,
            eos_ids=self.eos_ids,
            vocab_size=self.vocab_size,
            seed=seed,
            first_index=first_index,
            batch_size=batch_size,
            on_batch=on_batch,
        )

    def decode(self, completions: Sequence[Sequence[int]]) -> list[str]:
        """Decode token ids to texts, without special tokens."""
        return [
            str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))
            for tokens in completions
        ]

    def save(
        self,
        path: str | Path,
        *,
        format: hub.ExportFormat = "safetensors",
        dtype: str | None = None,
    ) -> Path:
        """Write a Hugging Face folder, or a file for llama.cpp with `format="gguf"`.

        Args:
            path: The folder; for format gguf a `.gguf` file, or the folder to write it into.
            format: `safetensors`, `torch` for pytorch_model.bin, or `gguf`.
            dtype: Stored type. None keeps the type in memory, or writes f16 to a GGUF file, which
                may also be q8_0 or q4_1.

        Raises:
            UserError: The path cannot be written, the format cannot store the model, or `dtype` is
                float16 and its activations exceed that.
        """
        if format != "gguf" and dtype == "float16":
            self._check_float16()
        return hub.save(self.pretrained, path, format=format, dtype=dtype)

    def _check_float16(self) -> None:
        tokens = np.array([self.tokenizer.encode(_PROBE)[: self.language_model.max_positions]])
        ones, positions = np.ones_like(tokens), np.arange(tokens.shape[1])[None]
        loss_mask = ones.astype(np.float32)
        batch = Batch(tokens, tokens, loss_mask, positions, segment_ids=ones, example_ids=ones)
        if evals.overflows(self.language_model, self.astype("float16").params, batch).any():
            raise UserError(
                "dtype: the model overflows float16: its weights are finite, and its hidden states "
                "on a short text are not. Use bfloat16 or float32."
            )


def load(path: str | Path, *, dtype: str | None = "float32") -> Model:
    """Load a Hugging Face folder, a `.gguf` file or a hub name.

    Args:
        path: Path or name of the model.
        dtype: Type of the parameters in memory; None keeps the stored type.

    Raises:
        UserError: Something is missing or wrong in the files; names everything.
    """
    return Model(hub.load(path, dtype=dtype))
