"""What each model says of the same rows, and which rows can be compared at all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from jaxdistill import align, data, evals, run
from jaxdistill.compare.options import Options
from jaxdistill.errors import Findings, UserError
from jaxdistill.model import Model
from jaxdistill.run.check import check_length
from jaxdistill.sampling import Sampling

_TOKEN_FIELDS = ("prompt_tokens", "completion_tokens")
_BEGINNING_WORDS = 8
"""How much of a row is given where it asks nothing."""


@dataclass(frozen=True)
class Reading:
    """What one model says.

    Attributes:
        is_alike: Whether its tokenizer is the first model's, so that tokens can be compared.
        sums: Sums over each row by its `row_id`: `scored_tokens` and, where it is alike,
            `forward_kl`, `top1_agreement` and `top5_agreement` with the first.
        words: The words of each row.
        nats: What each of them costs.
    """

    is_alike: bool
    sums: dict[int, dict[str, float]]
    words: dict[int, data.Words]
    nats: dict[int, Float[np.ndarray, " _"]]


def text_rows(sources: Sequence[str], *, as_chat: bool) -> tuple[list[data.Row], int]:
    """The rows as text, which every tokenizer can read; the exact tokens of a rollout do not count.

    Returns:
        The rows, and how many more have answers of blanks only, which are no words.

    Raises:
        UserError: naming all rows that have no text.
    """
    findings = Findings()
    rows: list[data.Row] = []
    num_blank = 0
    for source in sources:
        for place, fields in data.records(source, findings):
            with findings.collect():
                text = {name: one for name, one in fields.items() if name not in _TOKEN_FIELDS}
                row = data.parse(text, place=place, row_id=len(rows), as_chat=as_chat)
                if not row.has_answer:
                    raise UserError(
                        f"{place}: has no answer to compare models on. Give it a `completion`."
                    )
                if _is_blank(row):
                    num_blank += 1
                else:
                    rows.append(row)
    findings.raise_any()
    if not rows:
        raise UserError(f"{', '.join(sources)}: no row has words to compare models on.")
    return rows, num_blank


def _is_blank(row: data.Row) -> bool:
    match row.content:
        case data.Text(completion=completion):
            return not (completion or "").strip()
        case data.Chat(messages=messages, num_prompt=num_prompt):
            return not any(str(one["content"]).strip() for one in messages[num_prompt:])
    return False


def questions(rows: Sequence[data.Row], count: int) -> list[data.Row]:
    """The first `count` rows that ask different things; one that asks nothing gives its beginning.

    Of rows that every model reads whole, each reads the prompt. Their `row_id` is their place in
    the list.
    """
    found: dict[str, data.Row] = {}
    for row in rows:
        if len(found) == count:
            break
        number = len(found)
        if row.has_prompt:
            found.setdefault(row.key, data.Row(row.place, number, row.key, row.content))
        elif isinstance(content := row.content, data.Text):
            words = " ".join((content.completion or "").split()[:_BEGINNING_WORDS])
            if words:
                fields = {"prompt": words}
                asking = data.parse(fields, place=row.place, row_id=number, as_chat=False)
                found.setdefault(asking.key, asking)
    return list(found.values())


def read(
    path: str, model: Model, guide: Model | None, rows: Sequence[data.Row], options: Options
) -> Reading:
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
    is_alike = guide is None or align.difference(model.tokenizer, guide.tokenizer) is None
    prepared = data.prepare(
        config, model.tokenizer, rows=data.Rows(list(rows), []), is_only_scored=True
    )
    places = run.measure_places(
        model,
        guide if is_alike else None,
        prepared.train,
        length=config.length,
        batch_size=options.batch_size,
    )
    kept = {example.row_id for example in prepared.train}
    words = data.words(
        [row for row in rows if row.row_id in kept], model.tokenizer, loss_on=config.loss_on
    )
    columns = evals.by_row(places)
    row_ids = columns.pop("row_ids").tolist()
    sums = {
        row_id: {name: float(column[number]) for name, column in columns.items()}
        for number, row_id in enumerate(row_ids)
    }
    return Reading(
        is_alike=is_alike,
        sums=sums,
        words=words,
        nats=_word_nats(places, words),
    )


@dataclass(frozen=True)
class Shared:
    """Which rows can be compared, and what became of the others.

    Attributes:
        rows: The `row_id` of those that every model reads whole, and that are the same words to
            all.
        too_long: How many were too long for each model; one may be too long for several.
        in_other_words: How many are other words to some model.
    """

    rows: list[int]
    too_long: dict[str, int]
    in_other_words: int


def shared(readings: Mapping[str, Reading], num_rows: int) -> Shared:
    """The rows that can be compared, of so many.

    Raises:
        UserError: when there is none.
    """
    first = next(iter(readings.values()))
    others = list(readings.values())[1:]
    whole = [row for row in first.sums if all(row in reading.sums for reading in others)]
    if not whole:
        raise UserError(
            "compare: no row is short enough for every model's tokenizer. Raise `--length`, or "
            "give shorter rows."
        )
    same = [
        row
        for row in whole
        if first.words[row].texts
        and all(reading.words[row].texts == first.words[row].texts for reading in others)
    ]
    if not same:
        raise UserError(
            "compare: the models' chat templates write every row in different words, so that "
            "there is no text to compare them on. Take `--prompt-template plain`."
        )
    too_long = {name: num_rows - len(reading.sums) for name, reading in readings.items()}
    return Shared(same, too_long, len(whole) - len(same))


def _word_nats(
    places: evals.Places, words: dict[int, data.Words]
) -> dict[int, Float[np.ndarray, " _"]]:
    order = np.argsort(places.row_ids, kind="stable")
    row_ids, begins = np.unique(places.row_ids[order], return_index=True)
    found = {}
    for row_id, here in zip(row_ids.tolist(), np.split(order, begins[1:]), strict=True):
        row, nll = words[row_id], places.values["nll"][here].tolist()
        # The first token of a row costs nothing, for nothing predicts it.
        paid = {-1: 0.0, **dict(zip(places.positions[here].tolist(), nll, strict=True))}
        nats = np.array([paid[position] for position in row.positions.tolist()])
        found[row_id] = evals.word_nats(nats, row.token_ends, row.ends)
    return found


def answers(model: Model, asking: Sequence[data.Row], options: Options) -> list[str]:
    """What a model answers to each of the `questions`."""
    tokens = data.prompt_tokens(asking, model.tokenizer)
    sampling = Sampling(max_new_tokens=options.max_new_tokens)
    prompts = [tokens[row.row_id] for row in asking]
    return model.decode(model.write(prompts, sampling, batch_size=options.batch_size))
