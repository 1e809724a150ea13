"""Tokenisation: from rows to token ids with loss masks, and prompts for a teacher to complete."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, repeat
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from jaxdistill.data.examples import (
    Example,
    LossOn,
    RowCounts,
    TeacherExample,
    TokenizedRow,
    Truncation,
    truncate,
)
from jaxdistill.data.loss_mask import add_loss_mask, tokenize_with_offsets
from jaxdistill.data.reasoning import Reasoning, mask_reasoning, num_reasoning_tokens
from jaxdistill.data.renderer import RenderedText, Renderer
from jaxdistill.data.row_formats import parse_row
from jaxdistill.data.rows import Chat, Row, Text, Tokens, apply_teacher_prompt
from jaxdistill.data.teacher_view import DropReason, TeacherView
from jaxdistill.data.token_offsets import exact_text_offsets
from jaxdistill.errors import ErrorCollector, UserError

_CHUNK_ROWS = 1000


class ExampleSet(NamedTuple):
    """Examples of some rows, and the counts of those rows."""

    examples: list[Example]
    counts: RowCounts


def tokenize_rows(
    rows: Sequence[Row],
    renderer: Renderer,
    *,
    loss_on: LossOn,
    length: int,
    truncation: Truncation,
    reasoning: Reasoning = "keep",
    teacher_view: TeacherView | None = None,
) -> ExampleSet:
    """Tokenise rows, truncate them to `length` positions, and align them with the teacher's view.

    Raises:
        UserError: with all rows that a chat template or a vocabulary does not allow.
    """
    examples: list[Example] = []
    total = RowCounts()
    students = tokenize_untruncated(rows, renderer, loss_on=loss_on, reasoning=reasoning)
    teachers = repeat(None)
    if teacher_view is not None and teacher_view.alignment is not None:
        teachers = tokenize_untruncated(
            [apply_teacher_prompt(row) for row in rows],
            teacher_view.renderer,
            loss_on=loss_on,
            reasoning=reasoning,
        )
    findings = ErrorCollector()
    for row, student, teacher in zip(rows, students, teachers, strict=False):
        example, counts = truncate(row, student, renderer, length, truncation)
        if example is not None and teacher_view is not None and teacher is not None:
            if row.teacher_tokens is not None:
                offsets = exact_text_offsets(row.teacher_tokens, teacher_view.renderer)
                teacher = replace(teacher, text_offsets=offsets)
            with findings.collect(row.source):
                aligned = teacher_view.align_row(student, teacher, renderer, length, truncation)
                if not (isinstance(aligned, str) and teacher_view.unpaired == "keep"):
                    example, counts = _add_teacher_example(example, counts, aligned)
        total += counts
        if example is not None:
            examples.append(example)
    findings.raise_if_any()
    return ExampleSet(examples, total)


def _add_teacher_example(
    example: Example, counts: RowCounts, teacher_example: TeacherExample | DropReason
) -> tuple[Example | None, RowCounts]:
    """Attach the teacher's view to an example, or drop the row and count the reason."""
    if teacher_example == "too long":
        return None, RowCounts(rows=1, dropped_rows=1)
    if teacher_example == "unpaired":
        return None, RowCounts(rows=1, unpaired_rows=1)
    return replace(example, teacher_example=teacher_example), replace(
        counts,
        truncated_rows=max(counts.truncated_rows, int(teacher_example.is_truncated)),
        spans=int((teacher_example.weight > 0).sum()),
    )


def tokenize_prompts(rows: Sequence[Row], renderer: Renderer) -> list[list[int]]:
    """Tokenise the prompts of rows, for a model to complete.

    Raises:
        UserError: with all rows that a chat template or a vocabulary does not allow.
    """
    rows = _replace_foreign_tokens(rows, renderer)
    renderer.check_chat_template(rows)
    prompts: list[list[int]] = []
    rendered: dict[int, RenderedText] = {}
    findings = ErrorCollector()
    for index, row in enumerate(rows):
        prompts.append([])
        with findings.collect(row.source):
            if isinstance(row.content, Tokens):
                prompts[index] = _check_vocabulary(row.content.prompt, renderer.tokenizer)
            else:
                rendered[index] = renderer.render_prompt(row.content)
    findings.raise_if_any()
    encodings = tokenize_with_offsets(list(rendered.values()), renderer)
    for (index, text), (tokens, _) in zip(rendered.items(), encodings, strict=True):
        # Some tokenizers append EOS to every text, but a prompt has to go on.
        has_end = len(tokens) > 1 and tokens[-1] == renderer.eos_id and not text.is_chat
        prompts[index] = tokens[:-1] if has_end else tokens
    return prompts


def prompt_tokens(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> dict[int, list[int]]:
    """Return the tokens of the prompts by `row_id`, without rows that have no prompt."""
    prompted = [row for row in rows if row.has_prompt]
    prompts = tokenize_prompts(prompted, Renderer(tokenizer))
    return {row.row_id: prompt for row, prompt in zip(prompted, prompts, strict=True)}


def tokenize_prompt(prompt: str, tokenizer: PreTrainedTokenizerBase, *, as_chat: bool) -> list[int]:
    """Tokenise a prompt, as a plain string or as a user message.

    Raises:
        UserError: if `as_chat` and the tokenizer has no chat template.
    """
    row = parse_row({"prompt": prompt}, source="prompt", row_id=0, as_chat=as_chat)
    return tokenize_prompts([row], Renderer(tokenizer))[0]


def tokenize_untruncated(
    rows: Sequence[Row], renderer: Renderer, *, loss_on: LossOn, reasoning: Reasoning = "keep"
) -> Iterator[TokenizedRow]:
    """Tokenise whole rows, without truncation.

    All rows are rendered before the first one is yielded, so that all errors are raised together.

    Raises:
        UserError: with all rows that a chat template or a vocabulary does not allow.
    """
    rows = _replace_foreign_tokens(rows, renderer)
    renderer.check_chat_template(rows)
    findings = ErrorCollector()
    contents: list[RenderedText | TokenizedRow] = []
    for row in rows:
        with findings.collect(row.source):
            if isinstance(row.content, Tokens):
                contents.append(_wrap_exact_tokens(row.content, renderer, reasoning))
            else:
                rendered = renderer.render(row.content)
                contents.append(rendered if reasoning == "keep" else mask_reasoning(rendered))
    findings.raise_if_any()
    texts = [content for content in contents if isinstance(content, RenderedText)]
    from_text = _tokenize_rendered(texts, renderer)
    for content in contents:
        tokenized = content if isinstance(content, TokenizedRow) else next(from_text)
        if loss_on == "all":
            tokenized = replace(tokenized, loss_mask=np.ones_like(tokenized.loss_mask))
        yield tokenized


def _replace_foreign_tokens(rows: Sequence[Row], renderer: Renderer) -> Sequence[Row]:
    """Replace exact tokens of another tokenizer by their text, where the row has it."""
    return [
        replace(row, content=row.content.text)
        if isinstance(row.content, Tokens)
        and row.content.text is not None
        and not _is_tokenization_of(row.content, row.content.text, renderer.tokenizer)
        else row
        for row in rows
    ]


def _is_tokenization_of(
    tokens: Tokens, text: Text | Chat, tokenizer: PreTrainedTokenizerBase
) -> bool:
    """Return True if the tokens of the completion decode to its text."""
    if max((*tokens.prompt, *tokens.completion), default=0) >= len(tokenizer):
        return False
    completion = text.completion if isinstance(text, Text) else text.messages[-1]["content"]
    # The same call as that which wrote the text into the file (`GenerationCache`).
    return tokenizer.decode(list(tokens.completion), skip_special_tokens=True) == completion


def _wrap_exact_tokens(content: Tokens, renderer: Renderer, reasoning: Reasoning) -> TokenizedRow:
    tokens = _check_vocabulary((*content.prompt, *content.completion), renderer.tokenizer)
    first_learned = len(content.prompt)
    if reasoning != "keep":
        first_learned += num_reasoning_tokens(
            tokens, first_learned, lambda part: renderer.decode(part, skip_special=False)
        )
    is_learned = np.arange(len(tokens)) >= first_learned
    return TokenizedRow(np.array(tokens, dtype=np.int32), is_learned, None)


def _check_vocabulary(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    largest = max(tokens, default=0)
    if largest >= len(tokenizer):
        raise UserError(
            f"token {largest} is none of this tokenizer's {len(tokenizer)}. The tokens come "
            "from another one: generate them again, or give the row as text."
        )
    return list(tokens)


def _tokenize_rendered(
    rendered: Sequence[RenderedText], renderer: Renderer
) -> Iterator[TokenizedRow]:
    tokenizer = renderer.tokenizer
    added = tokenizer.added_tokens_decoder.items()
    special_ids = [index for index in tokenizer.all_special_ids if index is not None]
    special_ids += [index for index, token in added if token.special]
    remaining = iter(rendered)
    while chunk := list(islice(remaining, _CHUNK_ROWS)):
        for text, encoding in zip(chunk, tokenize_with_offsets(chunk, renderer), strict=True):
            yield add_loss_mask(text, encoding, renderer.eos_id, special_ids)
