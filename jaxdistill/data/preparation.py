"""Preparation of the data: read, split, complete and tokenise the rows of a run."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from jaxdistill.data.config import DataConfig
from jaxdistill.data.examples import Example, RowCounts
from jaxdistill.data.renderer import Renderer
from jaxdistill.data.rollouts.generation_cache import GenerationCache
from jaxdistill.data.rollouts.teacher import tokenize_teacher_prompts
from jaxdistill.data.rows import (
    TOKENS_NOT_PORTABLE,
    Row,
    Tokens,
    require_completions,
    with_completion,
)
from jaxdistill.data.split import DataSplit, read_split
from jaxdistill.data.teacher_view import TeacherView
from jaxdistill.data.token_ids import VocabRows, check_token_ids
from jaxdistill.data.token_offsets import exact_text_offsets
from jaxdistill.data.tokenization import ExampleSet, tokenize_rows
from jaxdistill.errors import ErrorCollector, UserError


@dataclass(frozen=True)
class PreparedData:
    """Rows as they were read, examples to train and evaluate on, and the counts of their rows."""

    split: DataSplit
    train: list[Example]
    heldout: list[Example]
    train_counts: RowCounts
    heldout_counts: RowCounts

    @property
    def counts(self) -> RowCounts:
        """Counts of all rows."""
        return self.train_counts + self.heldout_counts

    @property
    def content(self) -> dict[str, str]:
        """Hash of everything that is learned and scored of the rows, by a name for messages."""
        digest = hashlib.sha256()
        for example in (*self.train, *self.heldout):
            digest.update(example.tokens.tobytes() + example.loss_mask.tobytes())
            if (view := example.teacher_example) is not None:
                arrays = (view.tokens, view.teacher_span_ids, view.student_span_ids, view.weight)
                for array in arrays:
                    digest.update(array.tobytes())
        return {"the rows' content": digest.hexdigest()[:12]}

    def row_source(self, row_id: int) -> str:
        """Return the file and line of a row, for messages."""
        sources = (e.source for e in (*self.train, *self.heldout) if e.row_id == row_id)
        return next(sources, f"row {row_id}")


class CheckedData(NamedTuple):
    """Summary, content hashes and examples of data that is checked before a model is loaded.

    Attributes:
        summary: A line for people.
        content: Hashes of the content of the rows, by a name for messages.
        prepared: The data; None if the teacher has yet to write completions.
    """

    summary: str
    content: Mapping[str, str | dict[str, str]]
    prepared: PreparedData | None


def prepare(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    split: DataSplit | None = None,
    generation_cache: GenerationCache | None = None,
    teacher_view: TeacherView | None = None,
    vocab_rows: VocabRows | None = None,
    is_scoring_only: bool = False,
) -> PreparedData:
    """Read, split, complete and tokenise the rows.

    Without a `teacher_view`, student and teacher share the tokenizer and prompts. `split` is the
    result of `read_split`, if the rows were read already; `generation_cache` is needed if the
    rollout needs a teacher. Token ids are compared with `vocab_rows`, unless they are None. If
    `is_scoring_only`, messages name command options, not config fields.

    Raises:
        UserError: with all errors of the rows, or if nothing is left to learn.
    """
    split, renderer = split or read_split(config), Renderer(tokenizer)
    completed = complete_rows(config, split, renderer, generation_cache, teacher_view)
    # Rows without a teacher example are kept for evaluation: it also measures the student alone.
    heldout_view = teacher_view and replace(teacher_view, unpaired="keep")
    train, heldout = (
        tokenize_as_configured(config, rows, renderer, view)
        for rows, view in ((completed.train, teacher_view), (completed.heldout, heldout_view))
    )
    if vocab_rows is not None:
        teacher_tokenizer = teacher_view and teacher_view.renderer.tokenizer
        examples = [*train.examples, *heldout.examples]
        check_token_ids(examples, vocab_rows, tokenizer, teacher_tokenizer)
    if not train.examples:
        problem = f"data.sources: nothing is left to learn: {train.counts}. Raise `data.length`"
        if is_scoring_only:
            num_rows = f"{train.counts.rows:,} row(s)"
            problem = f"--data: nothing is left to score of {num_rows}. Raise `--length`"
        if train.counts.unpaired_rows == train.counts.rows:
            raise UserError(
                "data.sources: no row can be compared with the teacher: the two chat templates "
                "write the completions differently, or a tokenizer cannot encode them. See why "
                "with `data.unpaired=refuse`."
            )
        raise UserError(
            f"{problem} ({config.length}), or check that the completions are not empty."
        )
    num_overlapping = split.num_overlapping
    num_bad = len(split.bad_rows)
    train_counts = train.counts + RowCounts(
        num_overlapping + num_bad, overlapping_rows=num_overlapping, bad_rows=num_bad
    )
    return PreparedData(split, train.examples, heldout.examples, train_counts, heldout.counts)


def tokenize_as_configured(
    config: DataConfig, rows: Sequence[Row], renderer: Renderer, teacher_view: TeacherView | None
) -> ExampleSet:
    """Tokenise rows with the options of the config; see `tokenize_rows`."""
    return tokenize_rows(
        rows,
        renderer,
        loss_on=config.loss_on,
        length=config.length,
        truncation=config.truncation,
        reasoning=config.reasoning,
        teacher_view=teacher_view,
    )


def check_data(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    teacher_view: TeacherView | None = None,
    *,
    split: DataSplit | None = None,
    vocab_rows: VocabRows | None = None,
) -> CheckedData:
    """Check all that can be known of the data before a model is loaded.

    Raises:
        UserError: with all errors.
    """
    split = split or read_split(config)
    if not config.rollout.needs_teacher:
        prepared = prepare(
            config, tokenizer, split=split, teacher_view=teacher_view, vocab_rows=vocab_rows
        )
        return CheckedData(f"{split}; {prepared.counts}", prepared.content, prepared)
    renderer = Renderer(tokenizer)
    if teacher_view is not None:
        split, renderer = _require_text(split), teacher_view.renderer
    rollout_rows, completed_rows = _choose_rollout_rows(config, split)
    require_completions(completed_rows)
    prompts = tokenize_teacher_prompts(rollout_rows, renderer)
    sizes = [len(prompt) for prompt in prompts]
    if all(size > config.length for size in sizes):
        raise UserError(
            f"data.length={config.length}: no prompt leaves room for a completion; the shortest "
            f"has {min(sizes)} tokens. Raise it."
        )
    content = {"the rows'": {"prompts": hashlib.sha256(repr(prompts).encode()).hexdigest()[:12]}}
    return CheckedData(f"{split}; {sum(sizes):,} tokens in their prompts", content, None)


def complete_rows(
    config: DataConfig,
    split: DataSplit,
    renderer: Renderer,
    generation_cache: GenerationCache | None,
    teacher_view: TeacherView | None,
) -> DataSplit:
    """Return the split with the completions of the rollout."""
    if teacher_view is not None:
        split, renderer = _require_text(split), teacher_view.renderer
    rollout_rows, completed_rows = _choose_rollout_rows(config, split)
    completed: list[Row] = config.rollout.complete(
        rollout_rows, renderer=renderer, length=config.length, generation_cache=generation_cache
    )
    if generation_cache is not None:
        completed = [
            generated
            if teacher_view is None and row.teacher_prompt is None
            else _decode_completion(row, generated, generation_cache, renderer, teacher_view)
            for row, generated in zip(rollout_rows, completed, strict=True)
        ]
    require_completions(completed_rows)
    num_train = len(split.train)
    heldout = [*completed[num_train:], *completed_rows]
    return replace(split, train=completed[:num_train], heldout=heldout)


def _choose_rollout_rows(config: DataConfig, split: DataSplit) -> tuple[list[Row], list[Row]]:
    """Return the rows for the rollout, training rows first, and those that keep completions."""
    if config.heldout_answers == "rows":
        return split.train, split.heldout
    return [*split.train, *split.heldout], []


def _require_text(split: DataSplit) -> DataSplit:
    """Replace exact tokens by their text, which two tokenizers can read; refuse rows without it."""
    findings = ErrorCollector()

    def as_text(rows: Sequence[Row]) -> list[Row]:
        text_rows = []
        for row in rows:
            content = row.content.text if isinstance(row.content, Tokens) else row.content
            with findings.collect(row.source):
                if content is None:
                    raise UserError(TOKENS_NOT_PORTABLE)
                text_rows.append(replace(row, content=content))
        return text_rows

    train, heldout = as_text(split.train), as_text(split.heldout)
    findings.raise_if_any()
    return replace(split, train=train, heldout=heldout)


def _decode_completion(
    row: Row,
    completed: Row,
    generation_cache: GenerationCache,
    teacher_renderer: Renderer,
    teacher_view: TeacherView | None,
) -> Row:
    """Return the row with the teacher's completion as text.

    The student has another tokenizer, or another prompt, so the teacher's tokens do not serve it.
    They are kept for the teacher, unless their text does not tell which bytes each token covers.
    """
    assert isinstance(completed.content, Tokens), "a teacher writes tokens"
    prompt, completion = completed.content.prompt, completed.content.completion
    is_finished = bool(completion) and completion[-1] in generation_cache.eos_ids
    # Decode with the prompt: alone, some tokenizers strip a space from the start of a completion.
    text = teacher_renderer.decode(prompt + completion)
    text = text.removeprefix(teacher_renderer.decode(prompt))
    if not is_finished:
        text = text.rstrip("\N{REPLACEMENT CHARACTER}")  # generation ended inside of a character
    row = with_completion(row, text, is_finished=is_finished)
    if teacher_view is not None and teacher_view.alignment is not None:
        offsets = exact_text_offsets(completed.content, teacher_renderer)
        if offsets.text[slice(*offsets.turns[0].content_range)] == text:
            return replace(row, teacher_tokens=completed.content)
    return row
