"""`jaxdistill compare` from models and rows to a page, its numbers, and judgements read back."""

import csv
import json
import re
import shlex
import sys
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
import tiny

from jaxdistill import compare, evals, load, run
from jaxdistill.cli import main
from jaxdistill.cli.parser import build_parser
from jaxdistill.compare import make_options
from jaxdistill.compare.command_line import format_command
from jaxdistill.compare.options import CompareOptions
from jaxdistill.data import DataConfig
from jaxdistill.errors import UserError
from tests.compare.conftest import COSTS, NASTY, Place

NAMES, FOLDERS = ("big", "small", "other"), ("big", "small", "bytes")


def value(place: Place, model: str, quantity: str) -> dict:
    (found,) = [
        line
        for line in place.lines
        if line.get("model") == model and line["quantity"] == quantity and "bin" not in line
    ]
    return found


def test_the_folder_holds_the_page_the_numbers_and_the_sheet(place: Place):
    names = ["index.html", "judgements.csv", "metrics.jsonl"]
    assert sorted(path.name for path in place.out.iterdir()) == names


def kept(place: Place) -> list[dict[str, str]]:
    """The rows without the one that is too long."""
    rows = [json.loads(line) for line in (place.folder / "rows.jsonl").read_text().splitlines()]
    return [{k: row[k] for k in ("prompt", "completion")} for row in rows if len(str(row)) < 500]


@pytest.mark.parametrize(("name", "folder"), [("big", "big"), ("other", "bytes")])
def test_bits_per_byte_are_those_of_the_logits(place: Place, name: str, folder: str):
    model = load(place.folder / folder)
    nats = num_bytes = 0.0
    for row in kept(place):
        text, start = row["prompt"] + row["completion"], len(row["prompt"])
        encoded = model.tokenizer(text, return_offsets_mapping=True)
        tokens, offsets = encoded["input_ids"], encoded["offset_mapping"]
        logits = np.asarray(model.logits([tokens]))[0]
        log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        scored = [n for n, (_, end) in enumerate(offsets) if end > start]
        nats -= sum(log_probs[n - 1, tokens[n]] for n in scored)
        num_bytes += len(text[offsets[scored[0]][0] :].encode())
    found = value(place, name, "bits_per_byte")
    assert found["value"] == pytest.approx(nats / num_bytes / np.log(2), rel=1e-4)


def test_agreement_is_that_of_eval(place: Place):
    path = place.folder / "kept.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in kept(place)))
    config = DataConfig(sources=(str(path),), heldout=0.0, length=128)
    big, small = str(place.folder / "big"), str(place.folder / "small")
    said = run.evaluate(small, data_config=config, teacher=big)
    assert value(place, "small", "kl_to_first")["value"] == pytest.approx(said["forward_kl"])
    agreed = value(place, "small", "top1_agreement")["value"]
    assert agreed == pytest.approx(said["top1_agreement"])
    more = value(place, "small", "extra_bits_per_byte")
    ours, base = (value(place, name, "bits_per_byte")["value"] for name in ("small", "big"))
    assert more["value"] == pytest.approx(ours - base)
    assert more["low"] <= more["value"] <= more["high"]


def test_another_tokenizer_is_compared_by_words_and_not_by_tokens(place: Place):
    of_other = {line["quantity"] for line in place.lines if line.get("model") == "other"}
    assert "extra_bits_per_byte" in of_other
    assert not {"kl_to_first", "top1_agreement"} & of_other
    bins = {(line.get("model"), line["bin"]) for line in place.lines if "bin" in line}
    labels = {label for _, label in bins}
    assert {("small", label) for label in labels} <= bins
    assert {("other", label) for label in labels} <= bins


def test_rows_that_are_too_long_for_one_are_left_out_for_all(place: Place):
    counts = {line["quantity"]: line["value"] for line in place.lines if "model" not in line}
    assert counts["rows"] == 23
    assert counts["rows_left_out"] == 1
    assert counts["words"] == 23 * 6  # It is N, said the cat.
    said = "1 of 24 rows left out: 1 too long for big at 128 tokens, 1 too long for small at 128"
    assert said in re.sub("<.*?>", "", (place.out / "index.html").read_text())


def test_prices_are_of_the_machine_unless_they_are_given(place: Place):
    assert value(place, "big", "cost_per_million_tokens")["value"] == 2.5
    speed = value(place, "small", "tokens_per_second")["value"]
    price = value(place, "small", "cost_per_million_tokens")["value"]
    assert price == pytest.approx(0.5 / 3600 / speed * 1e6)
    assert value(place, "small", "least_saving")["value"] == 0.25  # of its price, one was measured


def test_what_is_asked_and_answered_is_only_text(place: Place):
    html = (place.out / "index.html").read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert" in html
    assert not re.search(r"https?:|//|@import|<link|<img|javascript:", html)


def test_the_page_says_how_to_make_it_again(place: Place):
    text = unescape(re.sub("<.*?>", "", (place.out / "index.html").read_text()))
    assert "$0.50 for an hour of this machine" in text
    (line,) = [one for one in text.splitlines() if ": jaxdistill compare " in one]
    assert re.search(r"\d{4}-\d\d-\d\d: jaxdistill compare ", line)
    words = shlex.split(line.partition(": jaxdistill ")[2])
    again, first = (vars(build_parser().parse_args(one)) for one in (words, place.command))
    models = [f"{name}={place.folder / path}" for name, path in zip(NAMES, FOLDERS, strict=True)]
    filled = {"models": models, "loss_on": "completion", "prompt_template": "plain"}
    assert again == first | filled


@pytest.mark.parametrize(
    ("folder", "name"),
    [("lr=0.1", "lr-0.1"), ("my model (2)", "my-model-2"), ("-x", "x"), ("größe.gguf", "größe")],
)
def test_a_folder_of_any_name_is_compared_again(place: Place, monkeypatch, folder, name):
    asked: list[CompareOptions] = []
    monkeypatch.setattr(compare, "compare", asked.append)
    monkeypatch.setattr(run, "check_max_positions", lambda path, length, option: 512)
    monkeypatch.chdir(place.folder)
    given = ["compare", f"runs/{folder}", "big", "--data", "rows.jsonl", "--out", "new"]
    assert main([*given, "--price", f"{name}=0.25"]) == 0
    assert asked[0].models == {name: f"runs/{folder}", "big": "big"}
    assert asked[0].prices == {name: 0.25}
    assert main(shlex.split(format_command(asked[0]))[1:]) == 0
    assert asked[1] == asked[0]


def test_judgements_are_read_back_and_kept(place: Place, capfd: pytest.CaptureFixture[str]):
    sheet = place.out / "judgements.csv"
    with sheet.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert {row["prompt"] for row in rows} >= {NASTY}
    for row in rows[:-1]:
        row["better"] = "tie"
    before = sheet.read_bytes()
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    judged = sheet.read_bytes()
    try:
        assert main(place.command) == 2
        assert "holds judgements, which would be lost" in capfd.readouterr().err
        assert main([*place.command, "--judgements", str(sheet)]) == 0
        assert sheet.read_bytes() == judged
        counts = [value(place, name, "ties")["value"] for name in ("small", "other")]
        assert sum(counts) == 5
        assert value(place, "small", "preferred")["value"] == 0.5
        said = capfd.readouterr().out
        assert "as good and" in said
        assert "1 of 24 rows left out: 1 too long for big at 128 tokens" in said
        assert "Nobody was asked" not in (place.out / "index.html").read_text()
    finally:
        sheet.write_bytes(before)


class Data(HTMLParser):
    """Collects the numbers of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.found: list[dict[str, str | None]] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag == "data":
            self.found.append(dict(attrs))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "Why?"}, "rows.jsonl:1: has no answer to compare models on"),
        ({"prompt_tokens": [1], "completion_tokens": [2]}, "rows.jsonl:1: has nothing, but a row"),
        (
            {"prompt": "a", "completion": "b " * 500},
            "nothing is left to score of 1 row(s). Raise `--length` (64)",
        ),
        ({"text": "Hello"}, "no word of these rows is the same bytes to every model"),
    ],
)
def test_rows_that_cannot_be_compared(place: Place, tmp_path, capfd, row, said, monkeypatch):
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.setattr(run, "measure_cost", lambda path: None)
    models = [str(place.folder / name) for name in ("big", "small")]
    arguments = ["compare", *models, "--data", str(tmp_path / "rows.jsonl"), "--length", "64"]
    arguments += ["--loss-on", "all"] if "text" in row else []
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert said in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_only_rows_that_all_models_read_are_asked(place: Place, tmp_path):
    """A prompt longer than any model reads is left out, as its row is; and no work is lost."""
    rows = [{"prompt": "word " * 2000, "completion": "Yes, the cat."}, *kept(place)[:2]]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    models = [f"{name}={place.folder / 'small'}" for name in ("one", "two")]
    arguments = ["compare", *models, "--data", str(tmp_path / "rows.jsonl"), "--length", "128"]
    out = tmp_path / "out"

    def measure(path: str) -> evals.Cost:
        out.mkdir(exist_ok=True)  # while the models are measured, somebody keeps a file here
        (out / "thesis.doc").write_text("years of work")
        return COSTS["small"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "measure_cost", measure)
        assert main([*arguments, "--max-new-tokens", "4", "--out", str(out)]) == 0
    html = (tmp_path / "out-2" / "index.html").read_text()
    assert [path.name for path in out.iterdir()] == ["thesis.doc"]
    assert "word word" not in html
    assert html.count('<article class="sample">') == 2
    assert f"--judgements {tmp_path / 'out-2' / 'judgements.csv'}</code>" in html


def test_texts_without_prompts_and_a_task(place: Place, tmp_path, capfd):
    rows = [{"text": f"The cat saw {n} dogs, and the dogs saw the cat.", "n": n} for n in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "task.yaml").write_text(
        "prompt: 'Count {n}'\nreference: n\nmetrics: [exact_match]\nsampling: {max_new_tokens: 2}\n"
    )
    models = [f"{name}={place.folder / 'small'}" for name in ("one", "two")]
    arguments = [
        "compare",
        *models,
        "--data",
        str(tmp_path / "rows.jsonl"),
        "--length",
        "100",
    ]
    arguments += ["--price", "one=2", "--price", "two=1"]
    arguments += ["--task", str(tmp_path / "task.yaml"), "--loss-on", "all", "--prompts", "2"]
    assert main([*arguments, "--max-new-tokens", "4", "--out", str(tmp_path / "out")]) == 0
    html = (tmp_path / "out" / "index.html").read_text()
    assert "Task</strong>: exact match is" in html
    assert "The cat saw 0 dogs, and the dogs</h3>" in html
    # The same model is no worse, but three rows cannot tell, and have no interval.
    assert not re.search(r'data-end="(low|high)"', html)
    assert "[" not in capfd.readouterr().out
    assert "This cannot be told from <data" in html
    assert "$1.00" in html


def test_runs_say_how_rows_are_read(tmp_path, monkeypatch):
    trained = {"one": DataConfig(sources=("r",), length=64), "two": DataConfig(sources=("r",))}
    for module in (run, sys.modules["jaxdistill.run.evaluate"]):  # `run.evaluate` is a function
        monkeypatch.setattr(module, "run_data_config", lambda path: trained.get(path))
    monkeypatch.setattr(run, "check_max_positions", lambda path, length, option: 9999)
    common = {"sources": ["r"], "out": str(tmp_path / "out"), "prices": []}
    nothing = dict.fromkeys(("length", "loss_on", "prompt_template"))
    found = make_options(["one", "base"], data_options=nothing, **common)
    assert found.data.length == 64
    assert found.data.truncation == "drop"
    with pytest.raises(UserError, match=r"data\.length is 64 and 1024\. Say which with `--length`"):
        make_options(["one", "two"], data_options=nothing, **common)
    assert (
        make_options(["one", "two"], data_options=nothing | {"length": 9}, **common).data.length
        == 9
    )


def test_the_default_length_is_what_every_model_reads(tmp_path):
    tiny.model_folder(tmp_path / "short", max_position_embeddings=96)
    tiny.model_folder(tmp_path / "long")
    models = [str(tmp_path / name) for name in ("long", "short")]
    common = {"sources": ["r"], "out": str(tmp_path / "out"), "prices": []}
    nothing = dict.fromkeys(("length", "loss_on", "prompt_template"))
    assert make_options(models, data_options=nothing, **common).data.length == 96
    with pytest.raises(UserError, match=r"^--length: 97 places are more than the 96 that .*short"):
        make_options(models, data_options=nothing | {"length": 97}, **common)


def test_the_picture_says_what_the_table_says(place: Place):
    html = (place.out / "index.html").read_text()
    (label,) = re.findall(r'<svg role="img" aria-label="(.*?)"', html)
    lines = [(name, value(place, name, "bits_per_byte")) for name in NAMES]
    said = [f"{name} {x['value']:.3f}, from {x['low']:.3f} to {x['high']:.3f}" for name, x in lines]
    assert label == f"Bits per byte: {'; '.join(said)}."


def test_the_page_says_every_number_of_the_record(place: Place):
    shown = {
        (one.get("data-model", ""), one["data-quantity"], one.get("data-bin", ""))
        for one in Data((place.out / "index.html").read_text()).found
    }
    there = {(line.get("model", ""), line["quantity"], line.get("bin", "")) for line in place.lines}
    # What the two sides of a difference cost by themselves is for programs.
    parts = {one for one in there if one[1] == "bits_per_byte" and one[2]}
    assert there - parts <= shown <= there
