"""What a model pays for each word, whatever tokens it reads it in, and where it pays too much."""

import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdistill.evals.bootstrap import Estimate, difference, ratio

_FREQUENCY_BINS = (
    ("words that occur once", 1, 1),
    ("words that occur 2 to 9 times", 2, 9),
    ("words that occur 10 to 99 times", 10, 99),
    ("words that occur 100 times or more", 100, None),
)
_POSITION_BINS = (
    ("words 1 to 4 of an answer", 1, 4),
    ("words 5 to 16 of an answer", 5, 16),
    ("words 17 to 64 of an answer", 17, 64),
    ("words from the 65th on", 65, None),
)


def sum_nats_by_word(
    token_nats: Float[np.ndarray, " N"],
    token_ends: Int[np.ndarray, " N"],
    word_ends: Int[np.ndarray, " W"],
) -> Float[np.ndarray, " W"]:
    """The nats of each word of a text.

    A token that covers several words is shared out among them by its bytes, so that nothing is
    counted twice and nothing is lost.

    Args:
        nats: Of each token, in order.
        token_ends: The byte that each token reaches; tokens that share a character reach the same.
        word_ends: The byte where each word ends.
    """
    spent = np.cumsum(token_nats)
    ends = np.unique(token_ends[token_ends > 0])
    last = np.searchsorted(token_ends, ends, side="right") - 1
    paid = np.interp(word_ends, np.append(0, ends), np.append(0.0, spent[last]))
    return np.diff(paid, prepend=0.0)


@dataclass(frozen=True)
class WordTable:
    """The scored words of several rows, one an entry.

    Attributes:
        rows: The number of its row.
        num_bytes: Its length in UTF-8, with the spaces before it.
        counts: How often it occurs in all of them, whatever its case and punctuation.
        positions: Its place in its row, from 1.
        lengths: How many words its row has.
    """

    example_indices: Int[np.ndarray, " W"]
    num_bytes: Int[np.ndarray, " W"]
    frequencies: Int[np.ndarray, " W"]
    word_indices: Int[np.ndarray, " W"]
    num_words_in_example: Int[np.ndarray, " W"]


def make_word_table(
    words_by_example: Sequence[Sequence[str]], ends_by_example: Sequence[Int[np.ndarray, " _"]]
) -> WordTable:
    """The words of rows.

    Args:
        texts: The words of each row.
        ends: The byte where each of them ends.
    """
    sizes = np.array([len(row) for row in words_by_example])
    plain = [_normalise_word(word) for row in words_by_example for word in row]
    counted = Counter(plain)
    return WordTable(
        example_indices=np.repeat(np.arange(len(words_by_example)), sizes),
        num_bytes=np.concatenate([np.diff(row, prepend=0) for row in ends_by_example]),
        frequencies=np.array([counted[word] for word in plain]),
        word_indices=np.concatenate([np.arange(1, size + 1) for size in sizes]),
        num_words_in_example=np.repeat(sizes, sizes),
    )


@dataclass(frozen=True)
class WordBin:
    """Some of the words.

    Attributes:
        breakdown: What they are told apart by: "frequency", "position" or "length".
        label: Which they are, as a person says it.
        members: Which they are, in the table.
    """

    breakdown: str
    label: str
    mask: Bool[np.ndarray, " W"]


def make_word_bins(table: WordTable) -> list[WordBin]:
    """The words by how frequent they are, where they stand, and how long their answer is.

    Each breakdown has every word once; bins without any are left out.
    """
    found = [WordBin("frequency", *one) for one in _make_masks(table.frequencies, _FREQUENCY_BINS)]
    found += [WordBin("position", *one) for one in _make_masks(table.word_indices, _POSITION_BINS)]
    found += [
        WordBin("length", *one)
        for one in _make_masks(table.num_words_in_example, _answer_length_bins(table))
    ]
    return [one for one in found if one.mask.any()]


def bits_per_byte(
    table: WordTable, mask: Bool[np.ndarray, " W"], word_nats: Float[np.ndarray, " W"]
) -> Estimate:
    """What the words of a bin cost, with an interval over the rows that have any."""
    return ratio(*_bits_and_bytes_by_example(table, mask, word_nats))


def extra_bits_per_byte(
    table: WordTable,
    mask: Bool[np.ndarray, " W"],
    word_nats: Float[np.ndarray, " W"],
    baseline_nats: Float[np.ndarray, " W"],
    *,
    level: float = 0.95,
) -> Estimate:
    """The bits per byte of a bin that `nats` has more than `other`, rows paired."""
    both = (
        _bits_and_bytes_by_example(table, mask, word_nats),
        _bits_and_bytes_by_example(table, mask, baseline_nats),
    )
    return difference(*both, level=level)


def _bits_and_bytes_by_example(
    table: WordTable, mask: Bool[np.ndarray, " W"], word_nats: Float[np.ndarray, " W"]
) -> tuple[Float[np.ndarray, "1 R"], Float[np.ndarray, "1 R"]]:
    _, row_of = np.unique(table.example_indices[mask], return_inverse=True)
    bits = np.bincount(row_of, weights=word_nats[mask] / np.log(2))
    return bits[None], np.bincount(row_of, weights=table.num_bytes[mask])[None]


def _make_masks(
    values: Int[np.ndarray, " W"], labelled_ranges: Sequence[tuple[str, int, int | None]]
) -> list[tuple[str, Bool[np.ndarray, " W"]]]:
    return [
        (label, (values >= low) & (values <= (np.inf if high is None else high)))
        for label, low, high in labelled_ranges
    ]


def _answer_length_bins(table: WordTable) -> list[tuple[str, int, int | None]]:
    """Short, middling and long answers: a third of the rows each, as far as that goes."""
    by_row = table.num_words_in_example[np.unique(table.example_indices, return_index=True)[1]]
    short, middling = np.quantile(by_row, [1 / 3, 2 / 3], method="lower").tolist()
    start = "" if short + 1 == middling else f"{short + 1} to "
    return [
        (f"answers of up to {_pluralize_words(short)}", 1, short),
        (f"answers of {start}{_pluralize_words(middling)}", short + 1, middling),
        (f"answers of more than {_pluralize_words(middling)}", middling + 1, None),
    ]


def _pluralize_words(count: int) -> str:
    return "1 word" if count == 1 else f"{count} words"


def _normalise_word(word: str) -> str:
    return word.strip(string.punctuation + "“”‘’…–—").casefold() or word
