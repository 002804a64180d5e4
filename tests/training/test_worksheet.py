import csv
import gzip
import io
import json
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

import pointsman
from training import relabel, worksheet
from training.errors import TrainingError
from training.worksheet import Question

HISTORY: list[dict[str, Any]] = [
    {"id": "a1", "subject": "Site down", "body": "error 500\non every page", "department": "network", "cost": 1.10, "note": 'say "hi", é'},
    {"id": "a2", "subject": "Invoice", "body": "wrong VAT", "department": "backoffice", "cost": 2, "note": ""},
    {"id": "a3", "subject": "", "body": "=cmd|' /C calc'!A0", "department": "sales", "cost": 3, "note": "x"},
]


def question(place: int, corrected: str, **other: Any) -> Question:
    row = HISTORY[place]
    text = "\n".join(part for part in (row["subject"], row["body"]) if part)
    return Question("h", place + 1, row["id"], "department", text, row["department"], "", 0.5, corrected=corrected)._replace(**other)


def sheet(path: Path, *questions: Question) -> Path:
    file = path / "worksheet.csv"
    file.write_bytes(b"".join(worksheet.write(questions)))
    return file


def table(path: Path, suffix: str = "jsonl") -> Path:
    file = path / f"history.{suffix}"
    if suffix.startswith("jsonl"):
        content = "\n".join(json.dumps(row, ensure_ascii=False) for row in HISTORY).encode()  # no line end at the end
    elif suffix.startswith("csv"):
        out = io.StringIO()
        lines = csv.DictWriter(out, list(HISTORY[0]), lineterminator="\r\n")
        lines.writeheader()
        lines.writerows(HISTORY)
        content = b"\xef\xbb\xbf" + out.getvalue().encode() + b"\r\n"
    else:
        pd.DataFrame(HISTORY).to_parquet(file)
        return file
    file.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    return file


def merge(history: Path, filled: Path, *more: str, out: Path | None = None) -> Result:
    arguments = ["worksheet", "merge", str(history), str(filled), "--out", str(out or history), *more]
    return CliRunner().invoke(pointsman.main, arguments, catch_exceptions=False)


def test_what_a_spreadsheet_would_run_is_written_as_text_and_read_back_as_it_was(tmp_path: Path) -> None:
    hostile = [question(2, "=HYPERLINK(1)"), question(0, "+1", words="@SUM(A1)", suggested="-2"), question(1, "'quoted", given="\tx")]
    file = sheet(tmp_path, *hostile)
    cells = [cell for row in csv.reader(io.StringIO(file.read_text(encoding="utf-8-sig"))) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t"))]
    assert [q.corrected for _, q in worksheet.read(str(file))] == ["=HYPERLINK(1)", "+1", "'quoted"]
    assert next(worksheet.read(str(file)))[1].text == HISTORY[2]["body"]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@settings(max_examples=50, deadline=None)
def test_every_cell_can_be_undone(cell: str) -> None:
    assert worksheet._plain(worksheet._marked(cell)) == cell


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz", "csv", "csv.gz"])
def test_only_the_filled_labels_change_and_every_other_row_stays_byte_for_byte(tmp_path: Path, suffix: str) -> None:
    history = table(tmp_path, suffix)
    opened = gzip.open if suffix.endswith(".gz") else open
    with opened(history, "rb") as file:
        before = file.read()
    out = tmp_path / f"out.{suffix}"
    result = merge(history, sheet(tmp_path, question(0, ""), question(1, "sales")), out=out)
    assert result.exit_code == 0, result.output
    with opened(out, "rb") as file:
        after = file.read()
    assert after == before.replace(b"backoffice", b"sales")
    assert before != after


def test_a_label_is_changed_in_parquet_and_the_types_of_the_others_stay(tmp_path: Path) -> None:
    history = table(tmp_path, "parquet")
    before = pd.read_parquet(history)
    assert merge(history, sheet(tmp_path, question(2, "hosting")), "--new-labels").exit_code == 0
    after = pd.read_parquet(history)
    assert after["department"].tolist() == ["network", "backoffice", "hosting"]
    pd.testing.assert_frame_equal(before.drop(columns="department"), after.drop(columns="department"))


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_table_without_the_column_gets_it(tmp_path: Path, suffix: str) -> None:
    history = table(tmp_path, suffix)
    result = merge(history, sheet(tmp_path, question(1, "incident", target="kind", given="")))
    assert result.exit_code == 0, result.output
    readers: dict[str, Any] = {"jsonl": partial(pd.read_json, lines=True), "csv": pd.read_csv, "parquet": pd.read_parquet}
    frame = readers[suffix](history)
    assert frame["kind"].fillna("").tolist() == ["", "incident", ""]
    assert frame["department"].tolist() == [row["department"] for row in HISTORY]
    assert "'incident' is a label that the table did not have" in result.output


def test_what_does_not_fit_is_named_and_left(tmp_path: Path) -> None:
    history = table(tmp_path)
    before = history.read_bytes()
    rows = [
        question(0, "sales", id="gone"),  # an id that the table does not have
        question(0, "sales", given="domains"),  # the label was changed since
        question(1, "sales"),  # two answers
        question(1, "network"),
        question(2, "network", text="another text"),  # another table's ticket
        question(2, "network", id="", row=9),
        question(2, "sales"),  # so already
    ]
    result = merge(history, sheet(tmp_path, *rows))
    assert result.exit_code == 1
    for line, why in enumerate(
        ["no tickets have the id gone", "network in the table by now, not domains", "2 answers", "2 answers", "another text"], 2
    ):
        assert f"worksheet.csv, row {line}: " in result.output
        assert why in result.output
    assert "row 7: the table has no ticket 9" in result.output
    assert "0 labels changed, 1 were so already, 6 left" in result.output
    assert history.read_bytes() == before


def test_a_label_that_no_ticket_has_is_taken_for_a_slip_unless_new_ones_are_allowed(tmp_path: Path) -> None:
    history = table(tmp_path)
    before = history.read_bytes()
    slips = sheet(tmp_path, question(0, "Sales "), question(1, "hosting"))
    result = merge(history, slips)
    assert result.exit_code == 1
    assert (
        "worksheet.csv, row 2: 'Sales' is a label that the table does not have; 'sales' is meant?; --new-labels takes it; left as it was"
        in result.output
    )
    assert "row 3: 'hosting' is a label that the table does not have; --new-labels takes it; left" in result.output
    assert history.read_bytes() == before
    result = merge(history, slips, "--new-labels")
    assert result.exit_code == 0
    assert "'hosting' is a label that the table did not have (1)" in result.output
    assert [json.loads(line)["department"] for line in history.read_text(encoding="utf-8").splitlines()] == ["Sales", "hosting", "sales"]


def test_a_ticket_without_an_id_is_known_by_its_row_and_its_text(tmp_path: Path) -> None:
    history = tmp_path / "h.csv"
    history.write_text("title,queue\nfirst,a\n\nsecond,b\n", encoding="utf-8")
    rows = [Question("h.csv", 2, "", "department", "second", "b", "", 0.1, corrected="a"), Question("h.csv", 1, "", "department", "second", "a", "", 0.1, corrected="b")]  # fmt: skip
    result = merge(history, sheet(tmp_path, *rows), "--text", "title", "--target", "department=queue")
    assert history.read_text(encoding="utf-8") == "title,queue\nfirst,a\n\nsecond,a\n"
    assert "row 3: the ticket has another text" in result.output


@pytest.mark.parametrize("mark", [";", "\t"])
def test_a_worksheet_comes_back_as_a_spreadsheet_saves_it_elsewhere(tmp_path: Path, mark: str) -> None:
    history, filled = table(tmp_path), sheet(tmp_path, question(0, "sales"))
    rows = list(csv.reader(io.StringIO(filled.read_text(encoding="utf-8-sig"))))
    with filled.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out, delimiter=mark).writerows(rows)
    assert merge(history, filled).exit_code == 0
    assert json.loads(history.read_text(encoding="utf-8").splitlines()[0])["department"] == "sales"


def test_numbers_stay_as_they_are_written(tmp_path: Path) -> None:
    history = tmp_path / "h.jsonl"
    history.write_text('{"id":"a1","body":"x","department":"a","sum":1.10,"big":123456789012345678901234567890,"in":{"l":[1e3,true,null]}}\n')
    row = Question("h", 1, "a1", "department", "x", "a", "", 0.0, corrected="b")
    assert merge(history, sheet(tmp_path, row), "--new-labels").exit_code == 0
    assert (
        history.read_text() == '{"id":"a1","body":"x","department":"b","sum":1.10,"big":123456789012345678901234567890,"in":{"l":[1e3,true,null]}}\n'
    )


def test_what_is_no_worksheet_or_cannot_be_written_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    history = table(tmp_path)
    before = history.read_bytes()
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    assert "not a worksheet: no column row" in merge(history, other).output
    assert merge(history, other).exit_code == 2
    filled = sheet(tmp_path, question(0, "sales"))
    assert "expected a .jsonl file" in merge(history, filled, out=tmp_path / "out.csv").output
    assert merge(tmp_path / "query.sql", filled).exit_code == 2
    filled.write_bytes(filled.read_bytes().replace(b"Site", "Sit\xe9".encode("latin-1")))
    assert "not UTF-8; save it" in merge(history, filled).output
    assert history.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.jsonl", "other.csv", "worksheet.csv"]
    with pytest.raises(TrainingError, match=r"\.csv, \.jsonl or \.parquet"):
        relabel.form("-")
