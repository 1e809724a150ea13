"""The path of the data: rows, rollout, tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from jaxdistill.data.config import DataConfig
from jaxdistill.data.examples import Example, RowCounts
from jaxdistill.data.renderer import Renderer
from jaxdistill.data.rollouts.dataset import DatasetRollout
from jaxdistill.data.rollouts.generation_cache import GenerationCache
from jaxdistill.data.rows import TOKENS_NOT_PORTABLE, Row, Tokens, with_completion
from jaxdistill.data.split import DataSplit, read_split
from jaxdistill.data.teacher_view import TeacherView
from jaxdistill.data.tokenization import tokenize_rows
from jaxdistill.errors import ErrorCollector, UserError


@dataclass(frozen=True)
class PreparedData:
    """What is trained on, what is evaluated on, and what became of the rest.

    Attributes:
        rows: What both were made of, as it was read.
        train: What is learned from.
        heldout: What is evaluated on.
        train_counts: What became of the rows of `train`.
        heldout_counts: What became of the rows of `heldout`.
    """

    split: DataSplit
    train: list[Example]
    heldout: list[Example]
    train_counts: RowCounts
    heldout_counts: RowCounts

    @property
    def counts(self) -> RowCounts:
        """Of both sides."""
        return self.train_counts + self.heldout_counts

    def row_source(self, row_id: int) -> str:
        """Where the row of this number stands, in words."""
        named = (e.source for e in (*self.train, *self.heldout) if e.row_id == row_id)
        return next(named, f"row {row_id}")


def prepare(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    split: DataSplit | None = None,
    generation_cache: GenerationCache | None = None,
    teacher_view: TeacherView | None = None,
    is_scoring_only: bool = False,
) -> PreparedData:
    """Read, split, complete and tokenise the rows.

    Args:
        config: Which rows, and how.
        tokenizer: The student's, and the teacher's unless `beside` has another.
        rows: What `read` gave, where that was done already.
        writer: The teacher, where `config.rollout` needs one.
        beside: The teacher's reading of the rows, where that is another than the student's.
        is_scoring_only: Whether nothing is learned; its options are then those of a command.

    Raises:
        UserError: with all that is wrong with the rows, or when nothing is left to learn.
    """
    templates = Renderer(tokenizer)
    return _prepare_split(
        config,
        split or read_split(config),
        templates,
        generation_cache,
        teacher_view,
        is_scoring_only=is_scoring_only,
    )


def check_data(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    teacher_view: TeacherView | None = None,
    *,
    split: DataSplit | None = None,
) -> str:
    """Find all that can be known of the data before a model is loaded.

    Returns:
        A line that says how much there is.

    Raises:
        UserError: with all that is wrong.
    """
    split, templates = split or read_split(config), Renderer(tokenizer)
    if teacher_view is not None:
        split = _require_text(split)
    if config.rollout.needs_teacher:
        asking = templates if teacher_view is None else teacher_view.renderer
        to_write, given = _choose_rollout_rows(config, split)
        DatasetRollout().complete(
            given, renderer=asking, length=config.length, generation_cache=None
        )
        sizes = [
            len(prompt) for prompt in config.rollout.tokenize_teacher_prompts(to_write, asking)
        ]
        if all(size > config.length for size in sizes):
            raise UserError(
                f"data.length={config.length}: no prompt leaves room for an answer; the shortest "
                f"has {min(sizes)} tokens. Raise it."
            )
        return f"{split}; {sum(sizes):,} tokens in their prompts"
    return f"{split}; {_prepare_split(config, split, templates, None, teacher_view).counts}"


def _prepare_split(
    config: DataConfig,
    split: DataSplit,
    renderer: Renderer,
    generation_cache: GenerationCache | None,
    teacher_view: TeacherView | None,
    *,
    is_scoring_only: bool = False,
) -> PreparedData:
    asking = renderer if teacher_view is None else teacher_view.renderer
    readable = split if teacher_view is None else _require_text(split)
    sides = _complete_rows(config, readable, asking, generation_cache, teacher_view)
    (train, train_counts), (heldout, heldout_counts) = (
        tokenize_rows(
            side,
            renderer,
            loss_on=config.loss_on,
            length=config.length,
            truncation=config.truncation,
            teacher_view=of_side,
        )
        for side, of_side in (
            (sides[0], teacher_view),
            # What is measured does not hang on what can be compared.
            (sides[1], teacher_view and replace(teacher_view, unpaired="keep")),
        )
    )
    if not train:
        what = f"data.sources: nothing is left to learn: {train_counts}. Raise `data.length`"
        if is_scoring_only:
            num_rows = f"{train_counts.rows:,} row(s)"
            what = f"--data: nothing is left to score of {num_rows}. Raise `--length`"
        raise UserError(f"{what} ({config.length}), or see that the answers are not empty.")
    train_counts += RowCounts(rows=split.num_overlapping, overlapping_rows=split.num_overlapping)
    return PreparedData(split, train, heldout, train_counts, heldout_counts)


def _complete_rows(
    config: DataConfig,
    split: DataSplit,
    teacher_renderer: Renderer,
    generation_cache: GenerationCache | None,
    teacher_view: TeacherView | None,
) -> tuple[Sequence[Row], Sequence[Row]]:
    """The rows to train on and those held out, with their answers."""
    asked, given = _choose_rollout_rows(config, split)
    complete = config.rollout.complete(
        asked, renderer=teacher_renderer, length=config.length, generation_cache=generation_cache
    )
    if generation_cache is not None:
        complete = [
            told
            if teacher_view is None and row.teacher_prompt is None
            else _decode_completion(row, told, generation_cache, teacher_renderer)
            for row, told in zip(asked, complete, strict=True)
        ]
    kept = DatasetRollout().complete(
        given, renderer=teacher_renderer, length=config.length, generation_cache=None
    )
    size = len(split.train)
    return complete[:size], [*complete[size:], *kept]


def _choose_rollout_rows(config: DataConfig, split: DataSplit) -> tuple[list[Row], list[Row]]:
    """The rows that a rollout gives answers, and those held out that keep their own."""
    if config.heldout_answers == "rows":
        return split.train, split.heldout
    return [*split.train, *split.heldout], []


def _require_text(split: DataSplit) -> DataSplit:
    """The rows as two tokenizers can read them.

    Raises:
        UserError: naming those that are exact tokens and nothing else.
    """
    findings, sides = ErrorCollector(), []
    for side in (split.train, split.heldout):
        sides.append([])
        for row in side:
            content = row.content.text if isinstance(row.content, Tokens) else row.content
            if content is None:
                with findings.collect(row.source):
                    raise UserError(TOKENS_NOT_PORTABLE)
            else:
                sides[-1].append(replace(row, content=content))
    findings.raise_if_any()
    return replace(split, train=sides[0], heldout=sides[1])


def _decode_completion(
    row: Row, completed: Row, generation_cache: GenerationCache, teacher_renderer: Renderer
) -> Row:
    """A row with what the teacher wrote in its own tokens, for a student that reads others.

    Those are of another tokenizer, or follow another prompt.
    """
    assert isinstance(completed.content, Tokens), "a teacher writes tokens"
    asked, written = completed.content.prompt, completed.content.completion
    is_finished = bool(written) and written[-1] in generation_cache.eos_ids
    # Decoded with what stands before it: alone, some tokenizers take a space from its beginning.
    before, whole = (
        str(
            teacher_renderer.tokenizer.decode(
                list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )
        for tokens in (asked, asked + written)
    )
    answer = whole.removeprefix(before)
    if not is_finished:
        answer = answer.rstrip("\N{REPLACEMENT CHARACTER}")  # broken off inside of a character
    return with_completion(row, answer, is_finished=is_finished)
