"""Every row that is left out is counted."""

import json

import numpy as np
import pytest

from jaxdistill.compare.metrics import ComparisonMetrics
from jaxdistill.compare.page import describe_excluded_rows
from jaxdistill.compare.scoring import (
    ModelScores,
    RowScores,
    TextRows,
    read_text_rows,
    select_comparable_rows,
)
from jaxdistill.data import Row, Text, WordOffsets


@pytest.mark.parametrize("row_format", ["plain", "chat"])
def test_blank_completions_have_no_words(tmp_path, row_format):
    rows = [{"prompt": "a", "completion": text} for text in ("yes", " \n", "")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows, num_blank = read_text_rows([str(tmp_path / "rows.jsonl")], as_chat=row_format == "chat")
    assert ([row.row_id for row in rows], num_blank) == ([0], 2)


def test_left_out_rows_are_counted_by_reason():
    def model_scores(*texts: str | None) -> ModelScores:
        words = {
            row_id: WordOffsets((text,), *[np.array([1])] * 3)
            for row_id, text in enumerate(texts)
            if text
        }
        return {row_id: RowScores(offsets, np.ones(1), {}) for row_id, offsets in words.items()}

    def describe(num_rows: int, num_blank: int, **scores: ModelScores) -> str:
        rows = [Row(f"rows:{n}", n, str(n), Text("", "a")) for n in range(num_rows)]
        metrics = ComparisonMetrics(scores)
        comparable = select_comparable_rows(metrics, scores, TextRows(rows, num_blank))
        assert all([*model_scores] == [0] for model_scores in comparable.values())
        return describe_excluded_rows(metrics, 64)

    scores = {
        "big": model_scores("a", "b", "c", "d"),
        "tiny": model_scores("a", "x", None, None),
    }
    assert describe(4, 1, **scores) == (
        "4 of 5 rows left out: 2 too long for tiny at 64 tokens, 1 in other words, "
        "1 of blanks only."
    )
    assert describe(1, 0, big=model_scores("a")) == "0 of 1 row left out."
