"""From rows to token sequences, each token with whether it is learned."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, repeat
from typing import Literal

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from jaxdistill.data.examples import (
    Example,
    RowCounts,
    TeacherExample,
    TextOffsets,
    TokenizedRow,
    char_to_byte_ends,
    truncate,
)
from jaxdistill.data.renderer import RenderedText, Renderer
from jaxdistill.data.row_formats import parse_row
from jaxdistill.data.rows import Chat, Row, Text, Tokens, apply_teacher_prompt
from jaxdistill.data.teacher_view import TeacherView
from jaxdistill.errors import ErrorCollector, UserError

_CHUNK_ROWS = 1000


def tokenize_rows(
    rows: Sequence[Row],
    renderer: Renderer,
    *,
    loss_on: Literal["completion", "all"],
    length: int,
    truncation: Literal["cut_end", "cut_start", "drop"],
    teacher_view: TeacherView | None = None,
) -> tuple[list[Example], RowCounts]:
    """Tokenise rows that have answers.

    Args:
        rows: The rows.
        templates: How the tokenizer wants them.
        loss_on: Whether the answers are learned, or everything.
        length: How many places a row may take.
        truncation: What becomes of a longer one.
        beside: A teacher that reads them with another tokenizer, or after another prompt.

    Raises:
        UserError: for rows that a chat template or a vocabulary does not allow.
    """
    examples: list[Example] = []
    counts = RowCounts()
    mine = tokenize_untruncated(rows, renderer, loss_on=loss_on)
    theirs = repeat(None)
    if teacher_view is not None and teacher_view.alignment is not None:
        theirs = tokenize_untruncated(
            [apply_teacher_prompt(row) for row in rows], teacher_view.renderer, loss_on=loss_on
        )
    findings = ErrorCollector()
    for row, encoded, other in zip(rows, mine, theirs, strict=False):
        example, counted = truncate(row, encoded, renderer.tokenizer, length, truncation)
        if example is not None and teacher_view is not None and other is not None:
            with findings.collect(row.source):
                found = teacher_view.align_row(encoded, other, renderer, length, truncation)
                if not (isinstance(found, str) and teacher_view.unpaired == "keep"):
                    example, counted = _add_teacher_example(example, counted, found)
        counts += counted
        if example is not None:
            examples.append(example)
    findings.raise_if_any()
    return examples, counts


def _add_teacher_example(
    example: Example,
    counts: RowCounts,
    teacher_example: TeacherExample | Literal["too long", "unpaired"],
) -> tuple[Example | None, RowCounts]:
    """An example with what the teacher reads of it, or the count of a row that has to go."""
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
    """The tokens that a teacher is to continue, for each row."""
    rows = _replace_foreign_tokens(rows, renderer)
    renderer.check_chat_template(rows)
    rendered: dict[int, RenderedText] = {}
    findings = ErrorCollector()
    for row in rows:
        if not isinstance(row.content, Tokens):
            with findings.collect(row.source):
                rendered[row.row_id] = renderer.render_prompt(row.content)
    findings.raise_if_any()
    encoded = dict(
        zip(rendered, _tokenize_with_offsets(list(rendered.values()), renderer), strict=True)
    )
    prompts = []
    for row in rows:
        if isinstance(row.content, Tokens):
            with findings.collect(row.source):
                prompts.append(_check_vocabulary(row.content.prompt, renderer.tokenizer))
            continue
        tokens = encoded[row.row_id][0]
        ends = len(tokens) > 1 and tokens[-1] == renderer.eos_id
        # Some tokenizers end what they encode; a prompt is to go on.
        prompts.append(tokens[:-1] if ends and not rendered[row.row_id].is_chat else tokens)
    findings.raise_if_any()
    return prompts


def prompt_tokens(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> dict[int, list[int]]:
    """The tokens of the rows' prompts by `row_id`; a row that asks nothing has none."""
    asking = [row for row in rows if row.has_prompt]
    prompts = tokenize_prompts(asking, Renderer(tokenizer))
    return {row.row_id: prompt for row, prompt in zip(asking, prompts, strict=True)}


def tokenize_prompt(prompt: str, tokenizer: PreTrainedTokenizerBase, *, as_chat: bool) -> list[int]:
    """The tokens of one prompt, as a plain string or as a user's message.

    Raises:
        UserError: for a chat without a chat template.
    """
    row = parse_row({"prompt": prompt}, source="prompt", row_id=0, as_chat=as_chat)
    return tokenize_prompts([row], Renderer(tokenizer))[0]


def tokenize_untruncated(
    rows: Sequence[Row], renderer: Renderer, *, loss_on: Literal["completion", "all"]
) -> Iterator[TokenizedRow]:
    """All rows as they are before truncation.

    They are rendered before the first is given out, so that every finding is told at once.
    """
    rows = _replace_foreign_tokens(rows, renderer)
    renderer.check_chat_template(rows)
    findings = ErrorCollector()
    rendered: list[RenderedText] = []
    exact: dict[int, TokenizedRow] = {}
    for row in rows:
        with findings.collect(row.source):
            if isinstance(row.content, Tokens):
                exact[row.row_id] = _wrap_exact_tokens(row.content, renderer.tokenizer)
            else:
                rendered.append(renderer.render(row.content))
    findings.raise_if_any()
    texts = _tokenize_rendered(rendered, renderer)
    for row in rows:
        encoded = exact.get(row.row_id) or next(texts)
        if loss_on == "all":
            encoded = replace(encoded, loss_mask=np.ones_like(encoded.loss_mask))
        yield encoded


def _replace_foreign_tokens(rows: Sequence[Row], renderer: Renderer) -> Sequence[Row]:
    """The rows, as text where their tokens are those of another tokenizer."""
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
    """Whether the tokens of an answer are what this tokenizer has for its text."""
    if max((*tokens.prompt, *tokens.completion), default=0) >= len(tokenizer):
        return False
    said = text.completion if isinstance(text, Text) else text.messages[-1]["content"]
    return tokenizer.decode(list(tokens.completion), skip_special_tokens=True) == said


def _wrap_exact_tokens(content: Tokens, tokenizer: PreTrainedTokenizerBase) -> TokenizedRow:
    known = _check_vocabulary((*content.prompt, *content.completion), tokenizer)
    tokens = np.array(known, dtype=np.int32)
    return TokenizedRow(tokens, np.arange(len(tokens)) >= len(content.prompt), None)


def _check_vocabulary(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    largest = max(tokens, default=0)
    if largest >= len(tokenizer):
        raise UserError(
            f"token {largest} is none of this tokenizer's {len(tokenizer)}. The tokens come "
            "from another one: roll out again, or give the row as text."
        )
    return list(tokens)


def _tokenize_rendered(
    rendered: Sequence[RenderedText], renderer: Renderer
) -> Iterator[TokenizedRow]:
    tokenizer = renderer.tokenizer
    added = tokenizer.added_tokens_decoder.items()
    special = [*tokenizer.all_special_ids, *(number for number, token in added if token.special)]
    waiting = iter(rendered)
    while chunk := list(islice(waiting, _CHUNK_ROWS)):
        for one, (tokens, offsets) in zip(
            chunk, _tokenize_with_offsets(chunk, renderer), strict=True
        ):
            yield _add_loss_mask(one, tokens, offsets, renderer.eos_id, special)


def _tokenize_with_offsets(
    rendered: Sequence[RenderedText], renderer: Renderer
) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Tokens and the characters behind each. Special tokens are added where no template did."""
    found: list[tuple[list[int], list[tuple[int, int]]]] = [([], [])] * len(rendered)
    bos = renderer.tokenizer.bos_token
    bare = [one.is_chat or bool(bos and one.text.startswith(str(bos))) for one in rendered]
    for is_bare in set(bare):
        places = [place for place, flag in enumerate(bare) if flag is is_bare]
        encoded = renderer.tokenizer(
            [rendered[place].text for place in places],
            add_special_tokens=not is_bare,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,  # it would warn of lengths, which are counted here
        )
        for number, place in enumerate(places):
            found[place] = (encoded["input_ids"][number], encoded["offset_mapping"][number])
    return found


def _add_loss_mask(
    rendered: RenderedText,
    token_ids: list[int],
    offsets: list[tuple[int, int]],
    eos: int | None,
    special_ids: Sequence[int],
) -> TokenizedRow:
    size, is_finished = len(rendered.text), all(turn.is_finished for turn in rendered.turns)
    if not rendered.is_chat and is_finished and eos is not None and token_ids[-1:] != [eos]:
        token_ids, offsets = [*token_ids, eos], [*offsets, (size, size)]
    tokens = np.array(token_ids, dtype=np.int32)
    starts, told = np.array(offsets, dtype=np.int64).reshape(-1, 2).T
    ends = _extend_ends(rendered.text, starts, told)
    is_special, is_eos = np.isin(tokens, special_ids), tokens == eos
    # A token of spaces alone, which some tokenizers leave out of their offsets, has a place, too.
    is_blank = (starts == ends) & ~is_special
    starts = np.where(is_blank, np.concatenate([[0], ends[:-1]]), starts)
    turn_ids = np.full(len(tokens), -1)
    for number, turn in enumerate(rendered.turns):
        inside = (ends > turn.loss_range[0]) & (starts < turn.loss_range[1]) & (ends > starts)
        if rendered.is_chat:
            # A turn is over with its first end; the template's line break after it is no answer.
            is_end = inside & is_eos
            inside &= np.cumsum(is_end) - is_end == 0
        elif turn.is_finished:
            inside[-1:] |= is_eos[-1:]
        turn_ids[inside] = number
    # What a template writes behind an answer that was broken off is not what came next.
    kept = slice(None) if is_finished else slice(len(tokens) - int(np.argmax(turn_ids[::-1] >= 0)))
    covered = TextOffsets(
        text=rendered.text,
        starts=char_to_byte_ends(rendered.text, starts)[kept],
        ends=char_to_byte_ends(rendered.text, ends)[kept],
        is_special=is_special[kept],
        turns=rendered.turns,
        turn_ids=turn_ids[kept],
        is_extended=(ends != told)[kept],
    )
    return TokenizedRow(tokens[kept], turn_ids[kept] >= 0, covered)


def _extend_ends(
    text: str, starts: Int[np.ndarray, " T"], ends: Int[np.ndarray, " T"]
) -> Int[np.ndarray, " T"]:
    """Where tokens end when those before a character that is in none take it.

    A tokenizer that composes an accent with its letter leaves it out of its offsets. Spaces that
    are left out are those of the token behind them.
    """
    size = len(text) + 1
    steps = np.bincount(starts, minlength=size) - np.bincount(ends, minlength=size)
    for place in np.flatnonzero(np.cumsum(steps)[:-1] == 0):
        if not text[place].isspace():
            ends = np.where((ends == place) & (ends > starts), place + 1, ends)
    return ends
