"""`pointsman tickets export`: what it writes is a ticket table that `pointsman train` reads, whatever the customers wrote."""

import csv
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result

import pointsman
from service import database
from service.classify.repository import Record, store
from service.database import microseconds
from service.outcomes import repository
from service.outcomes.export import Labelled
from service.outcomes.repository import Told
from service.outcomes.story import Event
from training import rows
from training.table import read_table

START = microseconds(datetime(2026, 11, 2, 9, tzinfo=UTC))
FORMS = ("csv", "csv.gz", "jsonl", "jsonl.gz", "parquet")
HOSTILE = [
    '=HYPERLINK("http://evil.example","see")', "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "'=1", "' quoted",
    "a, b; c\td", 'say "hello"\n"twice"', "one\r\ntwo\rthree\n", "\u2028\u2029\x0b\x0c\x1c\x85", "<script>alert(1)</script>", "\ufeffmark", "\\N", "NULL", "nan",
    "\U0001f468\u200d\U0001f469 ﷽", "a" * 200_000, "\u202eright to left", "{{ 7 * 7 }}",
]  # fmt: skip


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database of judged tickets, each with one of `HOSTILE` as its subject, its body and more."""
    url = f"sqlite:///{tmp_path_factory.mktemp('export')}/pointsman.db"
    fill(url, HOSTILE)
    return url


def fill(url: str, texts: list[str]) -> None:
    engine = database.connect(url)
    database.migrate(engine)
    empty: dict[str, Any] = dict.fromkeys(Record._fields)
    records, told = [], []
    for i, text in enumerate(texts):
        short = text[:60]
        columns = {
            "decision_id": f"01{i:024}", "ticket_id": f"{short}{i}", "text_digest": f"{i:064}", "decided_at": START + i, "created_at": START + i,
            "model_version": "v1", "path": "fast", "language": "en", "kind": "advisory", "department": "hosting", "action": "suggest",
            "reasons": "", "decision": b"{}", "explanation": b"{}", "subject": text[:1000], "body": text, "customer_ref": short, "customer_tier": short,
        }  # fmt: skip
        records.append(Record(**empty | columns))
        label = ("incident", "advisory")[i % 2]
        events = [Event(START + 10**9, "1", "kind_corrected", label, None, "person"), Event(START + 10**9, "2", "closed", None, None, "person")]
        told += [Told(f"{short}{i}", event, "digest") for event in events]
    with engine.begin() as connection:
        store(connection, records)
        repository.add(connection, told, datetime.now(UTC))
        repository.retell(connection, {each.ticket_id for each in told})
    engine.dispose()


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(pointsman.main, [str(argument) for argument in arguments], catch_exceptions=False)


@pytest.fixture(autouse=True)
def _the_signal_is_put_back() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_json_lines_hold_every_text_exactly(url: str) -> None:
    result = run("tickets", "export", "--database", url, "-")
    assert (result.exit_code, result.stderr) == (0, f"{len(HOSTILE)} tickets written\n")
    found = [json.loads(line) for line in result.stdout_bytes.split(b"\n")[:-1]]
    assert [(ticket["subject"], ticket["body"]) for ticket in found] == [(text[:1000], text) for text in HOSTILE]
    assert {tuple(ticket) for ticket in found} == {Labelled._fields}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_a_table_that_training_reads(url: str, form: str, tmp_path: Path) -> None:
    output = tmp_path / f"labelled.{form}"
    assert run("tickets", "export", "--database", url, output).exit_code == 0
    read = list(rows.read(str(output)))
    texts = [row["body"] for row in read if isinstance(row, dict)]
    assert [text.removeprefix("'") for text in texts] == [text.removeprefix("'") for text in HOSTILE]
    if "csv" not in form:
        assert texts == HOSTILE
    table = read_table([str(output)])
    left = [problem for problem in table.problems if "same text" not in problem.problem and "no text" not in problem.problem]
    assert left == []
    assert len(table) + len(table.problems) == len(HOSTILE)
    assert table.text_columns == ("subject", "body")
    assert table.label_names("kind") == ["advisory", "incident"]
    assert table.label_names("department") == ["hosting"]
    assert set(table.languages) == {"en"}
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize("form", ["csv", "csv.gz"])
def test_no_cell_of_a_spreadsheet_is_a_formula(url: str, form: str, tmp_path: Path) -> None:
    output = tmp_path / f"labelled.{form}"
    run("tickets", "export", "--database", url, output)
    content = gzip.decompress(output.read_bytes()) if form.endswith(".gz") else output.read_bytes()
    found = list(csv.reader(io.StringIO(content.decode(), newline=""), strict=True))
    cells = [cell for row in found for cell in row]
    assert len(cells) == len(Labelled._fields) * (len(HOSTILE) + 1)
    assert [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))] == []
    assert sum(cell.startswith("'=HYPERLINK") for cell in cells) == 5  # id, subject, body, tier, reference
    assert {row[Labelled._fields.index("answer_shown")] for row in found[1:]} == {"true"}


def test_parquet_keeps_the_kinds_of_its_columns(url: str, tmp_path: Path) -> None:
    run("tickets", "export", "--database", url, tmp_path / "labelled.parquet")
    schema = pyarrow.parquet.read_schema(tmp_path / "labelled.parquet")
    assert tuple(schema.names) == Labelled._fields
    assert {name: str(kind) for name, kind in zip(schema.names, schema.types, strict=True) if str(kind) != "string"} == {"answer_shown": "bool"}


def test_the_same_tickets_give_the_same_file(url: str, tmp_path: Path) -> None:
    for name in ("one.jsonl.gz", "two.jsonl.gz"):
        run("tickets", "export", "--database", url, tmp_path / name)
    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "two.jsonl.gz").read_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_an_export_without_tickets_is_a_table_all_the_same(form: str, sqlite: str, tmp_path: Path) -> None:
    missing = run("tickets", "export", "--database", sqlite, tmp_path / f"none.{form}")
    assert missing.exit_code == 2  # looking makes no database
    assert "is not there" in missing.stderr
    assert list(tmp_path.iterdir()) == []
    run("keys", "list", "--database", sqlite)
    result = run("tickets", "export", "--database", sqlite, tmp_path / f"none.{form}")
    assert (result.exit_code, result.stderr) == (0, "0 tickets written\n")
    assert list(rows.read(str(tmp_path / f"none.{form}"))) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tickets.xlsx"], "tickets.xlsx: not a kind of table"),
        (["tickets.parquet.gz"], "tickets.parquet.gz: not a kind of table"),
        (["missing/tickets.csv"], "missing/tickets.csv: cannot be written: No such file"),
        (["--from", "2026-11-02", "--to", "2026-11-02", "tickets.csv"], "--to 2026-11-02: expected a day after --from 2026-11-02"),
        (["--from", "yesterday", "tickets.csv"], "'yesterday' does not match the format"),
        (["--database", "mysql://localhost/x", "tickets.csv"], "the database cannot be used"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(arguments: list[str], says: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("tickets", "export", "--database", url, *arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_period_and_the_options_reach_the_export(url: str) -> None:
    assert run("tickets", "export", "--database", url, "--from", "2026-11-03").stderr == "0 tickets written\n"
    assert run("tickets", "export", "--database", url, "--to", "2026-11-02").stderr == "0 tickets written\n"
    found = run("tickets", "export", "--database", url, "--from", "2026-11-02", "--to", "2026-11-03", "--all", "--independent").stdout_bytes
    assert {json.loads(line)["department"] for line in found.splitlines()} == {None}  # nobody but the router gave it


def test_a_killed_export_leaves_what_was_there(tmp_path: Path) -> None:
    """The reader of a pipe sees when it has begun; then it is ended in the middle."""
    url = f"sqlite:///{tmp_path}/pointsman.db"
    fill(url, ["x" * 150_000] * 400)
    output = tmp_path / "labelled.csv"
    output.write_text("of last week", encoding="utf-8")
    command = [sys.executable, pointsman.__file__, "tickets", "export", "--database", url, str(output)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_")}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as process:
        end = time.monotonic() + 60
        while not any(each.name.startswith(".labelled.csv-") and each.stat().st_size for each in tmp_path.iterdir()):
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.002)
        process.terminate()
        assert process.wait(30) == 128 + signal.SIGTERM
    assert output.read_text(encoding="utf-8") == "of last week"
    assert [each.name for each in tmp_path.iterdir() if "labelled" in each.name] == ["labelled.csv"]
