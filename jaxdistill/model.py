"""The Python face: a language model with its tokenizer, for notebooks and scripts.

Example:
    >>> import jaxdistill
    >>> model = jaxdistill.load("runs/quickstart/student")  # doctest: +SKIP
    >>> model.generate("What is a lighthouse for?", max_new_tokens=40)  # doctest: +SKIP
    'A lighthouse shows ships where the coast is.'
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from transformers import PreTrainedTokenizerBase

from jaxdistill import hub, objectives
from jaxdistill.data import tokenize_prompt
from jaxdistill.errors import UserError
from jaxdistill.models import DecoderConfig, forward, lm_head
from jaxdistill.sampling import OnBatch, Sampling, check_token_ids, generate
from jaxdistill.types import Params

Prompts = TypeVar("Prompts", str, list[str])


class Model:
    """A model as it was loaded.

    Attributes:
        pretrained: Everything that came from the files.
    """

    def __init__(self, pretrained: hub.Pretrained):
        self.pretrained = pretrained

    @property
    def config(self) -> DecoderConfig:
        """The shape of the decoder."""
        return self.pretrained.config

    @property
    def params(self) -> Params:
        """Its parameters: nested dicts of arrays."""
        return self.pretrained.params

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer."""
        assert self.pretrained.tokenizer is not None
        return self.pretrained.tokenizer

    @property
    def vocab_size(self) -> int:
        """How many tokens the tokenizer has; the head may be padded beyond that."""
        return self.pretrained.vocab_size

    def astype(self, dtype: str) -> "Model":
        """The same model with its parameters in another floating-point type."""
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), self.params)
        return Model(replace(self.pretrained, params=params))

    def logits(
        self, tokens: Int[Array | np.ndarray, "B T"] | Sequence[Sequence[int]]
    ) -> Float[Array, "B T V"]:
        """The next-token logits at every place, in float32; -inf for words that do not exist.

        Args:
            tokens: Token ids, all rows of one length. This is the one function of the package
                that makes an array of this size: ask it for a few sentences, not for a corpus.

        Raises:
            UserError: naming every row that the model cannot read, or all lengths if they differ.
        """
        rows = [np.asarray(row) for row in tokens]
        shapes = sorted({row.shape for row in rows})
        if len(shapes) != 1 or len(shapes[0]) != 1:
            raise UserError(
                f"tokens: the rows have the shapes {shapes}, expected one length for all, as in "
                "[[1, 2, 3], [4, 5, 6]]. Ask for the logits of one length at a time."
            )
        check_token_ids(self.config, rows, "row")
        tokens = jnp.asarray(np.stack(rows))
        batch, time = tokens.shape
        positions = jnp.broadcast_to(jnp.arange(time), (batch, time))
        segments = jnp.ones((batch, time), jnp.int32)
        output = forward(
            self.config, self.params, tokens, positions=positions, segment_ids=segments
        )
        unembedding = lm_head(self.config, self.params, vocab_size=self.vocab_size)
        hidden = output.hidden.reshape(batch * time, -1)
        return objectives.compute_logits(hidden, unembedding).reshape(batch, time, -1)

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
        """Continue one prompt or several, together.

        Args:
            prompts: A text, or a list of them.
            max_new_tokens: How many tokens to write at most; the end-of-text token stops earlier.
            temperature: 0 always takes the likeliest token.
            top_k: Sample among this many likeliest tokens; 0 for all.
            top_p: Sample among the fewest tokens whose probabilities reach this.
            seed: Decides the samples, for each prompt by its place in the list.
            chat: Whether a prompt is a user's message in the tokenizer's chat template. None
                means: where there is a template.

        Returns:
            What `prompts` is, a text or a list: the continuations, without special tokens.
        """
        asked = [prompts] if isinstance(prompts, str) else list(prompts)
        is_chat = bool(self.tokenizer.chat_template) if chat is None else chat
        sampling = Sampling(
            max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p
        )
        tokens = [tokenize_prompt(prompt, self.tokenizer, as_chat=is_chat) for prompt in asked]
        texts = self.decode(self.generate_tokens(tokens, sampling, seed=seed))
        return cast(Prompts, texts[0] if isinstance(prompts, str) else texts)

    def generate_tokens(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        seed: int = 0,
        first_index: int = 0,
        batch_size: int = 32,
        on_batch: OnBatch | None = None,
    ) -> list[list[int]]:
        """Continue token sequences; the token that ends an answer is part of it."""
        return generate(
            self.config,
            self.params,
            prompts,
            sampling,
            eos_ids=self.pretrained.eos_ids,
            vocab_size=self.vocab_size,
            seed=seed,
            first_index=first_index,
            batch_size=batch_size,
            on_batch=on_batch,
        )

    def decode(self, completions: Sequence[Sequence[int]]) -> list[str]:
        """Answers as text, without special tokens."""
        return [
            str(self.tokenizer.decode(list(answer), skip_special_tokens=True))
            for answer in completions
        ]

    def save(self, directory: str | Path, *, format: hub.ExportFormat = "safetensors") -> Path:
        """Write a folder that `transformers` loads; `format="torch"` writes pytorch_model.bin.

        Parameters are written as they are in memory: in float32 unless `load` was told otherwise.
        """
        return hub.save(self.pretrained, directory, format=format)


def load(path: str | Path, *, dtype: str | None = "float32") -> Model:
    """Load a Hugging Face folder, a `.gguf` file or a hub name.

    Args:
        path: Where it is.
        dtype: Of the parameters in memory; None keeps what is stored.

    Raises:
        UserError: naming everything that is missing or wrong in the files.
    """
    return Model(hub.load(path, dtype=dtype))
