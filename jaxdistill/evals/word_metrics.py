"""Bits per word and per bin of words, comparable between models of different tokenizers."""

import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxdistill.evals.bootstrap import Estimate, RatioTerms, difference, ratio

_FREQUENCY_BINS = (
    ("words that occur once", 1, 1),
    ("words that occur 2 to 9 times", 2, 9),
    ("words that occur 10 to 99 times", 10, 99),
    ("words that occur 100 times or more", 100, np.inf),
)
_POSITION_BINS = (
    ("words 1 to 4 of an answer", 1, 4),
    ("words 5 to 16 of an answer", 5, 16),
    ("words 17 to 64 of an answer", 17, 64),
    ("words from the 65th on", 65, np.inf),
)


def sum_nats_by_word(
    token_nats: Float[np.ndarray, " N"],
    token_ends: Int[np.ndarray, " N"],
    word_ends: Int[np.ndarray, " W"],
) -> Float[np.ndarray, " W"]:
    """Sum the nats of tokens by word.

    The nats of a token that covers several words are divided between them by bytes, so the total
    is preserved.

    Args:
        token_nats: Nats of each token, in order.
        token_ends: Byte where each token ends; tokens that share a character end at the same one.
        word_ends: Byte where each word ends.
    """
    cumulative = np.cumsum(token_nats)
    ends = np.unique(token_ends[token_ends > 0])
    last = np.searchsorted(token_ends, ends, side="right") - 1
    at_word_ends = np.interp(word_ends, np.append(0, ends), np.append(0.0, cumulative[last]))
    return np.diff(at_word_ends, prepend=0.0)


@dataclass(frozen=True)
class WordTable:
    """The scored words of several examples, one entry per word.

    Attributes:
        example_indices: Index of the word's example.
        num_bytes: UTF-8 bytes of the word, with the spaces before it.
        frequencies: Number of occurrences in all examples, up to case and punctuation.
        word_indices: Index of the word in its example, from 1.
        num_words_in_example: Number of words of its example.
    """

    example_indices: Int[np.ndarray, " W"]
    num_bytes: Int[np.ndarray, " W"]
    frequencies: Int[np.ndarray, " W"]
    word_indices: Int[np.ndarray, " W"]
    num_words_in_example: Int[np.ndarray, " W"]


def make_word_table(
    words_by_example: Sequence[Sequence[str]], ends_by_example: Sequence[Int[np.ndarray, " _"]]
) -> WordTable:
    """Make the table of the words of examples, from the words and the byte where each ends."""
    num_words = np.array([len(words) for words in words_by_example])
    normalised = [_normalise_word(word) for words in words_by_example for word in words]
    frequencies = Counter(normalised)
    return WordTable(
        example_indices=np.repeat(np.arange(len(words_by_example)), num_words),
        num_bytes=np.concatenate([np.diff(ends, prepend=0) for ends in ends_by_example]),
        frequencies=np.array([frequencies[word] for word in normalised]),
        word_indices=np.concatenate([np.arange(1, count + 1) for count in num_words]),
        num_words_in_example=np.repeat(num_words, num_words),
    )


@dataclass(frozen=True)
class WordBin:
    """A bin of words.

    Attributes:
        breakdown: Title of the bins of one quantity.
        label: Description for people.
        mask: True for the words of the table that are in the bin.
    """

    breakdown: str
    label: str
    mask: Bool[np.ndarray, " W"]


def make_word_bins(table: WordTable, is_scored: Bool[np.ndarray, " W"]) -> list[WordBin]:
    """Bin the scored words by their frequency, their position and the length of their answer.

    Each breakdown has every word once; empty bins are left out.
    """
    breakdowns = {
        "By how often a word occurs in these rows": (table.frequencies, _FREQUENCY_BINS),
        "By where a word stands in its answer": (table.word_indices, _POSITION_BINS),
        "By how long the answer is": (table.num_words_in_example, _answer_length_bins(table)),
    }
    bins = [
        WordBin(title, label, is_scored & (values >= low) & (values <= high))
        for title, (values, ranges) in breakdowns.items()
        for label, low, high in ranges
    ]
    return [word_bin for word_bin in bins if word_bin.mask.any()]


def bits_per_byte(
    table: WordTable, mask: Bool[np.ndarray, " W"], word_nats: Float[np.ndarray, " W"]
) -> Estimate:
    """Estimate the bits per byte of the words in a bin, over the examples that have any."""
    return ratio(*_bits_and_bytes_by_example(table, mask, word_nats))


def extra_bits_per_byte(
    table: WordTable,
    mask: Bool[np.ndarray, " W"],
    word_nats: Float[np.ndarray, " W"],
    baseline_nats: Float[np.ndarray, " W"],
    *,
    level: float = 0.95,
) -> Estimate:
    """Estimate the bits per byte of a bin beyond those of a baseline, paired by examples."""
    return difference(
        _bits_and_bytes_by_example(table, mask, word_nats),
        _bits_and_bytes_by_example(table, mask, baseline_nats),
        level=level,
    )


def _bits_and_bytes_by_example(
    table: WordTable, mask: Bool[np.ndarray, " W"], word_nats: Float[np.ndarray, " W"]
) -> RatioTerms:
    _, indices = np.unique(table.example_indices[mask], return_inverse=True)
    bits = np.bincount(indices, weights=word_nats[mask] / np.log(2))
    return RatioTerms(bits[None], np.bincount(indices, weights=table.num_bytes[mask])[None])


def _answer_length_bins(table: WordTable) -> list[tuple[str, int, int | float]]:
    """Return ranges of short, medium and long answers: about a third of examples each."""
    first_words = np.unique(table.example_indices, return_index=True)[1]
    lengths = table.num_words_in_example[first_words]
    short, medium = np.quantile(lengths, [1 / 3, 2 / 3], method="lower").tolist()
    start = "" if short + 1 == medium else f"{short + 1} to "
    return [
        (f"answers of up to {_pluralize_words(short)}", 1, short),
        (f"answers of {start}{_pluralize_words(medium)}", short + 1, medium),
        (f"answers of more than {_pluralize_words(medium)}", medium + 1, np.inf),
    ]


def _pluralize_words(count: int) -> str:
    return "1 word" if count == 1 else f"{count} words"


def _normalise_word(word: str) -> str:
    return word.strip(string.punctuation + "“”‘’…–—").casefold() or word
