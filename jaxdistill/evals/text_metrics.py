"""How close a text is to what was expected: one number for each pair, by well-kept libraries.

They come with `pip install jaxdistill[text]`.
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
"""A prediction and the texts that would be right in, a number out; the best of them counts."""


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 where both are the same but for case, punctuation, articles and spaces (SQuAD's rule).

    Rajpurkar et al., 2016, https://arxiv.org/abs/1606.05250.
    """
    found = _normalise(prediction)
    return float(any(found == _normalise(reference) for reference in references))


def number_match(prediction: str, references: Sequence[str]) -> float:
    """1 where both are one number, however it is written: `$1,000.50` is `1000.5`."""
    found = _parse_number(prediction)
    return float(found is not None and any(found == _parse_number(one) for one in references))


def f1(prediction: str, references: Sequence[str]) -> float:
    """The harmonic mean of precision and recall of words, normalised as for `exact_match`."""
    return max(
        _word_f1(_normalise(prediction).split(), _normalise(reference).split())
        for reference in references
    )


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """The F-measure of the longest common subsequence of words, English ones stemmed (ROUGE-L).

    Lin, 2004, https://aclanthology.org/W04-1013.
    """
    scorer = _rouge_scorer()
    return max(float(scorer.score(one, prediction)["rougeL"].fmeasure) for one in references)


def bleu(prediction: str, references: Sequence[str]) -> float:
    """BLEU of one sentence, from 0 to 1; the mean of it over rows is not the corpus's BLEU.

    Papineni et al., 2002, https://aclanthology.org/P02-1040.
    """
    return _import_library("sacrebleu").sentence_bleu(prediction, list(references)).score / 100


def chrf(prediction: str, references: Sequence[str]) -> float:
    """The F-score of character n-grams of one sentence, from 0 to 1.

    Popović, 2015, https://aclanthology.org/W15-3049.
    """
    return _import_library("sacrebleu").sentence_chrf(prediction, list(references)).score / 100


def character_error_rate(prediction: str, references: Sequence[str]) -> float:
    """Characters to change, add or drop, as a part of the reference's; it may be above 1."""
    return min(
        float(
            _import_library("jiwer").cer(one, prediction)
            if one.strip()
            else bool(prediction.strip())
        )
        for one in references
    )


TEXT_METRICS: Mapping[str, TextMetric] = {
    metric.__name__: metric
    for metric in (exact_match, number_match, f1, rouge_l, bleu, chrf, character_error_rate)
}


LOWER_IS_BETTER = frozenset({"character_error_rate"})
"""The metrics that count what is wrong."""


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


@cache
def _rouge_scorer() -> Any:
    return _import_library("rouge_score.rouge_scorer").RougeScorer(
        ["rougeL"], tokenizer=_UnicodeTokenizer()
    )


class _UnicodeTokenizer:
    """The library's words where they are ASCII; it would drop the letters of all other scripts."""

    def __init__(self) -> None:
        self._ascii = _import_library("rouge_score.tokenizers").DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """The words of a text, without what stands between them."""
        words = re.findall(r"[^\W_]+", text.lower())
        return [
            part
            for word in words
            for part in (self._ascii.tokenize(word) if word.isascii() else [word])
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
