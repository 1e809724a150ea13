"""What each model says of the same rows, and which rows can be compared at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxdistill import align, data, evals, run
from jaxdistill.compare.options import CompareOptions
from jaxdistill.errors import ErrorCollector, UserError
from jaxdistill.model import Model
from jaxdistill.run.check import check_length
from jaxdistill.sampling import Sampling

_TOKEN_FIELDS = ("prompt_tokens", "completion_tokens")
_NUM_PROMPT_WORDS = 8
"""How much of a row is given where it asks nothing."""


@dataclass(frozen=True)
class ModelScores:
    """What one model says.

    Attributes:
        is_alike: Whether its tokenizer is the first model's, so that tokens can be compared.
        sums: Sums over each row by its `row_id`: `scored_tokens` and, where it is alike,
            `forward_kl`, `top1_agreement` and `top5_agreement` with the first.
        words: The words of each row.
        nats: What each of them costs.
    """

    has_same_tokenizer: bool
    sums_by_example: dict[int, dict[str, float]]
    words_by_example: dict[int, data.WordOffsets]
    word_nats_by_example: dict[int, Float[np.ndarray, " _"]]


def read_text_rows(sources: Sequence[str], *, as_chat: bool) -> tuple[list[data.Row], int]:
    """The rows as text, which every tokenizer can read; the exact tokens of a rollout do not count.

    Returns:
        The rows, and how many more have answers of blanks only, which are no words.

    Raises:
        UserError: naming all rows that have no text.
    """
    findings = ErrorCollector()
    rows: list[data.Row] = []
    num_blank = 0
    for source in sources:
        for place, fields in data.read_rows(source, findings):
            with findings.collect():
                text = {name: one for name, one in fields.items() if name not in _TOKEN_FIELDS}
                row = data.parse_row(text, source=place, row_id=len(rows), as_chat=as_chat)
                if not row.has_completion:
                    raise UserError(
                        f"{place}: has no answer to compare models on. Give it a `completion`."
                    )
                if _has_blank_completion(row):
                    num_blank += 1
                else:
                    rows.append(row)
    findings.raise_if_any()
    if not rows:
        raise UserError(f"{', '.join(sources)}: no row has words to compare models on.")
    return rows, num_blank


def _has_blank_completion(row: data.Row) -> bool:
    match row.content:
        case data.Text(completion=completion):
            return not (completion or "").strip()
        case data.Chat(messages=messages, num_prompt=num_prompt):
            return not any(str(one["content"]).strip() for one in messages[num_prompt:])
    return False


def select_prompts(rows: Sequence[data.Row], num_prompts: int) -> list[data.Row]:
    """The first `count` rows that ask different things; one that asks nothing gives its beginning.

    Of rows that every model reads whole, each reads the prompt. Their `row_id` is their place in
    the list.
    """
    found: dict[str, data.Row] = {}
    for row in rows:
        if len(found) == num_prompts:
            break
        number = len(found)
        if row.has_prompt:
            found.setdefault(
                row.prompt_key, data.Row(row.source, number, row.prompt_key, row.content)
            )
        elif isinstance(content := row.content, data.Text):
            words = " ".join((content.completion or "").split()[:_NUM_PROMPT_WORDS])
            if words:
                fields = {"prompt": words}
                asking = data.parse_row(fields, source=row.source, row_id=number, as_chat=False)
                found.setdefault(asking.prompt_key, asking)
    return list(found.values())


def score_rows(
    path: str,
    model: Model,
    baseline: Model | None,
    rows: Sequence[data.Row],
    options: CompareOptions,
) -> ModelScores:
    """What a model says of the rows that it can read.

    Args:
        path: Where it is, for messages.
        model: The model.
        guide: The first model; None where this is the first.
        rows: All rows.
        options: How they are read.
    """
    config = options.data
    check_length(config.length, model.config, path, "--length")
    is_alike = (
        baseline is None or align.tokenizer_difference(model.tokenizer, baseline.tokenizer) is None
    )
    prepared = data.prepare(
        config, model.tokenizer, split=data.DataSplit(list(rows), []), is_scoring_only=True
    )
    places = run.token_metrics(
        model,
        baseline if is_alike else None,
        prepared.train,
        length=config.length,
        batch_size=options.batch_size,
    )
    kept = {example.row_id for example in prepared.train}
    words = data.word_offsets(
        [row for row in rows if row.row_id in kept], model.tokenizer, loss_on=config.loss_on
    )
    columns = evals.sum_by_example(places)
    example_ids = columns.pop("example_ids").tolist()
    sums = {
        row_id: {name: float(column[number]) for name, column in columns.items()}
        for number, row_id in enumerate(example_ids)
    }
    return ModelScores(
        has_same_tokenizer=is_alike,
        sums_by_example=sums,
        words_by_example=words,
        word_nats_by_example=_word_nats_by_example(places, words),
    )


@dataclass(frozen=True)
class ComparableRows:
    """Which rows can be compared, and what became of the others.

    Attributes:
        rows: The `row_id` of those that every model reads whole, and that are the same words to
            all.
        too_long: How many were too long for each model; one may be too long for several.
        in_other_words: How many are other words to some model.
    """

    example_ids: list[int]
    num_too_long: dict[str, int]
    num_different_words: int


def find_comparable_rows(scores: Mapping[str, ModelScores], num_rows: int) -> ComparableRows:
    """The rows that can be compared, of so many.

    Raises:
        UserError: when there is none.
    """
    first = next(iter(scores.values()))
    others = list(scores.values())[1:]
    whole = [
        row
        for row in first.sums_by_example
        if all(row in reading.sums_by_example for reading in others)
    ]
    if not whole:
        raise UserError(
            "compare: no row is short enough for every model's tokenizer. Raise `--length`, or "
            "give shorter rows."
        )
    same = [
        row
        for row in whole
        if first.words_by_example[row].texts
        and all(
            reading.words_by_example[row].texts == first.words_by_example[row].texts
            for reading in others
        )
    ]
    if not same:
        raise UserError(
            "compare: the models' chat templates write every row in different words, so that "
            "there is no text to compare them on. Take `--prompt-template plain`."
        )
    too_long = {name: num_rows - len(reading.sums_by_example) for name, reading in scores.items()}
    return ComparableRows(same, too_long, len(whole) - len(same))


def _word_nats_by_example(
    token_metrics: evals.TokenMetrics, words: dict[int, data.WordOffsets]
) -> dict[int, Float[np.ndarray, " _"]]:
    order = np.argsort(token_metrics.example_ids, kind="stable")
    example_ids, begins = np.unique(token_metrics.example_ids[order], return_index=True)
    found = {}
    for row_id, here in zip(example_ids.tolist(), np.split(order, begins[1:]), strict=True):
        row, nll = words[row_id], token_metrics.values["nll"][here].tolist()
        # The first token of a row costs nothing, for nothing predicts it.
        paid = {-1: 0.0, **dict(zip(token_metrics.positions[here].tolist(), nll, strict=True))}
        nats = np.array([paid[position] for position in row.positions.tolist()])
        found[row_id] = evals.sum_nats_by_word(nats, row.token_ends, row.word_ends)
    return found


def generate_completions(
    model: Model, prompt_rows: Sequence[data.Row], options: CompareOptions
) -> list[str]:
    """What a model answers to each of the `questions`."""
    tokens = data.prompt_tokens(prompt_rows, model.tokenizer)
    sampling = Sampling(max_new_tokens=options.max_new_tokens)
    prompts = [tokens[row.row_id] for row in prompt_rows]
    return model.decode(model.generate_tokens(prompts, sampling, batch_size=options.batch_size))
