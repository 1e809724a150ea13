"""The sheet is blind and safe in a spreadsheet, and is read back as filled in or refused by row."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxdistill.compare.comparison import _find_output_folder
from jaxdistill.compare.human_eval import (
    COLUMNS,
    Judgement,
    add_preferences,
    format_sheet,
    has_judgements,
    make_blind_pairs,
    preference_share,
    read_sheet,
)
from jaxdistill.compare.metrics import ComparisonMetrics
from jaxdistill.compare.options import CompareOptions
from jaxdistill.compare.recommendation import judge_preference
from jaxdistill.data import DataConfig
from jaxdistill.errors import UserError

PROMPTS = [f"What is {n}?" for n in range(12)]
COMPLETIONS = {
    "big": [f"It is {n}, the number." for n in range(12)],
    "small": [f'=SUM({n}) "quoted",\nand a line' for n in range(12)],
    "other": ["-1", "+2", "@x", *(f"{n} is {n}" for n in range(9))],
}


def read_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def write_sheet(tmp_path, rows: list[dict[str, str]], columns=COLUMNS, **options):
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", **options)
    writer.writeheader()
    writer.writerows(rows)
    path = tmp_path / "judgements.csv"
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    return path


def test_the_sheet_is_blind_and_no_cell_is_a_formula():
    pairs = make_blind_pairs(PROMPTS, COMPLETIONS)
    text = format_sheet(pairs, {})
    sheet = read_rows(text)
    assert [row["number"] for row in sheet] == [str(n) for n in range(1, 25)]
    assert not any(cell.startswith(tuple("=+-@")) for row in sheet for cell in row.values())
    assert not any(name in text for name in COMPLETIONS)
    # Neither the order in a row nor the round tells the model, and pairs of one prompt, which share
    # the first model's completion, are not neighbours.
    for name in ("small", "other"):
        sides = [pair.is_candidate_first for pair in pairs if pair.candidate == name]
        assert 0 < sum(sides) < len(sides)
    assert len({pair.candidate for pair in pairs[: len(PROMPTS)]}) == 2
    assert [pair.prompt for pair in pairs] == PROMPTS * 2
    assert pairs == make_blind_pairs(PROMPTS, COMPLETIONS)


def test_judgements_are_read_back(tmp_path):
    pairs = make_blind_pairs(PROMPTS, COMPLETIONS)
    sheet = read_rows(format_sheet(pairs, {}))
    for row, pair in zip(sheet, pairs, strict=True):
        if pair.candidate == "small":  # wins every pair
            row["better"] = "1" if pair.is_candidate_first else "2"
    sheet[0]["note"] = "-5 for both"
    del sheet[5]
    judgements = read_sheet(write_sheet(tmp_path, sheet), pairs)
    metrics = ComparisonMetrics(COMPLETIONS)
    add_preferences(metrics, pairs, judgements)
    counts = {
        name: [metrics.value(name, q) for q in ("wins", "ties", "losses", "not_judged")]
        for name in ("small", "other")
    }
    num_deleted = int(pairs[5].candidate == "small")
    assert counts == {"small": [12 - num_deleted, 0, 0, num_deleted], "other": [0, 0, 0, 12]}
    assert metrics.get("other", "preferred") is None
    sheet = read_rows(format_sheet(pairs, judgements))
    assert read_sheet(write_sheet(tmp_path, sheet), pairs) == judgements
    assert judgements[1].note == "-5 for both"


@settings(max_examples=30)
@given(st.lists(st.text(max_size=30), min_size=2, max_size=2), st.text(max_size=20))
def test_any_completion_is_read_back(tmp_path_factory, texts, prompt):
    assume(texts[0].split() != texts[1].split())
    pairs = make_blind_pairs([prompt], {"big": texts[:1], "small": texts[1:]})
    path = tmp_path_factory.mktemp("sheet") / "sheet.csv"
    path.write_bytes(format_sheet(pairs, {1: Judgement("tie", "fine")}).encode())
    assert read_sheet(path, pairs) == {1: Judgement("tie", "fine")}


def test_a_spreadsheet_may_change_delimiters_line_ends_and_case(tmp_path):
    pairs = make_blind_pairs(PROMPTS[:1], {name: texts[:1] for name, texts in COMPLETIONS.items()})
    sheet = read_rows(format_sheet(pairs, {}))
    for row in sheet:
        row["better"] = " Tie "
        row["answer_1"] = row["answer_1"].replace("\n", "\r\n")
    path = write_sheet(tmp_path, sheet, delimiter=";", lineterminator="\n")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert {judgement.choice for judgement in read_sheet(path, pairs).values()} == {"tie"}
    path = write_sheet(tmp_path, sheet, delimiter="\t")
    path.write_bytes(path.read_bytes().decode().encode("utf-16"))  # "Unicode text"
    assert {judgement.choice for judgement in read_sheet(path, pairs).values()} == {"tie"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"better": "3"}, r"row 3: `better` is '3', expected 1, 2, tie or nothing"),
        ({"better": "ties"}, r"row 3: `better` is 'ties'.*Did you mean `tie`"),
        ({"number": "99"}, r"row 3: `number` is '99', expected 1 to 24"),
        ({"number": "one"}, r"row 3: `number` is 'one'"),
        ({"number": "1"}, r"row 3: (number 1 stands in the sheet twice|`\w+` is)"),
        ({"prompt": "What is it?"}, r"row 3: `prompt` is 'What is it\?', but these models"),
        ({"answer_2": "Else."}, r"row 3: `answer_2` is 'Else.', but these models"),
    ],
)
def test_wrong_rows_are_refused_by_row(tmp_path, change, message):
    pairs = make_blind_pairs(PROMPTS, COMPLETIONS)
    sheet = read_rows(format_sheet(pairs, {}))
    sheet[1] |= change
    with pytest.raises(UserError, match=message):
        read_sheet(write_sheet(tmp_path, sheet), pairs)


def test_all_wrong_rows_are_named_at_once(tmp_path):
    pairs = make_blind_pairs(PROMPTS, COMPLETIONS)
    sheet = [{**row, "better": "x"} for row in read_rows(format_sheet(pairs, {}))[:3]]
    with pytest.raises(UserError) as error:
        read_sheet(write_sheet(tmp_path, sheet), pairs)
    assert len(error.value.lines) == 3


def test_wrong_files_are_refused(tmp_path):
    pairs = make_blind_pairs(PROMPTS, COMPLETIONS)
    path = write_sheet(
        tmp_path, read_rows(format_sheet(pairs, {})), [c for c in COLUMNS if c != "better"]
    )
    with pytest.raises(UserError, match=r"has no column `better`; expected number, prompt"):
        read_sheet(path, pairs)
    path.write_bytes(b"number\xff")
    with pytest.raises(UserError, match="not UTF-8"):
        read_sheet(path, pairs)
    path.write_text("")
    with pytest.raises(UserError, match="has no column `number`"):
        read_sheet(path, pairs)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_sheet(tmp_path / "none.csv", pairs)


def test_judgements_and_other_files_are_not_overwritten(tmp_path, monkeypatch):
    def output_folder(judgements=None, out=tmp_path / "out"):
        options = CompareOptions(models={}, data=data, out=out, judgements=judgements)
        return _find_output_folder(options).name

    data, pairs = DataConfig(sources=("rows.jsonl",)), make_blind_pairs(PROMPTS, COMPLETIONS)
    assert output_folder() == "out"
    path = tmp_path / "out" / "judgements.csv"
    path.parent.mkdir()
    path.write_bytes(format_sheet(pairs, {}).encode())
    assert output_folder() == "out"
    path.write_bytes(format_sheet(pairs, {3: Judgement("2")}).encode())
    assert output_folder() == "out-2"
    for name in (".DS_Store", ".~lock.judgements.csv#"):  # desktops and spreadsheets leave these
        path.with_name(name).write_text("")
    assert output_folder(str(path)) == "out"
    path.with_name("thesis.doc").write_text("years of work")
    assert output_folder(str(path)) == "out-2"
    (tmp_path / "out-2").mkdir()
    assert output_folder(str(path)) == "out-3"
    monkeypatch.chdir(tmp_path / "out")
    assert output_folder(out=Path()) == "out-3"


def test_a_prompt_of_any_length_is_read_back(tmp_path):
    pairs = make_blind_pairs(["why " * 50_000], {"big": ["Yes."], "small": ["No."]})
    path = tmp_path / "judgements.csv"
    path.write_bytes(format_sheet(pairs, {}).encode())
    assert not has_judgements(path)
    path.write_bytes(format_sheet(pairs, {1: Judgement("tie")}).encode())
    assert read_sheet(path, pairs) == {1: Judgement("tie")}


def test_the_share_counts_ties_as_halves_and_is_unsure_of_few():
    # The exact interval of 5 in 10, from published tables.
    share = preference_share(4, 2, 4)
    assert share.value == 0.5
    assert (share.low, share.high) == pytest.approx((0.1871, 0.8129), abs=1e-4)
    assert preference_share(5, 0, 0).low < 0.5 < preference_share(6, 0, 0).low
    assert preference_share(0, 0, 6).high < 0.5 < preference_share(0, 0, 5).high
    assert (preference_share(6, 0, 0).high, preference_share(0, 0, 6).low) == (1.0, 0.0)


@pytest.mark.parametrize("tied", [0.0, 0.2, 0.5, 0.8])
def test_random_judgements_decide_in_5_percent_at_most(tied: float):
    side = (1 - tied) / 2
    for count in range(1, 31):
        decided = sum(
            stats.multinomial.pmf([wins, ties, losses], count, [side, tied, side])
            for wins in range(count + 1)
            for ties in range(count + 1 - wins)
            for losses in (count - wins - ties,)
            if judge_preference(preference_share(wins, ties, losses)) != "silent"
        )
        assert decided <= 0.05


def test_a_sheet_is_read_as_spreadsheets_leave_it(tmp_path):
    pairs = make_blind_pairs(PROMPTS[:2], {name: texts[:2] for name, texts in COMPLETIONS.items()})
    sheet = read_rows(format_sheet(pairs, {}))
    for row, better in zip(sheet, ("1.0", "2,0", "TIE", ""), strict=True):
        row |= {"number": f"{row['number']}.0", "better": better}
    blank = dict.fromkeys(COLUMNS, "")
    path = write_sheet(tmp_path, [sheet[0], blank, *sheet[1:], blank], COLUMNS[:-1], delimiter=";")
    head, _, rest = path.read_bytes().decode().partition("\r\n")
    path.write_bytes(f"sep=;\r\n{head.upper()}\r\n{rest}\r\n".encode())
    judgements = read_sheet(path, pairs)
    assert {number: judgement.choice for number, judgement in judgements.items()} == {
        1: "1",
        2: "2",
        3: "tie",
    }
    sheet[1]["better"] = "3"  # row numbers are those of the spreadsheet, blank rows included
    with pytest.raises(UserError, match=r"row 4: `better` is '3'"):
        read_sheet(write_sheet(tmp_path, [sheet[0], blank, *sheet[1:]]), pairs)


def test_completions_of_the_same_words_are_no_pair():
    pairs = make_blind_pairs(["a", "b"], {"big": ["Yes.", "No."], "small": ["Yes. \n", "Yes."]})
    assert [(pair.number, pair.prompt) for pair in pairs] == [(1, "b")]
