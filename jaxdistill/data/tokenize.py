"""From rows to token sequences, each token with whether it is learned."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Literal

import numpy as np
from jaxtyping import Int
from transformers import PreTrainedTokenizerBase

from jaxdistill.data.examples import Counts, Covered, Encoded, Example, truncated
from jaxdistill.data.rows import Row, Tokens, parse
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
) -> tuple[list[Example], Counts]:
    """Tokenise rows that have answers.

    Args:
        rows: The rows.
        templates: How the tokenizer wants them.
        loss_on: Whether the answers are learned, or everything.
        length: How many places a row may take.
        truncation: What becomes of a longer one.

    Raises:
        UserError: for rows that the chat template or the vocabulary does not allow.
    """
    templates.check(rows)
    examples: list[Example] = []
    counts = Counts()
    for row, encoded in zip(rows, encode_whole(rows, templates, loss_on=loss_on), strict=True):
        example, counted = truncated(row, encoded, templates.tokenizer, length, truncation)
        counts += counted
        if example is not None:
            examples.append(example)
    return examples, counts


def encode_prompts(rows: Sequence[Row], templates: Templates) -> list[list[int]]:
    """The tokens that a teacher is to continue, for each row."""
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
    size = len(rendered.text)
    if not rendered.is_chat and eos is not None and ids[-1:] != [eos]:
        ids, offsets = [*ids, eos], [*offsets, (size, size)]
    tokens = np.array(ids, dtype=np.int32)
    starts, ends = np.array(offsets, dtype=np.int64).reshape(-1, 2).T
    mask = np.zeros(len(tokens), dtype=bool)
    for start, end in rendered.spans:
        inside = (ends > start) & (starts < end) & (ends > starts)
        if rendered.is_chat:
            # A turn is over with its first end; the template's line break after it is no answer.
            is_end = inside & (tokens == eos)
            inside &= np.cumsum(is_end) - is_end == 0
        mask |= inside
    if not rendered.is_chat and ids[-1:] == [eos]:
        mask[-1] = True
    covered = Covered(rendered.text, _byte_ends(rendered.text, ends), np.isin(tokens, special))
    return Encoded(tokens, mask, covered)


def _byte_ends(text: str, ends: Int[np.ndarray, " T"]) -> Int[np.ndarray, " T"]:
    """The byte of UTF-8 that each token reaches, from the characters where they end.

    Tokens that share a character (pieces of an emoji) have the same end, so it is counted once;
    spaces that a tokenizer leaves out of its offsets count for the token after them.
    """
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    widths = 1 + (points > 0x7F) + (points > 0x7FF) + (points > 0xFFFF)
    bytes_before = np.concatenate([[0], np.cumsum(widths)])
    return bytes_before[np.maximum.accumulate(ends)] if len(ends) else ends
