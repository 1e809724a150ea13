"""Rows beside themselves: what a teacher that reads otherwise than the student makes of them."""

import unicodedata
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from jaxdistill import align
from jaxdistill.data.examples import Counterpart, Covered, Encoded, byte_ends, kept
from jaxdistill.data.rows import ONE_TOKENIZER
from jaxdistill.data.templates import Templates
from jaxdistill.errors import UserError

_GAP = 64
"""How many bytes lie between two answers, so that a token which begins before the second one does
not reach into the first."""

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
        said: The byte where it ends.
        counts: Which are predicted parts of answers.
        ranks: The number of each in its answer, the ends of answers not counted, and those of
            later answers larger; -1 for what does not count.
        num_bytes: How long the learned text is in UTF-8.
        unknown: Why the tokenizer cannot read it.
    """

    tokens: Int[np.ndarray, " T"]
    loss_mask: Bool[np.ndarray, " T"]
    begins: Int[np.ndarray, " T"]
    said: Int[np.ndarray, " T"]
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
        begins, said = _said(encoded.tokens, encoded.covered, templates)
        counts = mask & (said[keep] >= 0)
        is_lost = _is_lost(encoded.tokens, encoded.covered, templates)[keep]
        unknown = _unknown(tokens[counts], is_lost[counts], templates)
        ranks = _ranks((said >= 0) & ~encoded.covered.is_special, encoded.covered.turn_ids)[keep]
        num_bytes = int(encoded.covered.token_bytes[keep][mask].sum())
        return cls(
            tokens=tokens,
            loss_mask=mask,
            begins=begins[keep],
            said=said[keep],
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


def _said(
    tokens: Int[np.ndarray, " T"], covered: Covered, templates: Templates
) -> tuple[Int[np.ndarray, " T"], Int[np.ndarray, " T"]]:
    """Where each token of an answer begins and ends, in bytes of all that the answers say.

    The mark that ends an answer counts as one byte more. What a template puts around an answer
    ends at -1, and so do all tokens of no answer; a token may begin before its answer does.
    """
    reached = _exact_ends(tokens, covered, templates)
    begins, said = np.concatenate([[0], reached[:-1]]), np.full(len(tokens), -1)
    before = 0
    for number, turn in enumerate(covered.turns):
        first, last = byte_ends(covered.text, np.array(turn.said))
        inside = np.flatnonzero(covered.turn_ids == number)
        begins[inside] += before - first
        is_said = inside[(reached[inside] > first) & (reached[inside] <= last)]
        said[is_said] = before + reached[is_said] - first
        before += last - first + 1
        mark = before
        before += _GAP
        if covered.is_special[inside[-1:]].any():
            said[inside[-1]] = mark
            begins[inside[-1]] = mark - 1
    return begins, said


def _exact_ends(
    tokens: Int[np.ndarray, " T"], covered: Covered, templates: Templates
) -> Int[np.ndarray, " T"]:
    """The byte that each token reaches, inside of characters, too.

    A tokenizer tells which characters a token has a part of, and not how much of them; its words
    do. Where they do not make up the text, because it was normalised, a part is the whole, and
    tokens with parts of one character end together. A space that SentencePiece puts before a text
    is no part of it.
    """
    data, parts = covered.text.encode(), _parts(tokens, covered, templates)
    whole = b"".join(parts)
    if whole not in (data, b" " + data):
        return _shared_ends(covered)
    added = len(whole) - len(data)
    return np.maximum(np.cumsum([len(part) for part in parts], dtype=np.int64) - added, 0)


def _parts(tokens: Int[np.ndarray, " T"], covered: Covered, templates: Templates) -> list[bytes]:
    """What each token says; a mark, which says nothing, the text that it stands for."""
    data, words = covered.text.encode(), templates.token_bytes
    begins = np.concatenate([[0], covered.ends[:-1]])
    return [
        word if (word := words[token]) is not None else data[begin:end]
        for token, begin, end in zip(tokens, begins, covered.ends, strict=True)
    ]


def _shared_ends(covered: Covered) -> Int[np.ndarray, " T"]:
    """The byte that each token reaches, or those behind it that have a part of its characters."""
    ends = covered.ends.copy()
    for place in reversed(np.flatnonzero(covered.begins[1:] < ends[:-1])):
        ends[place] = ends[place + 1]
    return ends


def _groups(student: "_Side", teacher: "_Side", alignment: align.Alignment) -> align.Groups:
    if alignment.by == "positions":
        return align.positions(student.ranks, teacher.ranks)
    found = align.spans(
        *(align.Extents(s.begins[s.counts], s.said[s.counts]) for s in (student, teacher))
    )
    groups = align.Groups(
        *(_spread(n, side.counts) for n, side in zip(found, (student, teacher), strict=True))
    )
    return groups.at(alignment.at)


def _is_lost(
    tokens: Int[np.ndarray, " T"], covered: Covered, templates: Templates
) -> Bool[np.ndarray, " T"]:
    """Which tokens stand before characters that no token stands for.

    A character that is in none may be a part of the token before it all the same, as an accent is
    that was composed with its letter, or of one further on, as of two accents that changed places:
    the words of the tokens tell.
    """
    data, is_lost = covered.text.encode(), np.zeros(len(tokens), dtype=bool)
    if not covered.is_stretched.any():
        return is_lost
    # A mark stands for whatever it was given, and so would hide what is lost behind it.
    is_mark = [templates.token_bytes[token] is None for token in tokens[covered.is_stretched]]
    whole = b"".join(_parts(tokens, covered, templates))
    if not any(is_mark) and _composed(whole) == _composed(data):
        return is_lost
    for end in np.unique(covered.ends[covered.is_stretched]):
        at = np.flatnonzero(covered.is_stretched & (covered.ends == end))
        said = b"".join(templates.token_bytes[token] or b"" for token in tokens[at])
        is_lost[at] = _composed(said) != _composed(data[covered.begins[at].min() : end])
    return is_lost


def _composed(text: bytes) -> str:
    return unicodedata.normalize("NFKC", text.decode(errors="replace")).strip()


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
