"""Text metrics compared with values computed by hand."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from jaxdistill.errors import UserError
from jaxdistill.evals.text_metrics import TEXT_METRICS

EXACT = {
    # metric: prediction, references, value
    "exact_match": [
        ("The Eiffel Tower!", ["Eiffel tower"], 1),
        ("Paris", ["London", "paris."], 1),
        ("Paris, France", ["Paris"], 0),
        ("", [""], 1),
    ],
    "number_match": [
        ("$18.00", ["18"], 1),
        ("1,000.50", ["x", "1000.5"], 1),
        ("-5", ["5"], 0),
        ("3.5", ["35"], 0),
        ("1e400", ["10e399"], 1),
        ("none", ["none"], 0),
        ("nan", ["nan"], 0),
        ("", [""], 0),
    ],
    "f1": [
        ("in Paris, France", ["Paris"], 2 * 1 / (3 + 1)),
        ("the cat cat", ["a cat"], 2 * 1 / (2 + 1)),
        ("London", ["Paris", "big London"], 2 / 3),
        ("", ["Paris"], 0),
        ("", [""], 1),
    ],
    # The longest common subsequence of "a b c d" and "a c d e" has three of four words.
    "rouge_l": [
        ("a b c d", ["a c d e"], 0.75),
        ("x", ["y", "x"], 1),
        ("", ["y"], 0),
        ("he was running", ["He was_run!"], 1),
        ("Привет, мир", ["привет мир"], 1),
        ("мир и труд", ["мир и май"], 2 / 3),
    ],
    "bleu": [("the cat sat on the mat", ["the cat sat on the mat"], 1), ("x", ["y z"], 0)],
    "chrf": [("the cat sat", ["the cat sat"], 1), ("xxx", ["yyy"], 0)],
    "character_error_rate": [
        ("kitten", ["sitting"], 3 / 7),
        ("kitten", ["sitting", "kitten"], 0),
        ("", ["four"], 1),
        ("more", [""], 1),
        ("", [""], 0),
    ],
}


@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name, cases in EXACT.items() for case in cases]
)
def test_values_computed_by_hand(name: str, case: tuple[str, list[str], float]) -> None:
    prediction, references, value = case
    assert TEXT_METRICS[name](prediction, references) == pytest.approx(value, abs=1e-9)


@given(st.text("abc dEF,.-3", max_size=40), st.text("abc dEF,.-3", max_size=40))
def test_rouge_of_ascii_text_equals_the_library(prediction: str, reference: str) -> None:
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    expected = scorer.score(reference, prediction)["rougeL"].fmeasure
    assert TEXT_METRICS["rouge_l"](prediction, [reference]) == expected


def test_every_metric_is_tested() -> None:
    assert EXACT.keys() == TEXT_METRICS.keys()


@pytest.mark.parametrize("name", TEXT_METRICS)
@given(prediction=st.text(max_size=30), reference=st.text(max_size=30))
def test_any_text_can_be_scored(name: str, prediction: str, reference: str) -> None:
    value = TEXT_METRICS[name](prediction, [reference])
    assert value >= 0
    assert value <= 1 + 1e-9 or name == "character_error_rate"


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(UserError, match=r"needs the library jiwer.*jaxdistill\[text\]"):
        TEXT_METRICS["character_error_rate"]("a", ["b"])
