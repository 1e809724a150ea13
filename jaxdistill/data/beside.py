"""Rows beside themselves: what a teacher that reads otherwise than the student makes of them."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from jaxdistill import align
from jaxdistill.data.examples import Counterpart, Covered, Encoded, kept
from jaxdistill.data.rows import ONE_TOKENIZER
from jaxdistill.data.said import said
from jaxdistill.data.templates import Templates
from jaxdistill.errors import UserError

_MOST = 2**32
"""More words than any answer has."""


@dataclass(frozen=True)
class Beside:
    """A teacher that reads the rows of a run otherwise than the student.

    Its tokenizer is another, or there are rows with a `teacher_prompt`. Only answers are compared,
    so what is asked before them may differ.

    Attributes:
        templates: How its tokenizer wants rows.
        alignment: Which tokens are compared; None where nothing is, and it only writes answers.
        unpaired: What becomes of a row of which nothing can be: it is dropped, refused, or kept
            without what the teacher reads of it.
    """

    templates: Templates
    alignment: align.Alignment | None
    unpaired: Literal["drop", "refuse", "keep"] = "drop"

    def counterpart(
        self,
        mine: Encoded,
        theirs: Encoded,
        templates: Templates,
        length: int,
        truncation: Literal["cut_end", "cut_start", "drop"],
    ) -> Counterpart | Literal["too long", "unpaired"]:
        """A row in the teacher's tokens, or why it is dropped.

        Args:
            mine: The row as the student reads it.
            theirs: As the teacher reads it.
            templates: The student's.
            length: How many places it may take on either side.
            truncation: What becomes of a longer one.

        Raises:
            UserError: for a row that is refused, or holds exact tokens.
        """
        assert self.alignment is not None, "nothing is compared"
        is_cut = len(theirs.tokens) > length + 1
        if is_cut and truncation == "drop":
            return "too long"
        mine, theirs = _alike(mine, theirs)
        student = _Side.of(mine, kept(mine, length, truncation), templates)
        teacher = _Side.of(theirs, kept(theirs, length, truncation), self.templates)
        if is_cut and not teacher.counts.any():
            return "too long"
        groups = _groups(student, teacher, self.alignment)
        reason = student.unknown or teacher.unknown
        if reason is None and not (groups.student >= 0).any():
            reason = "no part of its answer is read by both tokenizers"
        if reason is None:
            return _counterpart(student, teacher, groups, self.alignment, is_cut)
        if self.unpaired == "refuse":
            raise UserError(
                f"{reason}, so that it cannot be compared. Take it out, or set "
                "`data.unpaired=drop`."
            )
        return "unpaired"


def _alike(mine: Encoded, theirs: Encoded) -> tuple[Encoded, Encoded]:
    """Both sides with answers that say the same.

    Where one side is plain and the other a chat, the spaces around an answer are on one side only.
    """
    if mine.covered is None or theirs.covered is None:
        return mine, theirs
    if _answers(mine.covered) == _answers(theirs.covered):
        return mine, theirs
    return (
        replace(mine, covered=_trimmed(mine.covered)),
        replace(theirs, covered=_trimmed(theirs.covered)),
    )


def _answers(covered: Covered) -> list[str]:
    return [covered.text[slice(*turn.said)] for turn in covered.turns]


def _trimmed(covered: Covered) -> Covered:
    """Its answers without the spaces around them."""
    turns = []
    for turn, answer in zip(covered.turns, _answers(covered), strict=True):
        start = turn.said[1] - len(answer.lstrip())
        turns.append(turn._replace(said=(start, start + len(answer.strip()))))
    return replace(covered, turns=tuple(turns))


@dataclass(frozen=True)
class _Side:
    """What is left of a row on one side.

    Attributes:
        tokens: Its tokens.
        loss_mask: Which are learned.
        begins: The byte where each begins, of all that the answers say.
        ends: The byte where it ends; -1 for what is no part of an answer.
        counts: Which are predicted parts of answers.
        ranks: The number of each in its answer, the ends of answers not counted, and those of
            later answers larger; -1 for what does not count.
        num_bytes: How long the learned text is in UTF-8.
        unknown: Why the tokenizer cannot read it.
    """

    tokens: Int[np.ndarray, " T"]
    loss_mask: Bool[np.ndarray, " T"]
    begins: Int[np.ndarray, " T"]
    ends: Int[np.ndarray, " T"]
    counts: Bool[np.ndarray, " T"]
    ranks: Int[np.ndarray, " T"]
    num_bytes: int
    unknown: str | None

    @classmethod
    def of(cls, encoded: Encoded, keep: slice, templates: Templates) -> "_Side":
        if encoded.covered is None:
            raise UserError(ONE_TOKENIZER)
        tokens, mask = encoded.tokens[keep], encoded.loss_mask[keep].copy()
        mask[:1] = False  # nothing predicts the first
        words = [templates.token_bytes[token] for token in encoded.tokens]
        found = said(words, encoded.covered)
        is_said = found.ends >= 0
        counts = mask & is_said[keep]
        unknown = _unknown(tokens[counts], found.is_lost[keep][counts], templates)
        ranks = _ranks(is_said & ~encoded.covered.is_special, encoded.covered.turn_ids)[keep]
        num_bytes = int(encoded.covered.token_bytes[keep][mask].sum())
        return cls(
            tokens=tokens,
            loss_mask=mask,
            begins=found.begins[keep],
            ends=found.ends[keep],
            counts=counts,
            ranks=np.where(counts, ranks, -1),
            num_bytes=num_bytes,
            unknown=unknown,
        )


def _ranks(
    is_word: Bool[np.ndarray, " T"], turn_ids: Int[np.ndarray, " T"]
) -> Int[np.ndarray, " T"]:
    """The number of each word in its answer, and `_MOST` more in each answer after it."""
    turns = turn_ids[is_word]
    ranks = np.full(len(is_word), -1)
    ranks[is_word] = turns * _MOST + np.arange(len(turns)) - np.searchsorted(turns, turns)
    return ranks


def _groups(student: "_Side", teacher: "_Side", alignment: align.Alignment) -> align.Groups:
    if alignment.by == "positions":
        return align.positions(student.ranks, teacher.ranks)
    found = align.spans(
        *(align.Extents(s.begins[s.counts], s.ends[s.counts]) for s in (student, teacher))
    )
    groups = align.Groups(
        *(_spread(n, side.counts) for n, side in zip(found, (student, teacher), strict=True))
    )
    return groups.at(alignment.at)


def _unknown(
    tokens: Int[np.ndarray, " T"], is_lost: Bool[np.ndarray, " T"], templates: Templates
) -> str | None:
    unknown = templates.tokenizer.unk_token_id
    is_unknown = unknown is not None and unknown != templates.eos and unknown in tokens
    if not is_unknown and not is_lost.any():
        return None
    return f"tokenizer `{templates.name}` has no token for a part of its answer"


def _counterpart(
    student: _Side,
    teacher: _Side,
    groups: align.Groups,
    alignment: align.Alignment,
    is_cut: bool,
) -> Counterpart:
    ends = np.zeros(groups.student.max() + 1, dtype=np.int64)
    is_grouped = groups.student >= 0
    ends[groups.student[is_grouped]] = np.flatnonzero(is_grouped)  # the last of a group stays
    weight = np.zeros(len(student.tokens), dtype=np.float32)
    weight[ends] = 1 if alignment.average == "groups" else 1 / len(ends)
    student_groups, teacher_groups = (np.where(n >= 0, ends[n], -1) for n in groups)
    return Counterpart(
        tokens=teacher.tokens,
        loss_mask=teacher.loss_mask,
        teacher_groups=teacher_groups,
        student_groups=student_groups,
        weight=weight,
        num_bytes=teacher.num_bytes,
        is_cut=is_cut,
    )


def _spread(
    numbers: Int[np.ndarray, " N"], counts: Bool[np.ndarray, " T"]
) -> Int[np.ndarray, " T"]:
    """The numbers of the tokens that count, and -1 for the others."""
    found = np.full(len(counts), -1)
    found[counts] = numbers
    return found
