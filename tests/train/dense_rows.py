"""Rows as two models of `transformers` read them, and the positions that objectives compare.

Nothing of `jaxdistill` is used in the `dense_*.py` files. A row is tokenized and read alone, each
span is a pair of lists, and each formula stands as in `docs/methods.md` and the papers. A formula
is a function `(objective, rows) -> values`: the loss under the name "", and its terms and
diagnostics under theirs.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import transformers

Values = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Model:
    """A model in float64, its tokenizer, and the bytes of its tokens (None: special token)."""

    folder: Path

    @cached_property
    def network(self) -> Any:
        network = transformers.AutoModelForCausalLM.from_pretrained(self.folder)
        return network.to(torch.float64)

    @cached_property
    def tokenizer(self) -> Any:
        return transformers.AutoTokenizer.from_pretrained(self.folder)

    @cached_property
    def token_bytes(self) -> list[bytes | None]:
        tokens = [""] * len(self.tokenizer)
        for token, token_id in self.tokenizer.get_vocab().items():
            tokens[token_id] = token
        is_byte_level = "Ġ" in tokens
        special = {i for i, t in self.tokenizer.added_tokens_decoder.items() if t.special}
        decode = byte_level_bytes if is_byte_level else sentencepiece_bytes
        return [None if i in special else decode(token) for i, token in enumerate(tokens)]

    @cached_property
    def text_bytes(self) -> list[bytes | None]:
        """`token_bytes`, with None for `<0x41>` where another token is `A`: no text has it."""
        names = self.tokenizer.convert_ids_to_tokens(range(len(self.tokenizer)))
        is_fallback = [re.fullmatch("<0x..>", name) is not None for name in names]
        spelt = {b for b, skip in zip(self.token_bytes, is_fallback, strict=True) if not skip}
        return [
            None if skip and b in spelt else b
            for b, skip in zip(self.token_bytes, is_fallback, strict=True)
        ]

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """First token of each byte string."""
        return {b: i for i, b in reversed(list(enumerate(self.text_bytes))) if b is not None}

    @property
    def eos_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def lm_head(self) -> torch.Tensor:
        return self.network.lm_head.weight[: len(self.tokenizer)]

    @property
    def embedding(self) -> torch.Tensor:
        return self.network.model.embed_tokens.weight.detach()


def byte_level_bytes(token: str) -> bytes:
    """Bytes of a GPT-2 token: printable Latin-1 stands for itself, other bytes from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet |= {chr(256 + index): byte for index, byte in enumerate(others)}
    return bytes(alphabet[character] for character in token)


def sentencepiece_bytes(token: str) -> bytes:
    if match := re.fullmatch("<0x(..)>", token):
        return bytes.fromhex(match[1])
    return token.replace("▁", " ").encode()


@dataclass(frozen=True)
class Side:
    """One row as one model reads it; index i is the position that predicts `labels[i]`."""

    tokens: list[int]
    labels: list[int]
    ends: list[int]
    """Byte of the completion where each label ends; 0 or less in the prompt."""
    scored: list[int]
    hidden: torch.Tensor
    logits: torch.Tensor

    @property
    def log_probs(self) -> torch.Tensor:
        return self.logits.log_softmax(-1)


def read_row(model: Model, prompt: str, completion: str) -> Side:
    """Tokenize a row, append the end-of-text token and compute its logits."""
    ids = model.tokenizer(prompt + completion)["input_ids"]
    ids = ids if ids[-1] == model.eos_id else [*ids, model.eos_id]
    sizes = [len(model.token_bytes[i] or b"") for i in ids]
    assert b"".join(model.token_bytes[i] or b"" for i in ids) == (prompt + completion).encode()
    ends = [sum(sizes[: n + 1]) - len(prompt.encode()) for n in range(len(ids))]
    assert 0 in ends, "a token lies in prompt and completion"
    scored = [n - 1 for n in range(1, len(ids)) if ends[n] > 0]
    hidden = model.network.model(torch.tensor([ids[:-1]])).last_hidden_state[0]
    return Side(ids[:-1], ids[1:], ends[1:], scored, hidden, hidden @ model.lm_head.T)


@dataclass(frozen=True)
class Position:
    """Logits of both models at one compared position, and log-probabilities of its span.

    `prefix` is the log-probability of the earlier labels of the span, `span` that of all its
    labels, `following` the logits after the span (None at the end of the row).
    """

    p_logits: torch.Tensor
    q_logits: torch.Tensor
    p_prefix: torch.Tensor
    q_prefix: torch.Tensor
    p_span: torch.Tensor
    q_span: torch.Tensor
    p_following: torch.Tensor | None
    q_following: torch.Tensor | None


@dataclass(frozen=True)
class Rows:
    """All rows of a step, read by both models, and the modules of objectives by name."""

    student: Model
    teacher: Model
    pairs: list[tuple[Side, Side]]
    """`(student, teacher)` of each row."""
    modules: dict[str, Any] = field(default_factory=dict)

    @property
    def has_one_tokenizer(self) -> bool:
        return self.student.token_bytes == self.teacher.token_bytes

    @property
    def num_scored(self) -> int:
        return sum(len(student.scored) for student, _ in self.pairs)


def byte_spans(rows: Rows, student: Side, teacher: Side) -> list[tuple[list[int], list[int]]]:
    """Smallest spans of labels that end on the same byte; the end-of-text token is one, too."""
    if rows.has_one_tokenizer:
        return [([index], [index]) for index in student.scored]
    text = [side.scored[:-1] for side in (student, teacher)]  # without the end-of-text token
    ends = [
        {side.ends[n] for n in part} for side, part in zip((student, teacher), text, strict=True)
    ]
    spans = []
    for start, end in pairwise([0, *sorted(ends[0] & ends[1])]):
        members = [
            [n for n in part if start < side.ends[n] <= end]
            for side, part in zip((student, teacher), text, strict=True)
        ]
        spans.append((members[0], members[1]))
    return [*spans, (student.scored[-1:], teacher.scored[-1:])]


def equal_positions(rows: Rows, student: Side, teacher: Side) -> list[tuple[list[int], list[int]]]:
    """The n-th token of the completion's text beside the n-th.

    With one tokenizer all labels correspond, the end-of-text token among them.
    """
    if rows.has_one_tokenizer:
        return byte_spans(rows, student, teacher)
    return [([i], [j]) for i, j in zip(student.scored[:-1], teacher.scored[:-1], strict=False)]


def compare(student: Side, teacher: Side, span: tuple[list[int], list[int]], at: int) -> Position:
    """Read both sides of a span at its last (-1) or first (0) label."""
    logits, prefixes, totals, following = [], [], [], []
    for side, labels in zip((teacher, student), (span[1], span[0]), strict=True):
        chosen = torch.stack([side.log_probs[n, side.labels[n]] for n in labels])
        logits.append(side.logits[labels[at]])
        prefixes.append(chosen[:-1].sum())
        totals.append(chosen.sum())
        last = labels[-1] + 1
        following.append(side.logits[last] if last < len(side.labels) else None)
    return Position(*logits, *prefixes, *totals, *following)


def mean_over(
    rows: Rows,
    value: Callable[[Position], torch.Tensor],
    *,
    average: str = "groups",
    at: int = -1,
    spans: Callable[..., Any] = byte_spans,
    only_single_tokens: bool = False,
) -> torch.Tensor:
    """Mean of a value over spans (`groups`), or over rows of their means over spans (`rows`)."""
    means, counts = [], []
    for student, teacher in rows.pairs:
        chosen = spans(rows, student, teacher)
        if only_single_tokens:
            chosen = [span for span in chosen if len(span[0]) == len(span[1]) == 1]
        values = torch.stack([value(compare(student, teacher, span, at)) for span in chosen])
        means.append(values.mean())
        counts.append(len(chosen))
    weights = torch.tensor(counts, dtype=torch.float64)
    if average == "rows":
        weights = torch.ones_like(weights)
    return (weights * torch.stack(means)).sum() / weights.sum()
