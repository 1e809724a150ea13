"""`jaxdistill compare` from models and rows to a page, its metrics, and judgements read back."""

import csv
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from html import unescape

import numpy as np
import pytest
from scipy.special import log_softmax

from jaxdistill import evals, load, run
from jaxdistill.cli import main
from jaxdistill.data import DataConfig
from tests.compare.conftest import COSTS, NAMES, NASTY, FinishedComparison


def test_the_folder_holds_the_page_the_metrics_and_the_sheet(comparison: FinishedComparison):
    names = ["index.html", "judgements.csv", "metrics.jsonl"]
    assert sorted(path.name for path in comparison.out.iterdir()) == names


def compared_rows(comparison: FinishedComparison) -> list[dict[str, str]]:
    """The rows without the one that is too long."""
    lines = (comparison.folder / "rows.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{k: row[k] for k in ("prompt", "completion")} for row in rows if len(str(row)) < 500]


@pytest.mark.parametrize(("name", "folder"), [("big", "big"), ("other", "bytes")])
def test_bits_per_byte_are_those_of_the_logits(comparison, name: str, folder: str):
    model = load(comparison.folder / folder)
    rows = compared_rows(comparison)
    texts = [row["prompt"] + row["completion"] for row in rows]
    encoded = model.tokenizer(texts, return_offsets_mapping=True)
    longest = max(map(len, encoded["input_ids"]))
    # One shape, and so one program: tokens behind a row do not change its logits.
    padded = [[*tokens, *[0] * (longest - len(tokens))] for tokens in encoded["input_ids"]]
    log_probs = log_softmax(np.asarray(model.logits(padded)), axis=-1)
    nats = num_bytes = 0.0
    for row, text, tokens, offsets, predicted in zip(
        rows, texts, encoded["input_ids"], encoded["offset_mapping"], log_probs, strict=True
    ):
        start = len(row["prompt"])
        scored = [n for n, (_, end) in enumerate(offsets) if end > start]
        nats -= sum(predicted[n - 1, tokens[n]] for n in scored)
        num_bytes += len(text[offsets[scored[0]][0] :].encode())
    value = comparison.value(name, "bits_per_byte")["value"]
    assert value == pytest.approx(nats / num_bytes / np.log(2), rel=1e-4)


def test_agreement_is_that_of_eval(comparison: FinishedComparison):
    path = comparison.folder / "compared.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in compared_rows(comparison)))
    config = DataConfig(sources=(str(path),), heldout=0.0, length=128)
    big, small = str(comparison.folder / "big"), str(comparison.folder / "small")
    expected = run.evaluate(small, data_config=config, teacher=big)
    kl = comparison.value("small", "kl_to_first")["value"]
    assert kl == pytest.approx(expected["forward_kl"])
    agreement = comparison.value("small", "top1_agreement")["value"]
    assert agreement == pytest.approx(expected["top1_agreement"])
    extra = comparison.value("small", "extra_bits_per_byte")
    values = [comparison.value(name, "bits_per_byte")["value"] for name in ("small", "big")]
    assert extra["value"] == pytest.approx(values[0] - values[1])
    assert extra["low"] <= extra["value"] <= extra["high"]


def test_another_tokenizer_is_compared_by_words_and_not_by_tokens(comparison: FinishedComparison):
    quantities = {line["quantity"] for line in comparison.lines if line.get("model") == "other"}
    assert "extra_bits_per_byte" in quantities
    assert not {"kl_to_first", "top1_agreement"} & quantities
    bins = {(line.get("model"), line["bin"]) for line in comparison.lines if "bin" in line}
    labels = {label for _, label in bins}
    assert {("small", label) for label in labels} <= bins
    assert {("other", label) for label in labels} <= bins


def test_rows_that_are_too_long_for_one_model_are_left_out_for_all(comparison):
    counts = {line["quantity"]: line["value"] for line in comparison.lines if "model" not in line}
    assert counts["rows"] == 23
    assert counts["rows_left_out"] == 1
    assert counts["words"] == 23 * 6  # It is N, said the cat.
    reasons = "1 too long for big at 128 tokens, 1 too long for small at 128"
    assert f"1 of 24 rows left out: {reasons}" in comparison.html


def test_prices_are_those_of_the_machine_unless_they_are_given(comparison: FinishedComparison):
    assert comparison.value("big", "cost_per_million_tokens")["value"] == 2.5
    speed = comparison.value("small", "tokens_per_second")["value"]
    price = comparison.value("small", "cost_per_million_tokens")["value"]
    assert price == pytest.approx(0.5 / 3600 / speed * 1e6)
    # One of the two prices is measured.
    assert comparison.value("small", "least_saving")["value"] == 0.25


def test_prompts_and_completions_are_only_text(comparison: FinishedComparison):
    html = comparison.html
    assert "<script" not in html
    assert "&lt;script&gt;alert" in html
    assert not re.search(r"https?:|//|@import|<link|<img|javascript:", html)


def test_the_page_names_its_command_and_machine_price(comparison: FinishedComparison):
    text = unescape(re.sub("<.*?>", "", comparison.html))
    assert "$0.50 for an hour of this machine" in text
    (line,) = [line for line in text.splitlines() if ": jaxdistill compare " in line]
    assert re.search(r"\d{4}-\d\d-\d\d: jaxdistill compare ", line)
    assert shlex.split(line.partition(": jaxdistill ")[2]) == comparison.command


def test_judgements_are_read_back_and_kept(comparison, capfd: pytest.CaptureFixture[str]):
    sheet = comparison.out / "judgements.csv"
    with sheet.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert {row["prompt"] for row in rows} >= {NASTY}
    for row in rows[:-1]:
        row["better"] = "tie"
    unjudged = sheet.read_bytes()
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    judged = sheet.read_bytes()
    try:
        assert main(comparison.command) == 0
        assert f"holds judgements or other files, so {comparison.out}-2" in capfd.readouterr().out
        assert sheet.read_bytes() == judged
        shutil.rmtree(f"{comparison.out}-2")
        assert main([*comparison.command, "--judgements", str(sheet)]) == 0
        assert sheet.read_bytes() == judged
        counts = [comparison.value(name, "ties")["value"] for name in ("small", "other")]
        assert sum(counts) == 5
        assert comparison.value("small", "preferred")["value"] == 0.5
        output = capfd.readouterr().out
        assert "as good and" in output
        assert "1 of 24 rows left out: 1 too long for big at 128 tokens" in output
        assert "Nobody was asked" not in comparison.html
        check_numbers(comparison)
    finally:
        sheet.write_bytes(unjudged)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "Why?"}, "rows.jsonl:1: has no completion to compare models on"),
        ({"prompt_tokens": [1], "completion_tokens": [2]}, "rows.jsonl:1: has nothing, but a row"),
        (
            {"prompt": "a", "completion": "b " * 500},
            "nothing is left to score of 1 row(s). Raise `--length` (64)",
        ),
        ({"text": "Hello"}, "no word of these rows is the same bytes to every model"),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(
    comparison, tmp_path, capfd, row, message, monkeypatch
):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.setattr(run, "measure_cost", lambda path: None)
    models = [str(comparison.folder / name) for name in ("big", "small")]
    arguments = ["compare", *models, "--data", str(tmp_path / "rows.jsonl"), "--length", "64"]
    arguments += ["--loss-on", "all"] if "text" in row else []
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_prompts_are_those_of_compared_rows_and_no_file_is_overwritten(comparison, tmp_path):
    """A prompt too long for a model is left out with its row, and files of others are kept."""
    rows = [{"prompt": "word " * 2000, "completion": "Yes, the cat."}]
    rows += compared_rows(comparison)  # all rows and three prompts: the programs of the fixture
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    models = [f"{name}={comparison.folder / 'small'}" for name in ("one", "two")]
    arguments = ["compare", *models, "--data", str(tmp_path / "rows.jsonl"), "--length", "128"]
    arguments += ["--prompts", "3"]
    out = tmp_path / "out"

    def measure_cost(path: str) -> evals.Cost:
        out.mkdir(exist_ok=True)  # during the measurements, a person keeps a file here
        (out / "thesis.doc").write_text("years of work")
        return COSTS["small"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "measure_cost", measure_cost)
        assert main([*arguments, "--max-new-tokens", "12", "--out", str(out)]) == 0
    html = (tmp_path / "out-2" / "index.html").read_text()
    assert [path.name for path in out.iterdir()] == ["thesis.doc"]
    assert "word word" not in html
    assert html.count('<article class="sample">') == 3
    assert f"--judgements {tmp_path / 'out-2' / 'judgements.csv'}</code>" in html


def test_texts_without_prompts_and_a_task(comparison: FinishedComparison, tmp_path, capfd):
    rows = [{"text": f"The cat saw {n} dogs, and the dogs saw the cat.", "n": n} for n in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "task.yaml").write_text(
        "prompt: 'Count {n}'\nreference: n\nmetrics: [exact_match]\n"
        "sampling: {max_new_tokens: 12}\n"
    )
    models = [f"{name}={comparison.folder / 'small'}" for name in ("one", "two")]
    arguments = ["compare", *models, "--data", str(tmp_path / "rows.jsonl"), "--length", "128"]
    arguments += ["--price", "one=2", "--price", "two=1"]
    arguments += ["--task", str(tmp_path / "task.yaml"), "--loss-on", "all", "--prompts", "3"]
    assert main([*arguments, "--max-new-tokens", "12", "--out", str(tmp_path / "out")]) == 0
    html = (tmp_path / "out" / "index.html").read_text()
    assert "Task</strong>: exact match is" in html
    assert "The cat saw 0 dogs, and the dogs</h3>" in html
    # The same model is no worse, but three rows cannot tell, and have no interval.
    assert '"low"' not in (tmp_path / "out" / "metrics.jsonl").read_text()
    assert "[" not in capfd.readouterr().out
    assert "This cannot be decided from 3 rows" in html
    assert "$1.00" in html


def test_the_picture_has_the_numbers_of_the_table(comparison: FinishedComparison):
    (label,) = re.findall(r'<svg role="img" aria-label="(.*?)"', comparison.html)
    lines = [(name, comparison.value(name, "bits_per_byte")) for name in NAMES]
    texts = [
        f"{name} {line['value']:.3f}, from {line['low']:.3f} to {line['high']:.3f}"
        for name, line in lines
    ]
    assert label == f"Bits per byte: {'; '.join(texts)}."


def test_the_page_shows_every_metric_and_no_other_number(comparison: FinishedComparison):
    check_numbers(comparison)


_NUMBER = re.compile(r"(?<![\w.])\$?[+−]?\d[\d,]*(?:\.\d+)?(?: (?:%|MB|M|bytes)(?!\w))?")
Key = tuple[str, str, str]
"""Model, quantity and bin of a metric."""


def check_numbers(comparison: FinishedComparison) -> None:
    """Check that the numbers of each table and reason are their metrics, and none is missing."""
    lines = {
        (line.get("model", ""), line["quantity"], line.get("bin", "")): line
        for line in comparison.lines
    }
    shown: set[Key] = set()
    for text, keys in page_texts(comparison, lines):
        numbers = _NUMBER.findall(text)
        values = [
            lines[key][end] for key in keys for end in ("value", "low", "high") if end in lines[key]
        ]
        assert len(numbers) == len(values), (text, keys)
        assert all(map(is_text_of, numbers, values)), (text, values)
        shown.update(keys)
    # The bits per byte of a bin are for programs: the page has their difference.
    assert shown == {key for key in lines if key[1] != "bits_per_byte" or not key[2]}


def is_text_of(text: str, number: float) -> bool:
    """True if a text is a number, to the digits that it has."""
    bare = text.replace(",", "").replace("−", "-").replace("$", "").replace("+", "")
    for unit, factor in ((" MB", 1e6), (" bytes", 1.0), (" M", 1e6), (" %", 0.01), ("", 1.0)):
        if bare.endswith(unit):
            digits = bare.removesuffix(unit)
            last = factor * 10.0 ** -len(digits.partition(".")[2])
            return abs(float(digits) * factor - number) <= 0.5001 * last
    return False


def page_texts(
    comparison: FinishedComparison, lines: dict[Key, dict]
) -> Iterator[tuple[str, list[Key]]]:
    """Yield the texts of the page that have numbers, each with the metrics that it must show."""
    head, *parts = comparison.html.split("<section>")
    sections = {plain_text(re.findall("<h2>.*?</h2>", part)[0]): part for part in parts}
    lead = plain_text(re.findall('<p class="lead">.*?</p>', head)[0])
    keys = [("", name, "") for name in ("rows", "rows_left_out", "rows_read")]
    keys += [(name, "rows_too_long", "") for name in NAMES if (name, "rows_too_long", "") in lines]
    yield lead.replace(" at 128 tokens", ""), keys
    (words,) = re.findall("<dt>Words</dt><dd>(.*?)</dd>", sections["How this was measured"])
    yield words, [("", "words", "")]
    yield from table_texts(comparison, sections["At a glance"], lines)
    for advice in sections["Recommendation"].split("<h3>")[1:]:
        yield from reason_texts(advice, lines)
    for candidate in NAMES[1:]:
        yield from breakdown_texts(sections[f"Where {candidate} falls behind"], candidate)


def table_texts(
    comparison: FinishedComparison, section: str, lines: dict[Key, dict]
) -> Iterator[tuple[str, list[Key]]]:
    quantities = {comparison.metrics.quantity(key[1]).label: key[1] for key in lines}
    for label, *cells in table_rows(section):
        if len(cells) == len(NAMES) and label != "Quantity":
            for name, cell in zip(NAMES, cells, strict=True):
                key = name, quantities[label.partition("|")[0]], ""
                assert (cell == "–") == (key not in lines)
                if key in lines:
                    yield cell, [key]


def reason_texts(advice: str, lines: dict[Key, dict]) -> Iterator[tuple[str, list[Key]]]:
    candidate = advice.partition(" ")[0]
    people = ("wins", "ties", "losses", "not_judged", "preferred")
    own = {
        "Quality": ["extra_bits_per_byte", "big accepted_extra", " tolerance"],
        "Rows": [" rows"],
        "Price": [f"{model}cost_per_million_words" for model in ("", "big ")]
        + ["relative_price", "least_saving"],
        "Speed": ["words_per_second", "big words_per_second", "relative_speed"],
        "People": [name for name in people if (candidate, name, "") in lines],
    }
    for reason in map(plain_text, re.findall("<li>.*?</li>", advice)):
        keys = [name.rpartition(" ") for name in own[reason.partition(":")[0]]]
        yield reason, [(model if space else candidate, name, "") for model, space, name in keys]


def breakdown_texts(section: str, candidate: str) -> Iterator[tuple[str, list[Key]]]:
    rows = [row for row in table_rows(section) if len(row) == 2 and row[0] != "Words"]
    labels = [label.partition("|")[0] for label, _ in rows]
    for label, (head, cell) in zip(labels, rows, strict=True):
        yield head.partition("|")[2], [("", "words", label)]
        yield cell, [(candidate, "extra_bits_per_byte", label)]
    lead = plain_text(re.findall('<p class="lead">.*?</p>', section)[0])
    label, colon, extra = lead.removeprefix("It falls behind most on ").partition(": ")
    if colon:
        yield extra, [(candidate, "extra_bits_per_byte", label)]


def table_rows(section: str) -> list[list[str]]:
    """Cells of the rows of a table, with `|` before the small text of a header."""
    rows = re.findall("<tr.*?</tr>", section, re.DOTALL)
    cells = [re.findall("<t[hd].*?</t[hd]>", row, re.DOTALL) for row in rows]
    return [[plain_text(cell.replace("<small>", "|")) for cell in row] for row in cells]


def plain_text(html: str) -> str:
    return unescape(re.sub("<.*?>", "", html))
