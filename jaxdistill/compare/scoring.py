"""Scores of each model on the same rows, and the rows on which all models can be compared."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxdistill import align, data, evals, run
from jaxdistill.compare.metrics import ALL_MODELS, ComparisonMetrics
from jaxdistill.compare.options import CompareOptions
from jaxdistill.errors import ErrorCollector, UserError
from jaxdistill.model import Model
from jaxdistill.sampling import Sampling

_TOKEN_FIELDS = ("prompt_tokens", "completion_tokens")
_NUM_PROMPT_WORDS = 8
"""Number of words that a row without a prompt gives as one."""


class TextRows(NamedTuple):
    """Rows with text to compare, and the number of rows with blank completions."""

    rows: list[data.Row]
    num_blank: int


@dataclass(frozen=True)
class RowScores:
    """Scores of one model on one row.

    Attributes:
        words: Scored words.
        word_nats: Nats of each word.
        token_sums: Sums over tokens: `scored_tokens` and, for a candidate with the tokenizer of
            the first model, `forward_kl`, `top1_agreement` and `top5_agreement` beside it.
    """

    words: data.WordOffsets
    word_nats: Float[np.ndarray, " W"]
    token_sums: Mapping[str, float]


ModelScores = Mapping[int, RowScores]
"""Scores of one model by `row_id`, for the rows that it reads whole."""


def read_text_rows(sources: Sequence[str], *, as_chat: bool) -> TextRows:
    """Read rows as text for every tokenizer; exact tokens of a rollout are ignored.

    Raises:
        UserError: naming all rows that have no completion.
    """
    errors = ErrorCollector()
    rows: list[data.Row] = []
    num_blank = 0
    for source in sources:
        for row_source, fields in data.read_rows(source, errors):
            with errors.collect():
                text = {name: value for name, value in fields.items() if name not in _TOKEN_FIELDS}
                row = data.parse_row(text, source=row_source, row_id=len(rows), as_chat=as_chat)
                completion = data.completion_messages(row.content)
                if not completion:
                    raise UserError(
                        f"{row_source}: has no completion to compare models on. Give it a "
                        "`completion`."
                    )
                if any(str(message["content"]).strip() for message in completion):
                    rows.append(row)
                else:
                    num_blank += 1
    errors.raise_if_any()
    if not rows:
        raise UserError(f"{', '.join(sources)}: no row has words to compare models on.")
    return TextRows(rows, num_blank)


def select_prompts(rows: Iterable[data.Row], num_prompts: int) -> list[data.Row]:
    """Return rows of the first different prompts, with `row_id` as their index in the list.

    A plain row without a prompt gives its first words.
    """
    prompt_rows: dict[str, data.Row] = {}
    for row in rows:
        if not row.has_prompt:
            if not isinstance(row.content, data.Text):
                continue
            words = (row.content.completion or "").split()[:_NUM_PROMPT_WORDS]
            fields = {"prompt": " ".join(words)}
            row = data.parse_row(fields, source=row.source, row_id=row.row_id, as_chat=False)
        prompt_rows.setdefault(
            row.prompt_key, replace(row, row_id=len(prompt_rows), teacher_prompt=None)
        )
    return list(prompt_rows.values())[:num_prompts]


def score_rows(
    path: str, model: Model, baseline: Model, rows: Sequence[data.Row], options: CompareOptions
) -> ModelScores:
    """Score the rows that a model reads whole, with agreement if it shares the first's tokenizer.

    `path` is for messages; `baseline` is the first model, and may be `model` itself.
    """
    config = options.data
    run.check_length(config.length, model.language_model, path, "--length")
    has_agreement = model is not baseline and not align.tokenizer_difference(
        model.tokenizer, baseline.tokenizer
    )
    split = data.DataSplit(list(rows), [])
    readers = (model, baseline) if has_agreement else (model,)
    num_rows = min(reader.language_model.vocab_size for reader in readers)
    examples = data.prepare(
        config,
        model.tokenizer,
        split=split,
        vocab_rows=data.VocabRows(num_rows, num_rows),
        is_scoring_only=True,
    ).train
    token_metrics = run.token_metrics(
        model,
        baseline if has_agreement else None,
        examples,
        length=config.length,
        batch_size=options.batch_size,
    )
    row_ids = {example.row_id for example in examples}
    words = data.word_offsets(
        [row for row in rows if row.row_id in row_ids], model.tokenizer, loss_on=config.loss_on
    )
    return _score_by_row(token_metrics, words)


def _score_by_row(
    token_metrics: evals.TokenMetrics, words: Mapping[int, data.WordOffsets]
) -> dict[int, RowScores]:
    columns = evals.sum_by_example(token_metrics)
    row_ids = columns.pop("example_ids").tolist()
    order = np.argsort(token_metrics.example_ids, kind="stable")
    indices_by_row = np.split(order, np.cumsum(columns["scored_tokens"])[:-1])
    scores = {}
    for number, (row_id, indices) in enumerate(zip(row_ids, indices_by_row, strict=True)):
        offsets, nll = words[row_id], token_metrics.values["nll"][indices].tolist()
        positions = token_metrics.positions[indices].tolist()
        # The first token of a row costs nothing, because nothing predicts it.
        nats_by_position = {-1: 0.0, **dict(zip(positions, nll, strict=True))}
        nats = np.array([nats_by_position[position] for position in offsets.positions.tolist()])
        word_nats = evals.sum_nats_by_word(nats, offsets.token_ends, offsets.word_ends)
        token_sums = {name: float(column[number]) for name, column in columns.items()}
        scores[row_id] = RowScores(offsets, word_nats, token_sums)
    return scores


def select_comparable_rows(
    metrics: ComparisonMetrics, scores: Mapping[str, ModelScores], rows: TextRows
) -> dict[str, ModelScores]:
    """Return the scores of the rows that every model reads whole and as the same words.

    The number of other rows is recorded by reason: too long for a model, of other words to some
    model, or blank.

    Raises:
        UserError: if there are no such rows.
    """
    first, *others = scores.values()
    whole = [row_id for row_id in first if all(row_id in other for other in others)]
    if not whole:
        raise UserError(
            "compare: no row is short enough for every model's tokenizer. Raise `--length`, or "
            "give shorter rows."
        )
    texts = {row_id: first[row_id].words.texts for row_id in whole}
    row_ids = [
        row_id
        for row_id, words in texts.items()
        if words and all(other[row_id].words.texts == words for other in others)
    ]
    if not row_ids:
        raise UserError(
            "compare: the models' chat templates write every row in different words, so that "
            "there is no text to compare them on. Use `--prompt-template plain`."
        )
    num_read = len(rows.rows) + rows.num_blank
    metrics.add(ALL_MODELS, "rows_read", num_read)
    metrics.add(ALL_MODELS, "rows_left_out", num_read - len(row_ids))
    excluded = {(name, "rows_too_long"): len(rows.rows) - len(s) for name, s in scores.items()}
    excluded[ALL_MODELS, "rows_in_other_words"] = len(whole) - len(row_ids)
    excluded[ALL_MODELS, "blank_rows"] = rows.num_blank
    for (name, quantity), num_rows in excluded.items():
        if num_rows:
            metrics.add(name, quantity, num_rows)
    return {
        name: {row_id: model_scores[row_id] for row_id in row_ids}
        for name, model_scores in scores.items()
    }


def generate_completions(
    model: Model, prompt_rows: Sequence[data.Row], options: CompareOptions
) -> list[str]:
    """Generate the completion of each prompt, greedily."""
    tokens = data.prompt_tokens(prompt_rows, model.tokenizer)
    sampling = Sampling(max_new_tokens=options.max_new_tokens)
    prompts = [tokens[row.row_id] for row in prompt_rows]
    return model.decode(model.generate_tokens(prompts, sampling, batch_size=options.batch_size))
