"""A model as lm-evaluation-harness wants one: strings in, log-likelihoods and texts out."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from jaxdistill import evals
from jaxdistill.errors import UserError
from jaxdistill.harness.generation_settings import (
    GenerationSettings,
    decode_until_stop,
    parse_generation_kwargs,
)
from jaxdistill.model import Model
from jaxdistill.run import make_evaluation, open_model
from jaxdistill.track import Progress

_EncodedRequest = tuple[Any, Sequence[int], Sequence[int]]

_logger = logging.getLogger(__name__)


class HarnessModel(TemplateLM):
    """Any model that `jaxdistill` opens, for the harness.

    Texts are tokenised as the harness's own `hf` model does it: a context and what follows it
    together, BOS (or EOS, where there is none) before what has no context.

    Args:
        path: A folder, a `.gguf` file, a run folder or a hub name; or a model that is open.
        dtype: What the model is computed in.
        batch_size: How many requests are read, or answers written, together.
        seed: Decides what is sampled, where a task samples.
        device: What the harness was told; JAX has its own say (`JAX_PLATFORMS`).
        max_batch_size: Belongs to `batch_size="auto"`, which is not for us.

    Raises:
        UserError: when there is no such model, or it has no token to begin with.
    """

    def __init__(
        self,
        path: str | Path | Model,
        *,
        dtype: str = "float32",
        batch_size: int | str = 8,
        seed: int = 0,
        device: str | None = None,
        max_batch_size: int | None = None,
    ):
        super().__init__()
        del device, max_batch_size
        self._model = path if isinstance(path, Model) else open_model(str(path), dtype=dtype)
        self._batch_size, self._seed = _parse_batch_size(batch_size), int(seed)
        self.tokenizer: Any = self._model.tokenizer
        self._evaluation = make_evaluation(self._model)
        if self.prefix_token_id is None:
            raise UserError(
                f"{path}: its tokenizer has neither a BOS nor an EOS token, and the harness puts "
                "one before what has no context. Name one in tokenizer_config.json."
            )

    @property
    def eot_token_id(self) -> Any:
        """The token that ends a text."""
        ids = self._model.pretrained.eos_ids
        own = self.tokenizer.eos_token_id
        return own if own is not None else next(iter(ids), None)

    @property
    def prefix_token_id(self) -> Any:
        """The token that stands before what has no context."""
        begin = self.tokenizer.bos_token_id
        return begin if begin is not None else self.eot_token_id

    @property
    def tokenizer_name(self) -> str:
        """What the harness names its caches of requests by."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """The tokens of a text, with what the tokenizer begins it with unless it stands there."""
        if add_special_tokens is None:
            begin = self.tokenizer.decode([self.prefix_token_id])
            add_special_tokens = not string.startswith(begin)
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens, verbose=False)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Messages as the model's chat template writes them.

        Raises:
            UserError: when there is no template, or it refuses the messages.
        """
        if not self.tokenizer.chat_template:
            raise UserError("the tokenizer has no chat template: use `--prompt-template plain`.")
        from jinja2 import TemplateError

        try:
            return self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        except TemplateError as error:
            raise UserError(f"the chat template refuses the task's messages: {error}") from None

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation, and whether greedy decoding writes it."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[float]:
        """The log-likelihood of whole texts, each token with as much before it as fits."""
        texts = [_request_args(request)[0] for request in requests]
        windows = [self._rolling_windows(text) for text in texts]
        flat = [(text, *pair) for text, pairs in zip(texts, windows, strict=True) for pair in pairs]
        scores = iter(self._loglikelihood_tokens(flat))
        return [sum((next(scores)[0] for _ in pairs), 0.0) for pairs in windows]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """What the model writes after each context, up to a stop string."""
        arguments = [_request_args(request) for request in requests]
        wishes = [parse_generation_kwargs(options, self.tokenizer) for _, options in arguments]
        answers = [""] * len(requests)
        for wanted in dict.fromkeys(wishes):
            numbers = [n for n, other in enumerate(wishes) if other == wanted]
            contexts = [arguments[n][0] for n in numbers]
            for number, answer in zip(numbers, self._generate(contexts, wanted), strict=True):
                answers[number] = answer
        return answers

    def _loglikelihood_tokens(
        self, requests: Sequence[_EncodedRequest], disable_tqdm: bool = True, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        most = self._model.config.max_positions
        for request, _, continuation in requests:
            if len(continuation) > most:
                raise UserError(
                    f"a continuation of {len(continuation):,} tokens is more than the {most:,} "
                    f"that the model reads: {str(request)[:60]!r}... Such a task is not for it."
                )
        self._warn_truncated(len(a) + len(b) - 1 > most for _, a, b in requests)
        with Progress("requests", len(requests)) as progress:
            found = evals.log_likelihoods(
                self._evaluation,
                self._model.params,
                [(context, continuation) for _, context, continuation in requests],
                max_positions=most,
                batch_size=self._batch_size,
                on_progress=progress.advance_to,
            )
        return [(one.log_prob, one.is_greedy) for one in found]

    def _rolling_windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        windows = get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self._model.config.max_positions,
            context_len=1,
        )
        return [make_disjoint_window(window) for window in windows]

    def _generate(self, contexts: Sequence[str], settings: GenerationSettings) -> list[str]:
        room = self._model.config.max_positions - settings.sampling.max_new_tokens
        if room < 1:
            raise UserError(
                f"a task asks for {settings.sampling.max_new_tokens:,} new tokens of a model that "
                f"has {self._model.config.max_positions:,} positions. Set the task's "
                "`generation_kwargs.max_gen_toks` lower."
            )
        prompts = [self.tok_encode(context) for context in contexts]
        self._warn_truncated(len(prompt) > room for prompt in prompts)
        with Progress("answers", len(prompts)) as progress:
            answers = self._model.generate_tokens(
                [prompt[-room:] for prompt in prompts],
                settings.sampling,
                seed=self._seed,
                batch_size=self._batch_size,
                on_batch=progress.advance_to,
            )
        return [decode_until_stop(answer, settings, self.tokenizer) for answer in answers]

    def _warn_truncated(self, is_too_long: Iterable[bool]) -> None:
        if count := sum(is_too_long):
            _logger.warning(
                "%d requests are longer than the %d tokens that the model reads: their beginnings "
                "were left out.",
                count,
                self._model.config.max_positions,
            )


register_model("jaxdistill")(HarnessModel)


def _request_args(request: Instance) -> tuple[Any, ...]:
    return request.args


def _parse_batch_size(batch_size: int | str) -> int:
    if not str(batch_size).isdecimal() or int(batch_size) < 1:
        raise UserError(f"batch_size: {batch_size!r} is not a whole number above 0.")
    return int(batch_size)
