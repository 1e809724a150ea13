"""Model type of lm-evaluation-harness: log-likelihoods and generations for its requests."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from transformers import PreTrainedTokenizerBase

from jaxdistill import evals
from jaxdistill.data.template_limits import limit_rendering
from jaxdistill.errors import UserError
from jaxdistill.model import Model
from jaxdistill.run import make_token_evaluator, open_model
from jaxdistill.sampling import Sampling
from jaxdistill.track import Progress

_EncodedRequest = tuple[Any, Sequence[int], Sequence[int]]

# Accepted in a task, since these values change nothing.
_NO_OP_KWARGS = {"num_beams": 1, "repetition_penalty": 1.0, "use_cache": True}

_logger = logging.getLogger(__name__)


class GenerationSettings(NamedTuple):
    """Sampling of a task, and strings before the first of which a completion ends."""

    sampling: Sampling
    stop_strings: tuple[str, ...]


class HarnessModel(TemplateLM):
    """Adapter that lets the harness evaluate any model that `jaxdistill` opens.

    Texts are tokenised as by the harness's own `hf` model: context and continuation together,
    with BOS (or EOS, where there is no BOS) before a text without context.

    Args:
        path: A folder, a `.gguf` file, a run folder, a hub name, or an open model.
        dtype: Dtype of parameters and computation.
        batch_size: Requests scored, or completions generated, at a time.
        seed: Seed of tasks that sample.
        device: Ignored; JAX chooses its device (`JAX_PLATFORMS`).
        max_batch_size: Ignored; it belongs to `batch_size="auto"`, which is not supported.

    Raises:
        UserError: There is no such model, or its tokenizer has neither BOS nor EOS.
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
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise UserError(f"batch_size: {batch_size!r} is not a whole number above 0.")
        self._model = path if isinstance(path, Model) else open_model(str(path), dtype=dtype)
        self._batch_size, self._seed = int(batch_size), int(seed)
        self.tokenizer: Any = self._model.tokenizer
        self._evaluation = make_token_evaluator(self._model)
        if self.prefix_token_id is None:
            raise UserError(
                f"{path}: its tokenizer has neither a BOS nor an EOS token, and the harness puts "
                "one before a text without context. Name one in tokenizer_config.json."
            )

    @property
    def eot_token_id(self) -> Any:
        """Return the id of EOS, or None."""
        eos_id = self.tokenizer.eos_token_id
        return eos_id if eos_id is not None else next(iter(self._model.pretrained.eos_ids), None)

    @property
    def prefix_token_id(self) -> Any:
        """Return the id of the token before a text without context, or None."""
        bos_id = self.tokenizer.bos_token_id
        return bos_id if bos_id is not None else self.eot_token_id

    @property
    def tokenizer_name(self) -> str:
        """Return the name under which the harness caches tokenised requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Tokenise a text; special tokens are added unless it starts with the prefix token."""
        if add_special_tokens is None:
            prefix = self.tokenizer.decode([self.prefix_token_id])
            add_special_tokens = not string.startswith(prefix)
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens, verbose=False)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Format messages by the tokenizer's chat template.

        Raises:
            UserError: There is no template, or it rejects the messages.
        """
        if not self.tokenizer.chat_template:
            raise UserError("the tokenizer has no chat template: use `--prompt-template plain`.")
        try:
            with limit_rendering():
                return self.tokenizer.apply_chat_template(
                    chat_history,
                    tokenize=False,
                    add_generation_prompt=add_generation_prompt,
                    continue_final_message=not add_generation_prompt,
                )
        except Exception as error:  # noqa: BLE001 (a template is a program: it may raise anything)
            raise UserError(f"the chat template rejects the task's messages: {error}") from None

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Return each continuation's log-likelihood in nats, and if greedy decoding yields it."""
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[float]:
        """Return the log-likelihood of whole texts in nats; windows score each token once."""
        texts = [request.args[0] for request in requests]
        windows = [self._rolling_windows(text) for text in texts]
        flat = [(text, *pair) for text, pairs in zip(texts, windows, strict=True) for pair in pairs]
        scores = iter(self._loglikelihood_tokens(flat))
        return [sum((next(scores)[0] for _ in pairs), 0.0) for pairs in windows]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Generate after each context, up to a stop string."""
        arguments: list[tuple[Any, ...]] = [request.args for request in requests]
        contexts = [context for context, _ in arguments]
        settings = [parse_generation_kwargs(options) for _, options in arguments]
        texts = [""] * len(requests)
        for shared in dict.fromkeys(settings):
            indices = [index for index, other in enumerate(settings) if other == shared]
            generated = self._generate([contexts[index] for index in indices], shared)
            for index, text in zip(indices, generated, strict=True):
                texts[index] = text
        return texts

    def _loglikelihood_tokens(
        self, requests: Sequence[_EncodedRequest], disable_tqdm: bool = True, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        max_positions = self._model.language_model.max_positions
        for request, _, continuation in requests:
            if len(continuation) > max_positions:
                raise UserError(
                    f"a continuation of {len(continuation):,} tokens exceeds the model's "
                    f"{max_positions:,} positions: {str(request)[:60]!r}... Choose another task."
                )
        self._warn_truncated(
            len(context) + len(continuation) - 1 > max_positions
            for _, context, continuation in requests
        )
        with Progress("requests", len(requests)) as progress:
            scores = evals.log_likelihoods(
                self._evaluation,
                self._model.params,
                [(context, continuation) for _, context, continuation in requests],
                max_positions=max_positions,
                batch_size=self._batch_size,
                on_progress=progress.advance_to,
            )
        return [*scores]

    def _rolling_windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        windows = get_rolling_token_windows(
            token_list=self.tok_encode(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self._model.language_model.max_positions,
            context_len=1,
        )
        return [make_disjoint_window(window) for window in windows]

    def _generate(self, contexts: Sequence[str], settings: GenerationSettings) -> list[str]:
        max_prompt = self._model.language_model.max_positions - settings.sampling.max_new_tokens
        if max_prompt < 1:
            raise UserError(
                f"a task asks for {settings.sampling.max_new_tokens:,} new tokens of a model that "
                f"has {self._model.language_model.max_positions:,} positions. Set the task's "
                "`generation_kwargs.max_gen_toks` lower."
            )
        prompts = [self.tok_encode(context) for context in contexts]
        self._warn_truncated(len(prompt) > max_prompt for prompt in prompts)
        with Progress("completions", len(prompts)) as progress:
            completions = self._model.generate_tokens(
                [prompt[-max_prompt:] for prompt in prompts],
                settings.sampling,
                seed=self._seed,
                batch_size=self._batch_size,
                on_batch=progress.advance_to,
            )
        return [decode_until_stop(c, settings.stop_strings, self.tokenizer) for c in completions]

    def _warn_truncated(self, is_too_long: Iterable[bool]) -> None:
        if count := sum(is_too_long):
            _logger.warning(
                "%d requests exceed the model's %d positions: their beginnings were cut off.",
                count,
                self._model.language_model.max_positions,
            )


register_model("jaxdistill")(HarnessModel)


def parse_generation_kwargs(generation_kwargs: Mapping[str, Any]) -> GenerationSettings:
    """Convert a task's `generation_kwargs`.

    Raises:
        UserError: Names every option that is not supported.
    """
    try:
        options: dict[str, Any] = dict(normalize_gen_kwargs(dict(generation_kwargs)))
        stop_strings = tuple(text for text in options.pop("until") if text)
        temperature = float(options.pop("temperature", 1.0))
        sampling = Sampling(
            max_new_tokens=options.pop("max_gen_toks"),
            temperature=temperature if options.pop("do_sample") else 0.0,
            top_k=options.pop("top_k", None) or 0,
            top_p=float(options.pop("top_p", None) or 1.0),
        )
    except (ValueError, TypeError) as error:  # pydantic's errors are ValueErrors
        reason = "; ".join(" ".join(line.split()) for line in str(error).splitlines()[1:3])
        raise UserError(f"generation_kwargs: {reason or error}. Change it in the task.") from None
    if unknown := [name for name, value in options.items() if _NO_OP_KWARGS.get(name) != value]:
        raise UserError(
            f"generation_kwargs: {', '.join(unknown)} not supported; expected until, "
            "max_gen_toks, do_sample, temperature, top_k or top_p. Remove it from the task."
        )
    return GenerationSettings(sampling, stop_strings)


def decode_until_stop(
    completion: Sequence[int], stop_strings: Sequence[str], tokenizer: PreTrainedTokenizerBase
) -> str:
    """Return the text of a completion up to its first stop string, without special tokens."""
    special = tokenizer.added_tokens_decoder
    # Decoded text omits special tokens, which may be stop strings.
    is_stop = (str(special.get(token, "")) in stop_strings for token in completion)
    end = next((index for index, stop in enumerate(is_stop) if stop), len(completion))
    text = str(tokenizer.decode(list(completion[:end]), skip_special_tokens=True))
    for stop in stop_strings:
        text = text.partition(stop)[0]
    return text
