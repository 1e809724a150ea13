"""Text metrics: a number for a predicted text and its reference texts, or for its repetition.

The libraries of some come with `pip install 'jaxdistill[text]'`.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any

from jaxdistill.errors import UserError

TextMetric = Callable[[str, Sequence[str]], float]
"""`(prediction, references) -> value`, the best value over the references."""


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """Return 1 if the texts are equal up to case, punctuation, articles and spaces (SQuAD), else 0.

    Reference: Rajpurkar et al., 2016, https://arxiv.org/abs/1606.05250.
    """
    normalised = _normalise(prediction)
    return float(any(normalised == _normalise(reference) for reference in references))


def number_match(prediction: str, references: Sequence[str]) -> float:
    """Return 1 if the texts are the same number in any notation (`$1,000.50`, `1000.5`), else 0."""
    number = _parse_number(prediction)
    return float(number is not None and number in map(_parse_number, references))


def f1(prediction: str, references: Sequence[str]) -> float:
    """Return the harmonic mean of precision and recall of words, normalised as in `exact_match`."""
    return max(
        _word_f1(_normalise(prediction).split(), _normalise(reference).split())
        for reference in references
    )


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """Return ROUGE-L: the F-measure of the longest common subsequence of words, English stemmed.

    Reference: Lin, 2004, https://aclanthology.org/W04-1013.
    """
    scorer = _rouge_scorer()
    return max(float(scorer.score(text, prediction)["rougeL"].fmeasure) for text in references)


def bleu(prediction: str, references: Sequence[str]) -> float:
    """Return BLEU of one sentence, from 0 to 1; its mean over rows is not the BLEU of a corpus.

    Reference: Papineni et al., 2002, https://aclanthology.org/P02-1040.
    """
    return _import_library("sacrebleu").sentence_bleu(prediction, list(references)).score / 100


def chrf(prediction: str, references: Sequence[str]) -> float:
    """Return chrF, the F-score of character n-grams of one sentence, from 0 to 1.

    Reference: Popović, 2015, https://aclanthology.org/W15-3049.
    """
    return _import_library("sacrebleu").sentence_chrf(prediction, list(references)).score / 100


def character_error_rate(prediction: str, references: Sequence[str]) -> float:
    """Return the edit distance divided by the reference's length; it may exceed 1."""
    return min(_character_error_rate(prediction, reference) for reference in references)


TEXT_METRICS: Mapping[str, TextMetric] = {
    metric.__name__: metric
    for metric in (exact_match, number_match, f1, rouge_l, bleu, chrf, character_error_rate)
}

LOWER_IS_BETTER = frozenset({"character_error_rate"})
"""Metrics that count errors."""


def repeated_ngrams(texts: Sequence[Sequence[int]], *, n: int = 4) -> float:
    """1 - distinct n-grams / n-grams of tokens, both summed over texts; 0 without n-grams.

    Reference: seq-rep-n of Welleck et al., "Neural Text Generation with Unlikelihood Training",
    2020, https://arxiv.org/abs/1908.04319.
    """
    distinct = total = 0
    for tokens in texts:
        ngrams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
        distinct += len(set(ngrams))
        total += len(ngrams)
    return 1 - distinct / total if total else 0.0


def _normalise(text: str) -> str:
    text = text.lower().translate(str.maketrans("", "", string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _parse_number(text: str) -> Decimal | None:
    try:
        value = Decimal(re.sub(r"[\s,$€£%]", "", text))
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def _word_f1(predicted: Sequence[str], expected: Sequence[str]) -> float:
    if not predicted or not expected:
        return float(predicted == expected)
    common = (Counter(predicted) & Counter(expected)).total()
    return 2 * common / (len(predicted) + len(expected))


def _character_error_rate(prediction: str, reference: str) -> float:
    if not reference.strip():
        return float(bool(prediction.strip()))
    return float(_import_library("jiwer").cer(reference, prediction))


@cache
def _rouge_scorer() -> Any:
    return _import_library("rouge_score.rouge_scorer").RougeScorer(
        ["rougeL"], tokenizer=_UnicodeTokenizer()
    )


class _UnicodeTokenizer:
    """The library's tokenizer for ASCII words; other words are kept, which the library drops."""

    def __init__(self) -> None:
        self._ascii = _import_library("rouge_score.tokenizers").DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """Split a text into words, without spaces and punctuation."""
        words = re.findall(r"[^\W_]+", text.lower())
        return [
            token
            for word in words
            for token in (self._ascii.tokenize(word) if word.isascii() else [word])
        ]


def _import_library(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"this metric needs the library {name.partition('.')[0]}: "
            "`pip install 'jaxdistill[text]'`."
        ) from None
