"""From rows to token sequences, each token with whether it is learned."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, repeat
from typing import Literal

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from jaxdistill.data.beside import Beside
from jaxdistill.data.examples import (
    Counterpart,
    Counts,
    Covered,
    Encoded,
    Example,
    byte_ends,
    truncated,
)
from jaxdistill.data.rows import Chat, Row, Text, Tokens, for_teacher
from jaxdistill.data.shapes import parse
from jaxdistill.data.templates import Rendered, Templates
from jaxdistill.errors import Findings, UserError

_CHUNK_ROWS = 1000


def encode(
    rows: Sequence[Row],
    templates: Templates,
    *,
    loss_on: Literal["completion", "all"],
    length: int,
    truncation: Literal["cut_end", "cut_start", "drop"],
    beside: Beside | None = None,
) -> tuple[list[Example], Counts]:
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
    counts = Counts()
    mine = encode_whole(rows, templates, loss_on=loss_on)
    theirs = repeat(None)
    if beside is not None and beside.alignment is not None:
        theirs = encode_whole([for_teacher(row) for row in rows], beside.templates, loss_on=loss_on)
    findings = Findings()
    for row, encoded, other in zip(rows, mine, theirs, strict=False):
        example, counted = truncated(row, encoded, templates.tokenizer, length, truncation)
        if example is not None and beside is not None and other is not None:
            with findings.collect(row.place):
                found = beside.counterpart(encoded, other, templates, length, truncation)
                if not (isinstance(found, str) and beside.unpaired == "keep"):
                    example, counted = _with_counterpart(example, counted, found)
        counts += counted
        if example is not None:
            examples.append(example)
    findings.raise_any()
    return examples, counts


def _with_counterpart(
    example: Example, counted: Counts, found: Counterpart | Literal["too long", "unpaired"]
) -> tuple[Example | None, Counts]:
    """An example with what the teacher reads of it, or the count of a row that has to go."""
    if found == "too long":
        return None, Counts(rows=1, dropped_rows=1)
    if found == "unpaired":
        return None, Counts(rows=1, unpaired_rows=1)
    return replace(example, counterpart=found), replace(
        counted,
        truncated_rows=max(counted.truncated_rows, int(found.is_cut)),
        groups=int((found.weight > 0).sum()),
    )


def encode_prompts(rows: Sequence[Row], templates: Templates) -> list[list[int]]:
    """The tokens that a teacher is to continue, for each row."""
    rows = _readable(rows, templates)
    templates.check(rows)
    rendered: dict[int, Rendered] = {}
    findings = Findings()
    for row in rows:
        if not isinstance(row.content, Tokens):
            with findings.collect(row.place):
                rendered[row.row_id] = templates.render_prompt(row.content)
    findings.raise_any()
    encoded = dict(zip(rendered, _tokenize(list(rendered.values()), templates), strict=True))
    prompts = []
    for row in rows:
        if isinstance(row.content, Tokens):
            with findings.collect(row.place):
                prompts.append(_known(row.content.prompt, templates.tokenizer))
            continue
        tokens = encoded[row.row_id][0]
        ends = len(tokens) > 1 and tokens[-1] == templates.eos
        # Some tokenizers end what they encode; a prompt is to go on.
        prompts.append(tokens[:-1] if ends and not rendered[row.row_id].is_chat else tokens)
    findings.raise_any()
    return prompts


def prompt_tokens(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> dict[int, list[int]]:
    """The tokens of the rows' prompts by `row_id`; a row that asks nothing has none."""
    asking = [row for row in rows if row.has_prompt]
    prompts = encode_prompts(asking, Templates(tokenizer))
    return {row.row_id: prompt for row, prompt in zip(asking, prompts, strict=True)}


def render_prompt(prompt: str, tokenizer: PreTrainedTokenizerBase, *, as_chat: bool) -> list[int]:
    """The tokens of one prompt, as a plain string or as a user's message.

    Raises:
        UserError: for a chat without a chat template.
    """
    row = parse({"prompt": prompt}, place="prompt", row_id=0, as_chat=as_chat)
    return encode_prompts([row], Templates(tokenizer))[0]


def encode_whole(
    rows: Sequence[Row], templates: Templates, *, loss_on: Literal["completion", "all"]
) -> Iterator[Encoded]:
    """All rows as they are before truncation.

    They are rendered before the first is given out, so that every finding is told at once.
    """
    rows = _readable(rows, templates)
    templates.check(rows)
    findings = Findings()
    rendered: list[Rendered] = []
    exact: dict[int, Encoded] = {}
    for row in rows:
        with findings.collect(row.place):
            if isinstance(row.content, Tokens):
                exact[row.row_id] = _from_tokens(row.content, templates.tokenizer)
            else:
                rendered.append(templates.render(row.content))
    findings.raise_any()
    texts = _from_texts(rendered, templates)
    for row in rows:
        encoded = exact.get(row.row_id) or next(texts)
        if loss_on == "all":
            encoded = replace(encoded, loss_mask=np.ones_like(encoded.loss_mask))
        yield encoded


def _readable(rows: Sequence[Row], templates: Templates) -> Sequence[Row]:
    """The rows, as text where their tokens are those of another tokenizer."""
    return [
        replace(row, content=row.content.text)
        if isinstance(row.content, Tokens)
        and row.content.text is not None
        and not _says(row.content, row.content.text, templates.tokenizer)
        else row
        for row in rows
    ]


def _says(tokens: Tokens, text: Text | Chat, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokens of an answer are what this tokenizer has for its text."""
    if max((*tokens.prompt, *tokens.completion), default=0) >= len(tokenizer):
        return False
    said = text.completion if isinstance(text, Text) else text.messages[-1]["content"]
    return tokenizer.decode(list(tokens.completion), skip_special_tokens=True) == said


def _from_tokens(content: Tokens, tokenizer: PreTrainedTokenizerBase) -> Encoded:
    known = _known((*content.prompt, *content.completion), tokenizer)
    tokens = np.array(known, dtype=np.int32)
    return Encoded(tokens, np.arange(len(tokens)) >= len(content.prompt), None)


def _known(tokens: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    largest = max(tokens, default=0)
    if largest >= len(tokenizer):
        raise UserError(
            f"token {largest} is none of this tokenizer's {len(tokenizer)}. The tokens come "
            "from another one: roll out again, or give the row as text."
        )
    return list(tokens)


def _from_texts(rendered: Sequence[Rendered], templates: Templates) -> Iterator[Encoded]:
    tokenizer = templates.tokenizer
    added = tokenizer.added_tokens_decoder.items()
    special = [*tokenizer.all_special_ids, *(number for number, token in added if token.special)]
    waiting = iter(rendered)
    while chunk := list(islice(waiting, _CHUNK_ROWS)):
        for one, (tokens, offsets) in zip(chunk, _tokenize(chunk, templates), strict=True):
            yield _scored(one, tokens, offsets, templates.eos, special)


def _tokenize(
    rendered: Sequence[Rendered], templates: Templates
) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Tokens and the characters behind each. Special tokens are added where no template did."""
    found: list[tuple[list[int], list[tuple[int, int]]]] = [([], [])] * len(rendered)
    bos = templates.tokenizer.bos_token
    bare = [one.is_chat or bool(bos and one.text.startswith(str(bos))) for one in rendered]
    for is_bare in set(bare):
        places = [place for place, flag in enumerate(bare) if flag is is_bare]
        encoded = templates.tokenizer(
            [rendered[place].text for place in places],
            add_special_tokens=not is_bare,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,  # it would warn of lengths, which are counted here
        )
        for number, place in enumerate(places):
            found[place] = (encoded["input_ids"][number], encoded["offset_mapping"][number])
    return found


def _scored(
    rendered: Rendered,
    ids: list[int],
    offsets: list[tuple[int, int]],
    eos: int | None,
    special: Sequence[int],
) -> Encoded:
    size, is_finished = len(rendered.text), all(turn.is_finished for turn in rendered.turns)
    if not rendered.is_chat and is_finished and eos is not None and ids[-1:] != [eos]:
        ids, offsets = [*ids, eos], [*offsets, (size, size)]
    tokens = np.array(ids, dtype=np.int32)
    starts, told = np.array(offsets, dtype=np.int64).reshape(-1, 2).T
    ends = _with_left_out(rendered.text, starts, told)
    is_special, is_eos = np.isin(tokens, special), tokens == eos
    # A token of spaces alone, which some tokenizers leave out of their offsets, has a place, too.
    is_blank = (starts == ends) & ~is_special
    starts = np.where(is_blank, np.concatenate([[0], ends[:-1]]), starts)
    turn_ids = np.full(len(tokens), -1)
    for number, turn in enumerate(rendered.turns):
        inside = (ends > turn.learned[0]) & (starts < turn.learned[1]) & (ends > starts)
        if rendered.is_chat:
            # A turn is over with its first end; the template's line break after it is no answer.
            is_end = inside & is_eos
            inside &= np.cumsum(is_end) - is_end == 0
        elif turn.is_finished:
            inside[-1:] |= is_eos[-1:]
        turn_ids[inside] = number
    # What a template writes behind an answer that was broken off is not what came next.
    kept = slice(None) if is_finished else slice(len(tokens) - int(np.argmax(turn_ids[::-1] >= 0)))
    covered = Covered(
        text=rendered.text,
        begins=byte_ends(rendered.text, starts)[kept],
        ends=byte_ends(rendered.text, ends)[kept],
        is_special=is_special[kept],
        turns=rendered.turns,
        turn_ids=turn_ids[kept],
        is_stretched=(ends != told)[kept],
    )
    return Encoded(tokens[kept], turn_ids[kept] >= 0, covered)


def _with_left_out(
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
