"""No row is left out in silence."""

import json

import numpy as np
import pytest

from jaxdistill.compare.measure import measure_left_out
from jaxdistill.compare.page import left_out
from jaxdistill.compare.reading import Reading, shared, text_rows
from jaxdistill.compare.record import Record, plain
from jaxdistill.data import Words


@pytest.mark.parametrize("shape", ["plain", "chat"])
def test_answers_of_blanks_only_are_no_words(tmp_path, shape):
    rows = [{"prompt": "a", "completion": text} for text in ("yes", " \n", "")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found, num_blank = text_rows([str(tmp_path / "rows.jsonl")], as_chat=shape == "chat")
    assert ([row.row_id for row in found], num_blank) == ([0], 2)


def test_it_is_said_which_rows_are_left_out_and_why():
    def reading(*texts: str | None) -> Reading:
        words = {n: Words((text,), *[np.array([1])] * 3) for n, text in enumerate(texts) if text}
        return Reading(is_alike=False, sums={n: {} for n in words}, words=words, nats={})

    readings = {"big": reading("a", "b", "c", "d"), "tiny": reading("a", "x", None, None)}
    record = Record()
    measure_left_out(record, shared(readings, 4), num_rows=4, num_blank=1)
    assert plain(left_out(record, list(readings), 64)) == (
        "4 of 5 rows left out: 2 too long for tiny at 64 tokens, 1 in other words, "
        "1 of blanks only."
    )
    record = Record()
    measure_left_out(record, shared({"big": reading("a")}, 1), num_rows=1, num_blank=0)
    assert plain(left_out(record, ["big"], 64)) == "0 of 1 row left out."
