"""The path of the data: rows, rollout, tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from jaxdistill.data.beside import Beside
from jaxdistill.data.config import DataConfig
from jaxdistill.data.examples import Counts, Example
from jaxdistill.data.rollouts.dataset import DatasetRollout
from jaxdistill.data.rollouts.writer import Writer
from jaxdistill.data.rows import ONE_TOKENIZER, Row, Tokens, answered
from jaxdistill.data.split import Rows, read
from jaxdistill.data.templates import Templates
from jaxdistill.data.tokenize import encode
from jaxdistill.errors import Findings, UserError


@dataclass(frozen=True)
class Prepared:
    """What is trained on, what is evaluated on, and what became of the rest.

    Attributes:
        rows: What both were made of, as it was read.
        train: What is learned from.
        heldout: What is evaluated on.
        train_counts: What became of the rows of `train`.
        heldout_counts: What became of the rows of `heldout`.
    """

    rows: Rows
    train: list[Example]
    heldout: list[Example]
    train_counts: Counts
    heldout_counts: Counts

    @property
    def counts(self) -> Counts:
        """Of both sides."""
        return self.train_counts + self.heldout_counts

    def place(self, row_id: int) -> str:
        """Where the row of this number stands, in words."""
        named = (e.place for e in (*self.train, *self.heldout) if e.row_id == row_id)
        return next(named, f"row {row_id}")


def prepare(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    rows: Rows | None = None,
    writer: Writer | None = None,
    beside: Beside | None = None,
    is_only_scored: bool = False,
) -> Prepared:
    """Read, split, complete and tokenise the rows.

    Args:
        config: Which rows, and how.
        tokenizer: The student's, and the teacher's unless `beside` has another.
        rows: What `read` gave, where that was done already.
        writer: The teacher, where `config.rollout` needs one.
        beside: The teacher's reading of the rows, where that is another than the student's.
        is_only_scored: Whether nothing is learned; its options are then those of a command.

    Raises:
        UserError: with all that is wrong with the rows, or when nothing is left to learn.
    """
    templates = Templates(tokenizer)
    return _prepared(
        config, rows or read(config), templates, writer, beside, is_only_scored=is_only_scored
    )


def check(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    beside: Beside | None = None,
    *,
    rows: Rows | None = None,
) -> str:
    """Find all that can be known of the data before a model is loaded.

    Returns:
        A line that says how much there is.

    Raises:
        UserError: with all that is wrong.
    """
    rows, templates = rows or read(config), Templates(tokenizer)
    if beside is not None:
        rows = _in_text(rows)
    if config.rollout.needs_teacher:
        asking = templates if beside is None else beside.templates
        to_write, given = _to_complete(config, rows)
        DatasetRollout().complete(given, templates=asking, length=config.length, writer=None)
        sizes = [len(prompt) for prompt in config.rollout.prompts(to_write, asking)]
        if all(size > config.length for size in sizes):
            raise UserError(
                f"data.length={config.length}: no prompt leaves room for an answer; the shortest "
                f"has {min(sizes)} tokens. Raise it."
            )
        return f"{rows}; {sum(sizes):,} tokens in their prompts"
    return f"{rows}; {_prepared(config, rows, templates, None, beside).counts}"


def _prepared(
    config: DataConfig,
    rows: Rows,
    templates: Templates,
    writer: Writer | None,
    beside: Beside | None,
    *,
    is_only_scored: bool = False,
) -> Prepared:
    asking = templates if beside is None else beside.templates
    readable = rows if beside is None else _in_text(rows)
    sides = _answered(config, readable, asking, writer, beside)
    (train, train_counts), (heldout, heldout_counts) = (
        encode(
            side,
            templates,
            loss_on=config.loss_on,
            length=config.length,
            truncation=config.truncation,
            beside=of_side,
        )
        for side, of_side in (
            (sides[0], beside),
            # What is measured does not hang on what can be compared.
            (sides[1], beside and replace(beside, unpaired="keep")),
        )
    )
    if not train:
        what = f"data.sources: nothing is left to learn: {train_counts}. Raise `data.length`"
        if is_only_scored:
            num_rows = f"{train_counts.rows:,} row(s)"
            what = f"--data: nothing is left to score of {num_rows}. Raise `--length`"
        raise UserError(f"{what} ({config.length}), or see that the answers are not empty.")
    train_counts += Counts(rows=rows.shared, shared_rows=rows.shared)
    return Prepared(rows, train, heldout, train_counts, heldout_counts)


def _answered(
    config: DataConfig,
    rows: Rows,
    asking: Templates,
    writer: Writer | None,
    beside: Beside | None,
) -> tuple[Sequence[Row], Sequence[Row]]:
    """The rows to train on and those held out, with their answers."""
    asked, given = _to_complete(config, rows)
    complete = config.rollout.complete(asked, templates=asking, length=config.length, writer=writer)
    if writer is not None:
        complete = [
            told
            if beside is None and row.teacher_prompt is None
            else _as_text(row, told, writer, asking)
            for row, told in zip(asked, complete, strict=True)
        ]
    kept = DatasetRollout().complete(given, templates=asking, length=config.length, writer=None)
    size = len(rows.train)
    return complete[:size], [*complete[size:], *kept]


def _to_complete(config: DataConfig, rows: Rows) -> tuple[list[Row], list[Row]]:
    """The rows that a rollout gives answers, and those held out that keep their own."""
    if config.heldout_answers == "rows":
        return rows.train, rows.heldout
    return [*rows.train, *rows.heldout], []


def _in_text(rows: Rows) -> Rows:
    """The rows as two tokenizers can read them.

    Raises:
        UserError: naming those that are exact tokens and nothing else.
    """
    findings, sides = Findings(), []
    for side in (rows.train, rows.heldout):
        sides.append([])
        for row in side:
            content = row.content.text if isinstance(row.content, Tokens) else row.content
            if content is None:
                with findings.collect(row.place):
                    raise UserError(ONE_TOKENIZER)
            else:
                sides[-1].append(replace(row, content=content))
    findings.raise_any()
    return replace(rows, train=sides[0], heldout=sides[1])


def _as_text(row: Row, told: Row, writer: Writer, asking: Templates) -> Row:
    """A row with what the teacher wrote in its own tokens, for a student that reads others.

    Those are of another tokenizer, or follow another prompt.
    """
    assert isinstance(told.content, Tokens), "a teacher writes tokens"
    asked, written = told.content.prompt, told.content.completion
    is_finished = bool(written) and written[-1] in writer.eos_ids
    # Decoded with what stands before it: alone, some tokenizers take a space from its beginning.
    before, whole = (
        str(
            asking.tokenizer.decode(
                list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )
        for tokens in (asked, asked + written)
    )
    answer = whole.removeprefix(before)
    if not is_finished:
        answer = answer.rstrip("\N{REPLACEMENT CHARACTER}")  # broken off inside of a character
    return answered(row, answer, is_finished=is_finished)
