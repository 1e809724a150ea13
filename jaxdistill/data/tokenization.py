"""Tokenisation: from rows to token ids with loss masks, and prompts for a teacher to complete."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, repeat
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from jaxdistill.data.examples import (
    Example,
    LossOn,
    RowCounts,
    TeacherExample,
    TextOffsets,
    TokenizedRow,
    Truncation,
    char_to_byte_ends,
    truncate,
)
from jaxdistill.data.reasoning import REASONING_END, Reasoning, mask_reasoning
from jaxdistill.data.renderer import RenderedText, Renderer
from jaxdistill.data.row_formats import parse_row
from jaxdistill.data.rows import Chat, Row, Text, Tokens, apply_teacher_prompt
from jaxdistill.data.teacher_view import DropReason, TeacherView
from jaxdistill.errors import ErrorCollector, UserError

_CHUNK_ROWS = 1000

_TokensWithOffsets = tuple[list[int], list[tuple[int, int]]]
"""Token ids of a text, and the characters (start, end) that each covers."""


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
        example, counts = truncate(row, student, renderer.tokenizer, length, truncation)
        if example is not None and teacher_view is not None and teacher is not None:
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
    encodings = _tokenize_with_offsets(list(rendered.values()), renderer)
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
    masked_end = None
    if reasoning != "keep":
        masked_end = renderer.tokenizer.get_vocab().get(REASONING_END)
    findings = ErrorCollector()
    contents: list[RenderedText | TokenizedRow] = []
    for row in rows:
        with findings.collect(row.source):
            if isinstance(row.content, Tokens):
                contents.append(_wrap_exact_tokens(row.content, renderer.tokenizer, masked_end))
            else:
                rendered = renderer.render(row.content)
                contents.append(mask_reasoning(rendered) if reasoning == "mask" else rendered)
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


def _wrap_exact_tokens(
    content: Tokens, tokenizer: PreTrainedTokenizerBase, masked_end: int | None
) -> TokenizedRow:
    """Learn the completion: of one with the token `masked_end`, what follows it."""
    token_ids = _check_vocabulary((*content.prompt, *content.completion), tokenizer)
    tokens, first_learned = np.array(token_ids, dtype=np.int32), len(content.prompt)
    if masked_end is not None:
        is_end = tokens[first_learned:] == masked_end
        first_learned += int(np.max(np.flatnonzero(is_end) + 1, initial=0))
    return TokenizedRow(tokens, np.arange(len(tokens)) >= first_learned, None)


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
        for text, encoding in zip(chunk, _tokenize_with_offsets(chunk, renderer), strict=True):
            yield _add_loss_mask(text, encoding, renderer.eos_id, special_ids)


def _tokenize_with_offsets(
    rendered: Sequence[RenderedText], renderer: Renderer
) -> list[_TokensWithOffsets]:
    """Tokenise rendered texts. Special tokens are added unless a chat template or the row did."""
    encodings: list[_TokensWithOffsets] = [([], [])] * len(rendered)
    bos = renderer.tokenizer.bos_token
    is_complete = [row.is_chat or bool(bos and row.text.startswith(str(bos))) for row in rendered]
    for flag in set(is_complete):
        indices = [index for index, complete in enumerate(is_complete) if complete is flag]
        batch = renderer.tokenizer(
            [rendered[index].text for index in indices],
            add_special_tokens=not flag,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,  # no warnings about long texts: truncation is counted here
        )
        columns = zip(batch["input_ids"], batch["offset_mapping"], strict=True)
        for index, encoding in zip(indices, columns, strict=True):
            encodings[index] = encoding
    return encodings


def _add_loss_mask(
    rendered: RenderedText,
    encoding: _TokensWithOffsets,
    eos_id: int | None,
    special_ids: Sequence[int],
) -> TokenizedRow:
    token_ids, offsets = encoding
    size, is_finished = len(rendered.text), all(turn.is_finished for turn in rendered.turns)
    if not rendered.is_chat and is_finished and eos_id is not None and token_ids[-1:] != [eos_id]:
        token_ids, offsets = [*token_ids, eos_id], [*offsets, (size, size)]
    tokens = np.array(token_ids, dtype=np.int32)
    starts, given_ends = np.array(offsets, dtype=np.int64).reshape(-1, 2).T
    ends = _extend_ends(rendered.text, starts, given_ends)
    is_special, is_eos = np.isin(tokens, special_ids), tokens == eos_id
    # Some tokenizers give a token of white space no characters: it starts where the last one ends.
    is_blank = (starts == ends) & ~is_special
    starts = np.where(is_blank, np.concatenate([[0], ends[:-1]]), starts)
    turn_ids = np.full(len(tokens), -1)
    for number, turn in enumerate(rendered.turns):
        in_turn = (ends > turn.loss_range[0]) & (starts < turn.loss_range[1]) & (ends > starts)
        if turn.is_finished and not rendered.is_chat:
            in_turn[-1:] |= is_eos[-1:]
        turn_ids[in_turn] = number
    # After a completion that was cut off, the template's text is not what the model would write.
    keep = slice(None) if is_finished else slice(len(tokens) - int(np.argmax(turn_ids[::-1] >= 0)))
    text_offsets = TextOffsets(
        text=rendered.text,
        starts=char_to_byte_ends(rendered.text, starts)[keep],
        ends=char_to_byte_ends(rendered.text, ends)[keep],
        is_special=is_special[keep],
        turns=rendered.turns,
        turn_ids=turn_ids[keep],
        is_extended=(ends != given_ends)[keep],
    )
    return TokenizedRow(tokens[keep], turn_ids[keep] >= 0, text_offsets)


def _extend_ends(
    text: str, starts: Int[np.ndarray, " T"], ends: Int[np.ndarray, " T"]
) -> Int[np.ndarray, " T"]:
    """Move the ends of tokens over characters that no token covers.

    A tokenizer that composes an accent with its letter leaves the accent out of its offsets. White
    space that is left out belongs to the next token, and is not added here.
    """
    size = len(text) + 1
    steps = np.bincount(starts, minlength=size) - np.bincount(ends, minlength=size)
    for index in np.flatnonzero(np.cumsum(steps)[:-1] == 0):
        if not text[index].isspace():
            ends = np.where((ends == index) & (ends > starts), index + 1, ends)
    return ends
