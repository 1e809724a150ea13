"""The sheet is blind, safe in a spreadsheet, and read back as it was meant, or refused by row."""

import csv
import io

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxdistill.compare.decision_rules import judge_preference
from jaxdistill.compare.human_eval import (
    Judgement,
    add_preferences,
    format_sheet,
    make_blind_pairs,
    preference_share,
    read_sheet,
)
from jaxdistill.compare.judgement_csv import COLUMNS
from jaxdistill.compare.metrics import ComparisonMetrics
from jaxdistill.compare.options import check_output_folder
from jaxdistill.errors import UserError

PROMPTS = [f"What is {n}?" for n in range(12)]
ANSWERS = {
    "big": [f"It is {n}, the number." for n in range(12)],
    "small": [f'=SUM({n}) "quoted",\nand a line' for n in range(12)],
    "other": ["-1", "+2", "@x", *(f"{n} is {n}" for n in range(9))],
}


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def saved(tmp_path, changed: list[dict[str, str]], columns=COLUMNS, **options):
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", **options)
    writer.writeheader()
    writer.writerows(changed)
    path = tmp_path / "judgements.csv"
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    return path


def test_the_sheet_is_blind_and_no_cell_is_a_formula():
    found = make_blind_pairs(PROMPTS, ANSWERS)
    text = format_sheet(found, {})
    sheet = rows(text)
    assert [row["number"] for row in sheet] == [str(n) for n in range(1, 25)]
    assert not any(cell.startswith(tuple("=+-@")) for row in sheet for cell in row.values())
    assert not any(name in text for name in ANSWERS)
    # Neither the place in a row nor the round tells who it is, and what the first model said
    # does not come twice in a row.
    for name in ("small", "other"):
        sides = [pair.is_candidate_first for pair in found if pair.candidate == name]
        assert 0 < sum(sides) < len(sides)
    assert len({pair.candidate for pair in found[: len(PROMPTS)]}) == 2
    assert [pair.prompt for pair in found] == PROMPTS * 2
    assert found == make_blind_pairs(PROMPTS, ANSWERS)


def test_what_is_filled_in_is_read_back(tmp_path):
    found = make_blind_pairs(PROMPTS, ANSWERS)
    sheet = rows(format_sheet(found, {}))
    for row, pair in zip(sheet, found, strict=True):
        if pair.candidate == "small":  # who always wins
            row["better"] = "1" if pair.is_candidate_first else "2"
    sheet[0]["note"] = "-5 for both"
    del sheet[5]
    judged = read_sheet(saved(tmp_path, sheet), found)
    record = ComparisonMetrics()
    add_preferences(record, ["small", "other"], found, judged)
    counts = {
        name: [record.get(name, q).value for q in ("wins", "ties", "losses", "not_judged")]
        for name in ("small", "other")
    }
    gone = found[5].candidate == "small"
    assert counts == {"small": [12 - gone, 0, 0, gone], "other": [0, 0, 0, 12]}
    assert record.get("other", "preferred") is None
    again = read_sheet(saved(tmp_path, rows(format_sheet(found, judged))), found)
    assert again == judged
    assert judged[1].note == "-5 for both"


@settings(max_examples=30)
@given(st.lists(st.text(max_size=30), min_size=2, max_size=2), st.text(max_size=20))
def test_any_answer_survives(tmp_path_factory, answers, prompt):
    assume(answers[0].split() != answers[1].split())
    found = make_blind_pairs([prompt], {"big": answers[:1], "small": answers[1:]})
    path = tmp_path_factory.mktemp("sheet") / "sheet.csv"
    path.write_bytes(format_sheet(found, {1: Judgement("tie", "fine")}).encode())
    assert read_sheet(path, found) == {1: Judgement("tie", "fine")}


def test_a_spreadsheet_may_change_delimiters_line_ends_and_case(tmp_path):
    found = make_blind_pairs(PROMPTS[:1], {name: texts[:1] for name, texts in ANSWERS.items()})
    sheet = rows(format_sheet(found, {}))
    for row in sheet:
        row["better"] = " Tie "
        row["answer_1"] = row["answer_1"].replace("\n", "\r\n")
    path = saved(tmp_path, sheet, delimiter=";", lineterminator="\n")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert {one.choice for one in read_sheet(path, found).values()} == {"tie"}
    path = saved(tmp_path, sheet, delimiter="\t")
    path.write_bytes(path.read_bytes().decode().encode("utf-16"))  # "Unicode text"
    assert {one.choice for one in read_sheet(path, found).values()} == {"tie"}


@pytest.mark.parametrize(
    ("change", "said"),
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
def test_wrong_rows_are_refused_by_number(tmp_path, change, said):
    found = make_blind_pairs(PROMPTS, ANSWERS)
    sheet = rows(format_sheet(found, {}))
    sheet[1] |= change
    with pytest.raises(UserError, match=said):
        read_sheet(saved(tmp_path, sheet), found)


def test_all_wrong_rows_are_told_at_once(tmp_path):
    found = make_blind_pairs(PROMPTS, ANSWERS)
    sheet = [{**row, "better": "x"} for row in rows(format_sheet(found, {}))[:3]]
    with pytest.raises(UserError) as error:
        read_sheet(saved(tmp_path, sheet), found)
    assert len(error.value.lines) == 3


def test_wrong_files_are_refused(tmp_path):
    found = make_blind_pairs(PROMPTS, ANSWERS)
    path = saved(tmp_path, rows(format_sheet(found, {})), [c for c in COLUMNS if c != "better"])
    with pytest.raises(UserError, match=r"has no column `better`; expected number, prompt"):
        read_sheet(path, found)
    path.write_bytes(b"number\xff")
    with pytest.raises(UserError, match="not UTF-8"):
        read_sheet(path, found)
    path.write_text("")
    with pytest.raises(UserError, match="has no column `number`"):
        read_sheet(path, found)
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_sheet(tmp_path / "none.csv", found)


def test_no_judgement_is_overwritten_unread(tmp_path):
    found = make_blind_pairs(PROMPTS, ANSWERS)
    path = tmp_path / "judgements.csv"
    path.write_bytes(format_sheet(found, {}).encode())
    check_output_folder(tmp_path, None)
    path.write_bytes(format_sheet(found, {3: Judgement("2")}).encode())
    with pytest.raises(UserError, match="holds judgements, which would be lost"):
        check_output_folder(tmp_path, None)
    check_output_folder(tmp_path, str(path))
    for name in (".DS_Store", ".~lock.judgements.csv#"):  # desktops and spreadsheets leave these
        (tmp_path / name).write_text("")
    check_output_folder(tmp_path, str(path))
    (tmp_path / "thesis.doc").write_text("years of work")
    with pytest.raises(UserError, match=r"holds thesis\.doc, which no comparison wrote"):
        check_output_folder(tmp_path, str(path))


def test_a_prompt_of_any_length_is_read_back(tmp_path):
    found = make_blind_pairs(["why " * 50_000], {"big": ["Yes."], "small": ["No."]})
    path = tmp_path / "judgements.csv"
    path.write_bytes(format_sheet(found, {}).encode())
    check_output_folder(tmp_path, None)  # nothing is judged in it
    path.write_bytes(format_sheet(found, {1: Judgement("tie")}).encode())
    assert read_sheet(path, found) == {1: Judgement("tie")}


def test_the_share_counts_ties_as_halves_and_doubts_few():
    # The exact interval of 5 in 10, as tables have it.
    found = preference_share(4, 2, 4)
    assert found.value == 0.5
    assert (found.low, found.high) == pytest.approx((0.1871, 0.8129), abs=1e-4)
    assert preference_share(5, 0, 0).low < 0.5 < preference_share(6, 0, 0).low
    assert preference_share(0, 0, 6).high < 0.5 < preference_share(0, 0, 5).high
    assert (preference_share(6, 0, 0).high, preference_share(0, 0, 6).low) == (1.0, 0.0)


@pytest.mark.parametrize("tied", [0.0, 0.2, 0.5, 0.8])
def test_who_cannot_tell_models_apart_decides_in_5_percent_at_most(tied: float):
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
    found = make_blind_pairs(PROMPTS[:2], {name: texts[:2] for name, texts in ANSWERS.items()})
    sheet = rows(format_sheet(found, {}))
    for row, better in zip(sheet, ("1.0", "2,0", "TIE", ""), strict=True):
        row |= {"number": f"{row['number']}.0", "better": better}
    blank = dict.fromkeys(COLUMNS, "")
    path = saved(tmp_path, [sheet[0], blank, *sheet[1:], blank], COLUMNS[:-1], delimiter=";")
    head, _, rest = path.read_bytes().decode().partition("\r\n")
    path.write_bytes(f"sep=;\r\n{head.upper()}\r\n{rest}\r\n".encode())
    judged = read_sheet(path, found)
    assert {number: one.choice for number, one in judged.items()} == {1: "1", 2: "2", 3: "tie"}
    sheet[1]["better"] = "3"  # still numbered as a spreadsheet numbers it
    with pytest.raises(UserError, match=r"row 4: `better` is '3'"):
        read_sheet(saved(tmp_path, [sheet[0], blank, *sheet[1:]]), found)


def test_nobody_has_to_judge_answers_of_the_same_words():
    found = make_blind_pairs(["a", "b"], {"big": ["Yes.", "No."], "small": ["Yes. \n", "Yes."]})
    assert [(pair.index, pair.prompt) for pair in found] == [(1, "b")]
