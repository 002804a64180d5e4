import csv
import gzip
import io
import json
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training import rows
from training.errors import TrainingError

TICKETS = [
    {"id": "T-1", "subject": "Panne", "body": 'Le site dit "500", depuis hier\nsoir', "kind": "incident"},
    {"id": "T-2", "subject": "", "body": "どのプランがいいですか。", "kind": "advisory"},
    {"id": "T-3", "subject": "Zażółć; gęślą", "body": "  =cmd|' /C calc'!A0", "kind": "advisory"},
]
FORMS = ("t.csv", "t.jsonl", "t.ndjson", "t.parquet", "t.pq", "t.csv.gz", "t.jsonl.gz", "T.CSV", "T.JSONL.GZ", "t.sql")


def as_csv(records: list[dict[str, str]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(records[0]))
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().encode()


def as_json_lines(records: list[dict[str, str]]) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


def write(path: Path, records: list[dict[str, str]]) -> str | None:
    """Write `records` in the form that the name of `path` says; returns the database where that form needs one."""
    name = path.name.lower()
    if name.endswith((".parquet", ".pq")):
        pd.DataFrame(records).to_parquet(path)
    elif name.endswith(".sql"):
        database = path.with_suffix(".db")
        with sqlite3.connect(database) as connection:
            pd.DataFrame(records).to_sql("tickets", connection, index=False)
        connection.close()
        path.write_text("SELECT * FROM tickets ORDER BY id", encoding="utf-8")
        return f"sqlite:///{database}"
    else:
        content = as_csv(records) if ".csv" in name else as_json_lines(records)
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return None


@pytest.fixture
def standard_input(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    def put(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    return put


def refusal(path: Path, database: str | None = None) -> str:
    """The one line that says why the table at `path` cannot be read; it names the file."""
    with pytest.raises(TrainingError) as caught:
        list(rows.read(str(path), database))
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert list(rows.read(str(path), write(path, TICKETS))) == TICKETS


def test_a_dash_is_json_lines_on_standard_input(standard_input: Callable[[bytes], None]) -> None:
    standard_input(as_json_lines(TICKETS))
    assert list(rows.read("-")) == TICKETS


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(path, TICKETS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert list(rows.read(str(path))) == TICKETS


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_blank_lines_and_foreign_line_ends_are_no_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(path, [{"id": "T-1", "body": "one"}, {"id": "T-2", "body": "two"}])
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n\r\n"))
    assert list(rows.read(str(path))) == [{"id": "T-1", "body": "one"}, {"id": "T-2", "body": "two"}]


# Any text that UTF-8 can carry, in names and values; a column name of spaces only is still a name.
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_TABLE = st.lists(_TEXT.filter(bool), min_size=1, max_size=4, unique=True).flatmap(
    lambda header: st.lists(st.fixed_dictionaries(dict.fromkeys(header, _TEXT)), min_size=1, max_size=4)
)


@given(records=_TABLE)
@settings(max_examples=60, deadline=None)
def test_csv_and_json_lines_lose_nothing(records: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("forms")
    for name in ("t.csv", "t.jsonl"):
        write(folder / name, records)
        assert list(rows.read(str(folder / name))) == records


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.parquet"])
def test_a_table_of_no_rows_is_read_as_none(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "t.parquet":
        pd.DataFrame({"subject": [], "body": []}).to_parquet(path)
    else:
        path.write_bytes(b"subject,body\n" if name == "t.csv" else b"")
    assert list(rows.read(str(path))) == []


def test_an_empty_csv_file_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").touch()
    assert list(rows.read(str(tmp_path / "t.csv"))) == []


@pytest.mark.parametrize("broken", [b'{"id": "T-2", "bo', b'["a", "list"]', b'"text"', b"7", b"{} {}", b'{"body": "\\ud800"}', b'{"body": NaN}'])
def test_a_broken_json_line_is_told_by_number_and_reading_goes_on(tmp_path: Path, broken: bytes) -> None:
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"id": "T-1"}\n' + broken + b'\n\n{"id": "T-3"}\n')
    first, bad, third = rows.read(str(path))
    assert (first, third) == ({"id": "T-1"}, {"id": "T-3"})
    assert isinstance(bad, rows.BadRow)
    assert bad.number == 2
    assert "t.jsonl, line 2:" in bad.why


@pytest.mark.parametrize(("broken", "fields"), [("T-2", 1), ("T-2,a,b,c", 4)])
def test_a_csv_row_of_another_length_is_told_by_number_and_reading_goes_on(tmp_path: Path, broken: str, fields: int) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"id,subject,body\nT-1,s,b\n{broken}\nT-3,s,b\n", encoding="utf-8")
    first, bad, third = rows.read(str(path))
    assert first == {"id": "T-1", "subject": "s", "body": "b"}
    assert third == {"id": "T-3", "subject": "s", "body": "b"}
    assert isinstance(bad, rows.BadRow)
    assert "t.csv, row 3:" in bad.why
    assert f"{fields} fields, the header has 3" in bad.why


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl", "t.csv.gz", "t.jsonl.gz"])
def test_another_encoding_is_refused_with_the_byte_and_the_cure(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    content = as_csv(TICKETS[:1]) if ".csv" in name else as_json_lines(TICKETS[:1])
    latin = content.decode().replace("Panne", "\xc9t\xe9").encode("latin-1")
    path.write_bytes(gzip.compress(latin) if name.endswith(".gz") else latin)
    message = refusal(path)
    assert "0xc9" in message
    assert "UTF-8" in message
    assert "iconv" in message


def test_utf_16_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(as_csv(TICKETS).decode().encode("utf-16"))
    assert "not UTF-8" in refusal(tmp_path / "t.csv")


def test_another_encoding_on_standard_input_is_refused(standard_input: Callable[[bytes], None]) -> None:
    standard_input('{"body": "été"}\n'.encode("latin-1"))
    with pytest.raises(TrainingError, match="standard input: not UTF-8"):
        list(rows.read("-"))


def test_another_encoding_of_a_query_is_refused(tmp_path: Path) -> None:
    (tmp_path / "q.sql").write_bytes("SELECT 'été' AS body".encode("latin-1"))
    assert "UTF-8" in refusal(tmp_path / "q.sql", "sqlite://")


@pytest.mark.parametrize("name", ["t.csv.gz", "t.jsonl.gz"])
def test_a_packed_file_that_is_cut_is_refused_after_its_good_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    many = [{"id": f"T-{i}", "body": f"text {i * i}"} for i in range(5000)]
    write(path, many)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "cut in the middle" in refusal(path)
    assert next(iter(rows.read(str(path)))) == many[0]


@pytest.mark.parametrize("where", [10, 500, 1500, -8, -1])  # the first block's kind, its content, the check sum, the length
def test_a_packed_file_with_damaged_bytes_is_refused(tmp_path: Path, where: int) -> None:
    path = tmp_path / "t.jsonl.gz"
    write(path, [{"id": f"T-{i}", "body": f"text {i * i}"} for i in range(500)])
    damaged = bytearray(path.read_bytes())
    damaged[where] ^= 0xFF
    path.write_bytes(bytes(damaged))
    assert "damaged" in refusal(path)


def test_a_file_that_is_packed_in_name_only_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl.gz").write_bytes(b'{"body": "plain"}\n')
    assert "damaged" in refusal(tmp_path / "t.jsonl.gz")


def test_a_csv_that_ends_in_an_open_quote_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('id,body\nT-1,"begins and is cut\nT-2,b\n', encoding="utf-8")
    message = refusal(tmp_path / "t.csv")
    assert "near line 3" in message
    assert "not valid CSV" in message


@pytest.mark.parametrize("keep", [0, 4, 0.5, 0.99])
def test_a_parquet_file_that_is_cut_is_refused(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "t.parquet"
    write(path, TICKETS)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if 0 < keep < 1 else int(keep)])
    assert "cut in the middle" in refusal(path)


def test_a_parquet_file_with_damaged_pages_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write(path, TICKETS)
    damaged = bytearray(path.read_bytes())
    damaged[20:80] = bytes(byte ^ 0x55 for byte in damaged[20:80])
    path.write_bytes(bytes(damaged))
    assert "not a Parquet file" in refusal(path)


def test_a_missing_file_a_folder_and_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "missing.csv")
    (tmp_path / "folder.csv").mkdir()
    assert "no such file" in refusal(tmp_path / "folder.csv")
    for name in ("t.xlsx", "t.parquet.gz", "t"):
        (tmp_path / name).touch()
        assert "expected .csv, .jsonl, .parquet" in refusal(tmp_path / name)


def test_a_query_needs_a_database_and_says_how_to_name_it(tmp_path: Path) -> None:
    (tmp_path / "q.sql").write_text("SELECT 1 AS body", encoding="utf-8")
    message = refusal(tmp_path / "q.sql")
    assert "--database" in message
    assert "POINTSMAN_DATABASE_URL" in message


@pytest.mark.parametrize("query", ["SELECT * FROM nowhere", "SELEC 1", "CREATE TABLE t (a)", ""])
def test_a_query_that_fails_is_refused_by_name(tmp_path: Path, query: str) -> None:
    (tmp_path / "q.sql").write_text(query, encoding="utf-8")
    assert "the query failed" in refusal(tmp_path / "q.sql", "sqlite://")


def test_a_failed_query_does_not_show_the_password_of_the_database(tmp_path: Path) -> None:
    (tmp_path / "q.sql").write_text("SELECT 1", encoding="utf-8")
    for database in ("nothing://me:hunter2@host/db", f"sqlite:///{tmp_path}/no/such/folder/hunter2.db"):
        assert "hunter2" not in refusal(tmp_path / "q.sql", database)


def test_a_colon_in_a_query_is_a_colon(tmp_path: Path) -> None:
    (tmp_path / "q.sql").write_text("SELECT 'see :sales at 10:30' AS body", encoding="utf-8")
    assert list(rows.read(str(tmp_path / "q.sql"), "sqlite://")) == [{"body": "see :sales at 10:30"}]


def test_the_text_of_a_row_is_one_column_or_subject_and_body() -> None:
    row = {"a": "head", "b": None, "n": 7}
    assert rows.text_of(row, ("a", "b")) == ("head", "")
    assert rows.text_of(row, ("n",)) == ("", "7")
    assert rows.text_of(row, ("missing", "a")) == ("", "head")
