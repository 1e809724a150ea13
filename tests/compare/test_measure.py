"""Models are compared on the same bytes, and said to fall behind only where they do."""

import numpy as np
import pytest

from jaxdistill.compare.measure import measure_quality, scored_words
from jaxdistill.compare.reading import Reading
from jaxdistill.compare.record import Record
from jaxdistill.data import Words
from jaxdistill.errors import UserError

ROWS = range(24)


def reading(
    ends: list[int],
    nats: list[float],
    *,
    first_position: int = 0,
    token_ends: list[int] | None = None,
) -> Reading:
    """A model that reads the rows "cat sat" in two tokens, one a word unless it is said."""
    words = Words(
        texts=("cat", "sat"),
        ends=np.array(ends),
        positions=np.array([first_position, 1]),
        token_ends=np.array(token_ends or ends),
    )
    return Reading(
        is_alike=False,
        sums={},
        words=dict.fromkeys(ROWS, words),
        nats=dict.fromkeys(ROWS, np.array(nats)),
        answers=[],
    )


# One brings the space before "cat" with it: 4 bytes and not 3.
PIECES, BYTES = reading([4, 8], [5.0, 1.0]), reading([3, 7], [9.0, 2.0])


def test_models_are_compared_on_the_same_bytes_whichever_is_first():
    found = {}
    for readings in (
        {"pieces": PIECES, "bytes": BYTES},
        {"bytes": BYTES, "pieces": PIECES},
    ):
        record = Record()
        measure_quality(record, scored_words(readings, ROWS), readings, ROWS, 0.05)
        for name in readings:
            line = record.get(name, "bits_per_byte")
            assert line is not None
            found.setdefault(name, []).append(line.value)
    # " sat" alone: 4 bytes.
    assert found["pieces"] == pytest.approx([0.25 / np.log(2)] * 2)
    assert found["bytes"] == pytest.approx([0.5 / np.log(2)] * 2)


def test_rows_without_a_word_that_is_scored_whole_are_refused():
    unpredicted = reading([3, 7], [0.0, 0.0], first_position=-1, token_ends=[6, 7])
    with pytest.raises(UserError, match="no word of these rows is the same bytes"):
        scored_words({"a": unpredicted, "b": unpredicted}, ROWS)


def test_costs_that_are_no_numbers_are_told_of_their_model():
    with pytest.raises(UserError, match="what broken pays for a word is not finite"):
        scored_words({"good": PIECES, "broken": reading([4, 8], [1.0, np.nan])}, ROWS)


def test_the_record_is_json_whatever_it_holds():
    record = Record()
    record.add("a", "bits_per_byte", float("nan"))
    assert record.jsonl() == '{"model": "a", "quantity": "bits_per_byte", "value": null}\n'
    assert record.said("a", "bits_per_byte").text == "nan"
