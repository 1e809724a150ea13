"""No row is left out in silence."""

import json

import numpy as np
import pytest

from jaxdistill.compare.metrics import ComparisonMetrics, format_plain
from jaxdistill.compare.page import describe_excluded_rows
from jaxdistill.compare.quality import add_excluded_rows
from jaxdistill.compare.scoring import ModelScores, find_comparable_rows, read_text_rows
from jaxdistill.data import WordOffsets


@pytest.mark.parametrize("shape", ["plain", "chat"])
def test_answers_of_blanks_only_are_no_words(tmp_path, shape):
    rows = [{"prompt": "a", "completion": text} for text in ("yes", " \n", "")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, num_blank = read_text_rows([str(tmp_path / "rows.jsonl")], as_chat=shape == "chat")
    assert ([row.row_id for row in found], num_blank) == ([0], 2)


def test_it_is_said_which_rows_are_left_out_and_why():
    def reading(*texts: str | None) -> ModelScores:
        words = {
            n: WordOffsets((text,), *[np.array([1])] * 3) for n, text in enumerate(texts) if text
        }
        return ModelScores(
            has_same_tokenizer=False,
            sums_by_example={n: {} for n in words},
            words_by_example=words,
            word_nats_by_example={},
        )

    readings = {"big": reading("a", "b", "c", "d"), "tiny": reading("a", "x", None, None)}
    record = ComparisonMetrics()
    add_excluded_rows(record, find_comparable_rows(readings, 4), num_rows=4, num_blank=1)
    assert format_plain(describe_excluded_rows(record, list(readings), 64)) == (
        "4 of 5 rows left out: 2 too long for tiny at 64 tokens, 1 in other words, "
        "1 of blanks only."
    )
    record = ComparisonMetrics()
    add_excluded_rows(
        record, find_comparable_rows({"big": reading("a")}, 1), num_rows=1, num_blank=0
    )
    assert format_plain(describe_excluded_rows(record, ["big"], 64)) == "0 of 1 row left out."
