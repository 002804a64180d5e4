"""`pointsman outcomes import`: history comes in once, whatever its form, whoever else is writing, and whenever it is ended.

    pytest tests/contract/test_outcomes_import.py --kills 10

kills ten times what is killed twice otherwise.
"""

import asyncio
import csv
import gzip
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

import pointsman
from service import database
from service.classify.repository import store
from service.database import outcomes, stories
from service.outcomes import history, repository
from service.outcomes.history import Line, Tally, bring_in
from tests.property.test_outcome_properties import decision
from tests.serving import DATABASES, INCIDENT, ROOT, Service, apart, environment

Rows = list[dict[str, Any]]


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


only_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def run(url: str, *arguments: str | Path, given: bytes | None = None) -> Result:
    asked = ["outcomes", "import", *map(str, arguments), "--database", url]
    return CliRunner().invoke(pointsman.main, asked, input=given, catch_exceptions=False)


def happened(count: int, tickets: int = 40) -> Rows:
    """Some of it long ago."""
    return [
        {
            "ticket_id": f"T-{i % tickets}", "event_id": f"e{i}", "at": f"20{10 + i % 12}-03-01T10:{i % 60:02}:00+02:00", "event": "moved",
            "to": ("domains", "hosting")[i % 2], "from": None, "by": ("person", "rule")[i % 3 == 0], "reason": None,
        }
        for i in range(count)
    ]  # fmt: skip


def write(path: Path, rows: Rows) -> Path:
    """In the form that the name of `path` says."""
    if path.suffix == ".parquet":
        pd.DataFrame(rows).to_parquet(path)
        return path
    file = io.StringIO(newline="")
    if ".csv" in path.name:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    else:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    content = file.getvalue().encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def kept(url: str, table: sa.Table = outcomes) -> Rows:
    with apart(url).connect() as connection:
        found = connection.execute(sa.select(table).order_by(*table.primary_key)).mappings()
        return [{name: value for name, value in row.items() if name != "received_at"} for row in found]


@only_sqlite
def test_every_form_of_table_tells_the_same(tmp_path: Path, database_url: str) -> None:
    rows = happened(30)
    first = run(database_url, write(tmp_path / "a.jsonl", rows), "--json")
    assert (first.exit_code, json.loads(first.stdout)) == (0, {"new": 30, "repeated": 0, "conflicting": 0, "failed": 0})
    stored = kept(database_url)
    assert len(stored) == 30
    again = run(database_url, *(write(tmp_path / name, rows) for name in ("b.csv", "c.parquet", "d.csv.gz", "e.jsonl.gz")), "--json")
    assert json.loads(again.stdout) == {"new": 0, "repeated": 120, "conflicting": 0, "failed": 0}
    piped = run(database_url, "-", given=b"\n".join(json.dumps(row).encode() for row in rows))
    assert (piped.exit_code, piped.stdout) == (0, "0 new, 30 repeated, 0 conflicting, 0 failed\n")
    assert kept(database_url) == stored


@only_sqlite
def test_events_without_an_id_are_known_by_their_content(tmp_path: Path, database_url: str) -> None:
    rows = [{name: value for name, value in row.items() if name != "event_id"} for row in happened(10)]
    for expected in ({"new": 10, "repeated": 0}, {"new": 0, "repeated": 10}):
        found = run(database_url, write(tmp_path / "a.csv", rows), "--json")
        assert json.loads(found.stdout) == {**expected, "conflicting": 0, "failed": 0}
    other = rows[0] | {"by": "router"}
    assert "1 new" in run(database_url, write(tmp_path / "b.jsonl", [other, rows[0]])).stdout
    assert len({row["event_id"] for row in kept(database_url)}) == 11


@only_sqlite
def test_cells_are_trimmed_and_what_databases_have_for_text_is_taken(tmp_path: Path, database_url: str) -> None:
    at = pd.Timestamp("2020-01-01T10:00:00Z")
    rows: Rows = [
        {"ticket_id": 17, "event_id": 4.5, "at": at, "event": " moved", "to": "domains ", "from": float("nan"), "by": "person", "more": 1},
        {"ticket_id": 17, "event_id": None, "at": at, "event": "closed", "to": None, "from": None, "by": "person", "more": 1},
    ]
    assert run(database_url, write(tmp_path / "a.parquet", rows)).exit_code == 0
    closed, moved = sorted(kept(database_url), key=lambda row: str(row["event"]))
    assert (moved["ticket_id"], moved["event_id"], moved["to_label"], moved["from_label"]) == ("17", "4.5", "domains", None)
    assert closed["event_id"].startswith("import-")


@only_sqlite
def test_bad_rows_are_told_by_their_place_and_fail_no_other(tmp_path: Path, database_url: str) -> None:
    good, private = happened(3), "Jane Doe"
    lines = [
        json.dumps(good[0]), "{", json.dumps(good[1] | {"to": None}), json.dumps(good[1] | {"at": private}), json.dumps(good[1] | {"ticket_id": None}),
        json.dumps(good[0] | {"to": "sales"}), json.dumps(good[2]),
    ]  # fmt: skip
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    found = run(database_url, path)
    assert (found.exit_code, found.stdout) == (1, "2 new, 0 repeated, 1 conflicting, 4 failed\n")
    for place in ("line 2: not a JSON object", "event 3: to: ", "event 4: at: ", "event 5: ticket_id: ", "event 6: this event_id"):
        assert f"{path}, {place}" in found.stderr
    assert private not in found.stderr
    assert [row["event_id"] for row in kept(database_url)] == ["e0", "e2"]
    many = run(database_url, write(tmp_path / "b.jsonl", [row | {"by": "robot"} for row in happened(50)]))
    assert "... and 40 further problems" in many.stderr
    assert len(many.stderr.splitlines()) == 11


@only_sqlite
def test_what_cannot_be_read_is_refused(tmp_path: Path, database_url: str) -> None:
    good = write(tmp_path / "a.csv", happened(3))
    packed = tmp_path / "b.csv.gz"
    packed.write_bytes(gzip.compress(good.read_bytes())[:-10])
    for bad in (tmp_path / "missing.csv", tmp_path / "a.xlsx", packed):
        found = run(database_url, good, bad)
        assert found.exit_code == 2
        assert str(bad) in found.stderr
    assert run("mysql://localhost/x", good).exit_code == 2
    mended = json.loads(run(database_url, good, "--json").stdout)
    assert mended["new"] + mended["repeated"] == len(kept(database_url)) == 3


@only_sqlite
def test_words_are_kept_as_long_as_the_tickets_text(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POINTSMAN_KEEP_TEXT_DAYS", "3")
    now = pd.Timestamp.now("UTC")
    rows = [row | {"at": (now - pd.Timedelta(days=days)).isoformat(), "reason": "said so"} for row, days in zip(happened(2), (2, 4), strict=True)]
    path = write(tmp_path / "a.csv", rows)
    assert run(database_url, path).exit_code == 0
    assert [row["reason"] for row in kept(database_url)] == ["said so", None]
    assert run(database_url, path).stdout.startswith("0 new, 2 repeated")


# While others write


def test_a_database_that_is_locked_is_waited_for(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = database.connect(database_url)
    database.migrate(engine)
    monkeypatch.setattr(history, "TOGETHER", 2)
    done: list[Tally] = []
    lines = [Line(str(i), row) for i, row in enumerate(happened(6))]
    importing = threading.Thread(target=lambda: done.append(bring_in(engine, lines, 30, lambda *_: None, lambda _: None)))
    with apart(database_url).connect() as other:
        other.exec_driver_sql("BEGIN IMMEDIATE" if other.dialect.name == "sqlite" else "BEGIN")
        if other.dialect.name == "postgresql":
            other.exec_driver_sql("LOCK TABLE outcomes IN ACCESS EXCLUSIVE MODE")
        importing.start()
        importing.join(timeout=2 * database.BUSY_SECONDS)  # longer than a statement waits
        assert importing.is_alive()
        other.exec_driver_sql("ROLLBACK")
    importing.join(timeout=30)
    assert done == [Tally(new=6)]
    engine.dispose()


@pytest.mark.anyio
@only_sqlite
async def test_a_running_service_decides_meanwhile(service: Service) -> None:
    """A statement waits half a second for the database, whatever the machine is doing otherwise."""
    engine = database.connect(service.database_url)
    lines = [Line(str(i), row) for i, row in enumerate(happened(2000, tickets=300))]
    importing = asyncio.create_task(asyncio.to_thread(bring_in, engine, lines, 30, lambda *_: None, lambda _: None))
    statuses: list[int] = []
    while not importing.done():
        statuses.append((await service.classify(ticket_id=f"T-{len(statuses)}", body=INCIDENT)).status_code)
        await asyncio.sleep(0.02)
    assert (await importing).new == 2000
    engine.dispose()
    assert len(statuses) >= 5
    assert set(statuses) == {200}
    joined = {row["ticket_id"]: row["events"] for row in kept(service.database_url, stories)}
    assert {name: joined[name] for name in ("T-0", "T-1")} == {"T-0": 7, "T-1": 7}


# Ended at any time

IMPORT = """
import json, sys, time
from service import database
from service.outcomes.history import Line, bring_in
engine = database.connect(sys.argv[2])
def lines():
    for number, line in enumerate(open(sys.argv[1], encoding="utf-8"), 1):
        if number == int(sys.argv[3]):
            time.sleep(600)  # it does not end by itself
        yield Line(str(number), json.loads(line))
bring_in(engine, lines(), 30, print, lambda tally: None)
"""  # what the command does, without the seconds that it takes to start


def test_it_is_killed_and_run_again(tmp_path: Path, database_url: str, pytestconfig: pytest.Config) -> None:
    kills = int(pytestconfig.getoption("--kills"))
    rows = happened(2000, tickets=500)
    path = write(tmp_path / "a.jsonl", rows)
    engine = database.connect(database_url)
    database.migrate(engine)
    with engine.begin() as connection:
        store(connection, [decision(f"T-{i}") for i in range(0, 500, 2)])

    def stored() -> int:
        with engine.connect() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(outcomes)).scalar_one())

    chance = random.Random(kills)
    for kill in range(1, kills + 1):
        least = chance.randint(1, len(rows) * kill // (kills + 1) - 100)
        with subprocess.Popen([sys.executable, "-c", IMPORT, path, database_url, str(len(rows))], cwd=ROOT, env=environment()) as process:
            end = time.monotonic() + 60
            while stored() < least:
                assert process.poll() is None
                assert time.monotonic() < end
            os.kill(process.pid, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        before = stored()
        assert least <= before < len(rows)
        assert before % history.TOGETHER == 0  # a transaction is stored whole or not at all
    tally = json.loads(run(database_url, path, "--json").stdout)
    assert tally == {"new": len(rows) - before, "repeated": before, "conflicting": 0, "failed": 0}
    assert sorted((row["ticket_id"], row["event_id"]) for row in kept(database_url)) == sorted((row["ticket_id"], row["event_id"]) for row in rows)
    told = kept(database_url, stories)
    assert {row["events"] for row in told} == {4}
    with engine.begin() as connection:
        assert repository.rebuild(connection) == 250
    assert kept(database_url, stories) == told
    engine.dispose()
