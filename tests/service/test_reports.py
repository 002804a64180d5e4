"""The report over HTTP and on the command line; and the process that makes it: bounded, ended when it is slow or alone, never in intake's way."""

import asyncio
import csv
import io
import json
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from click.testing import CliRunner

import pointsman
from service import database
from service.errors import ReportTooSlow, ServiceError, StorageUnavailable, TooMany
from service.reports.schemas import Filters, MisrouteReport, Period, Selection, TicketsBehind
from service.reports.service import MOST_WAITING, Reports
from service.settings import Settings
from tests.serving import DATABASES, ROOT, Service, environment, error_of, wait_until
from tests.stories import MONDAY, keep, moved, story

pytestmark = pytest.mark.anyio

PERIOD = Period(since=MONDAY.date(), until=MONDAY.date() + timedelta(days=28))
DAYS = f"from={PERIOD.since}&to={PERIOD.until}"
PATHS = ["/reports/misroutes", "/reports/misroutes.csv", "/reports/misroutes/tickets", "/reports/misroutes/tickets.csv"]
FORMULA = '=HYPERLINK("http://evil.example","click")'
PLENTY = 120.0  # seconds, for what must not be too slow on a machine that is busy with other tests


@pytest.fixture(params=["sqlite"])
def database_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def url(database_url: str) -> str:
    """Of a database with some stories."""
    engine = database.connect(database_url)
    database.migrate(engine)
    with engine.begin() as connection:
        keep(
            connection,
            [story(1), moved(2, "domains", subject=FORMULA, customer_tier="@gold"), moved(3, "=1+1", country="DE"), story(4, closed_at=None)],
        )
    engine.dispose()
    return database_url


@pytest.fixture
def settings(url: str, settings: Settings) -> Settings:
    return settings.model_copy(update={"database_url": url, "keep_text_days": 36_500})


def reports(url: str, **changed: Any) -> Reports:
    return Reports(url, {"department": 0.9}, **({"deadline": PLENTY} | changed))


async def made(asked: Reports) -> MisrouteReport:
    return await asked.report(PERIOD, Filters())


def child(asked: Reports) -> psutil.Process:
    assert asked._process is not None
    assert asked._process.process.pid is not None
    return psutil.Process(asked._process.process.pid)


async def test_who_may_read_reports(service: Service) -> None:
    key, other = service.key("reports"), service.key("classify", "outcomes", "review")
    for path in PATHS:
        assert (await service.client.get(path)).status_code == 401, path
        assert error_of(await service.client.get(path, headers=other)) == "forbidden", path
        assert (await service.client.get(path, headers=key)).status_code == 200, path


@pytest.mark.parametrize("database_url", DATABASES, indirect=True)
async def test_the_report_and_the_tickets_behind_it(service: Service) -> None:
    answer = await service.client.get(f"/reports/misroutes?{DAYS}")
    assert answer.status_code == 200
    report = MisrouteReport.model_validate_json(answer.content)
    assert (report.tickets, report.judged, report.moves, report.misrouted["department"].count) == (4, 3, 2, 2)
    assert {(pair.decided, pair.final) for pair in report.pairs} == {("hosting", "domains"), ("hosting", "=1+1")}
    promised = report.confidence["department"].auto.promised
    assert promised == next(target.promise for target in service.app.state.service.router.targets if target.name == "department")
    assert set(report.definitions) >= {"tickets", "judged", "misrouted", "causes", "drift", "compared"}

    found = await service.client.get(f"/reports/misroutes/tickets?{DAYS}&decided=hosting&final=domains")
    (ticket,) = TicketsBehind.model_validate_json(found.content).shown
    assert (ticket.ticket_id, ticket.hours_misplaced, ticket.subject) == ("T-2", 3.0, FORMULA)
    german = await service.client.get(f"/reports/misroutes?{DAYS}&country=DE")
    assert (german.json()["tickets"], german.json()["filters"]) == (1, {"country": "DE"})


async def test_without_a_period_it_is_the_last_28_days_with_today(service: Service) -> None:
    today = datetime.now(UTC).date()
    with service.app.state.service.engine.begin() as connection:
        now = datetime.now(UTC)
        keep(connection, [story(number, created_at=at) for number, at in enumerate((now, now - timedelta(days=27), now - timedelta(days=28)), 10)])
    report = (await service.client.get("/reports/misroutes")).json()
    assert report["period"] == {"from": str(today - timedelta(days=27)), "to": str(today + timedelta(days=1))}
    assert report["tickets"] == 2


async def test_tables_are_harmless_in_a_spreadsheet(service: Service) -> None:
    for path, name in (("/reports/misroutes.csv", "misroutes"), ("/reports/misroutes/tickets.csv", "misrouted-tickets")):
        answer = await service.client.get(f"{path}?{DAYS}")
        assert answer.headers["content-type"].startswith("text/csv")
        assert answer.headers["content-disposition"] == f'attachment; filename="{name}-{PERIOD.since}-{PERIOD.until}.csv"'
        cells = [cell for row in csv.reader(io.StringIO(answer.text)) for cell in row]
        numbers = [cell for cell in cells if cell.startswith("-")]
        assert all(float(number) < 0 for number in numbers)
        assert [cell for cell in cells if cell.startswith(("=", "+", "@", "\t", "\r"))] == []
        assert "'@gold" in cells
        assert "'=1+1" in cells
    assert f"'{FORMULA}" in cells


async def test_a_table_has_one_row_a_figure(service: Service) -> None:
    answer = await service.client.get(f"/reports/misroutes.csv?{DAYS}&country=FR")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert len({(row["section"], row["figure"], row["by"], row["value"], row["other"]) for row in rows}) == len(rows)

    def of(**named: str) -> dict[str, str]:
        (row,) = [row for row in rows if row.items() >= named.items()]
        return row

    assert of(section="tickets", figure="judged")["count"] == "2"
    wrong = of(section="misrouted", figure="misrouted.department")
    assert (wrong["count"], wrong["of"], wrong["share"]) == ("1", "2", "0.5")
    assert float(wrong["low"]) < 0.5 < float(wrong["high"])
    assert of(section="matrix", by="department", value="hosting", other="domains")["count"] == "1"
    assert of(section="pairs", figure="hours", value="hosting", other="domains")["number"] == "3.0"
    assert of(section="by", figure="tickets", by="customer_tier", value="(not given)")["count"] == "2"
    assert of(section="minutes.to_answer", figure="median", by="")["number"] == "60.0"
    assert of(section="causes", figure="sure_and_wrong")["count"] == "1"
    assert of(section="asked", figure="country")["value"] == "FR"


WRONG = [
    ("from=2026-13-01", "from"), ("from=0", "from"), ("from=20261101", "from"), ("from=", "from"), ("to=2026-11-01T00:00:00", "to"), ("to=yesterday", "to"),
    ("from=2026-11-02&to=2026-11-02", "from"), ("from=2010-01-01&to=2026-01-01", "from"), ("to=1970-01-01", "to"), ("to=2300-01-01", "to"),
    ("action=maybe", "action"), ("language=", "language"), ("language=a%00b", "language"), (f"department={'x' * 201}", "department"),
]  # fmt: skip
WRONG_OF_TICKETS = [("limit=0", "limit"), ("limit=501", "limit"), ("order=best", "order"), ("cause=fate", "cause"), ("week=46", "week"), ("least_confidence=2", "least_confidence"), ("judged=perhaps", "judged")]  # fmt: skip


async def test_a_wrong_question_is_refused_by_the_name_of_its_field(service: Service) -> None:
    asked = [(path, *wrong) for path in PATHS for wrong in WRONG] + [(path, *wrong) for path in PATHS[2:] for wrong in WRONG_OF_TICKETS]
    for path, query, field in asked:
        answer = await service.client.get(f"{path}?{query}")
        assert (answer.status_code, answer.json()["error"]["code"], answer.json()["error"]["field"]) == (422, "invalid_field", field), (path, query)
    for path in PATHS:
        answer = await service.client.get(f"{path}?<evil>=1")
        assert (answer.status_code, error_of(answer)) == (422, "unknown_field")
        assert "evil" not in answer.text
    assert (await service.client.get(f"{PATHS[0]}?limit=5")).status_code == 422
    assert service.app.state.service.reports._process is None  # nothing of it came to the process


# The process.


async def test_one_process_makes_the_reports_with_less_priority(url: str) -> None:
    asked = reports(url)
    assert (await made(asked)).tickets == 4
    first = child(asked)
    assert first.nice() > psutil.Process().nice()
    found, week = await asyncio.gather(asked.tickets(PERIOD, Filters(), Selection(misrouted="any")), asked.last_week(PERIOD.until))
    assert (found.matching, week.week) == (2, "2026-W44")
    assert child(asked) == first
    first.kill()  # as for want of memory
    wait_until(lambda: first.status() == psutil.STATUS_ZOMBIE, "it is dead")
    assert (await made(asked)).tickets == 4
    assert child(asked) != first
    last = child(asked)
    await asked.stop()
    assert not last.is_running()
    with pytest.raises(TooMany):
        await made(asked)


async def test_a_report_that_takes_too_long_is_given_up_and_its_process_ended(url: str) -> None:
    asked = reports(url)
    await made(asked)
    slow = child(asked)
    slow.suspend()
    asked._deadline = 0.3
    with pytest.raises(ReportTooSlow):
        await made(asked)
    wait_until(lambda: not slow.is_running(), "it is ended")
    asked._deadline = PLENTY
    assert (await made(asked)).tickets == 4
    await asked.stop()


async def test_who_waits_too_long_for_the_others_is_told_so(url: str) -> None:
    asked = reports(url)
    await made(asked)
    busy = child(asked)
    busy.suspend()
    first = asyncio.create_task(made(asked))
    await asyncio.sleep(0.1)
    asked._deadline = 0.2
    with pytest.raises(ReportTooSlow):
        await made(asked)
    assert busy.is_running()  # the first may take its time
    busy.resume()
    assert (await first).tickets == 4
    await asked.stop()


async def test_few_wait_and_more_are_refused_at_once(url: str) -> None:
    asked = reports(url)
    found = await asyncio.gather(*(made(asked) for _ in range(MOST_WAITING + 4)), return_exceptions=True)
    assert [isinstance(each, MisrouteReport) for each in found] == [True] * (MOST_WAITING + 1) + [False] * 3
    assert all(isinstance(each, TooMany) for each in found[-3:])
    assert (await made(asked)).tickets == 4
    await asked.stop()


async def test_who_goes_away_leaves_no_half_answer_to_the_next(url: str) -> None:
    asked = reports(url)
    await made(asked)
    gone = asyncio.create_task(asked.tickets_json(PERIOD, Filters(), Selection()))
    await asyncio.sleep(0)
    gone.cancel()
    assert (await made(asked)).tickets == 4
    await asked.stop()


async def test_a_process_that_nobody_needs_is_ended(url: str) -> None:
    asked = reports(url, idle=0.05)
    await made(asked)
    running = asked._process
    end = time.monotonic() + 20
    while asked._process is not None:
        assert time.monotonic() < end
        await asyncio.sleep(0.05)
    assert running is not None
    assert (await made(asked)).tickets == 4
    await asked.stop()


async def test_a_service_that_stops_does_not_wait_for_a_report(url: str) -> None:
    asked = reports(url)
    await made(asked)
    child(asked).suspend()
    making = asyncio.create_task(made(asked))
    await asyncio.sleep(0.1)
    await asyncio.wait_for(asked.stop(), 20)
    with pytest.raises(ReportTooSlow):
        await making


async def test_a_database_that_is_away_is_said(tmp_path: Path) -> None:
    for away in ("postgresql://nobody@127.0.0.1:1/nothing", f"sqlite:///{tmp_path}/missing/folder.db"):
        asked = reports(away)
        with pytest.raises(StorageUnavailable):
            await made(asked)
        await asked.stop()


async def test_a_failure_inside_says_nothing_of_it(url: str) -> None:
    asked = reports(url)
    engine = database.connect(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE stories SET created_at = created_at, moves = 'many'")
    engine.dispose()
    with pytest.raises(ServiceError) as caught:
        await made(asked)
    assert (caught.value.status, caught.value.code) == (500, "internal")
    assert "many" not in caught.value.message
    await asked.stop()


@pytest.mark.parametrize("database_url", DATABASES, indirect=True)
def test_reports_only_read_and_may_take_their_time(url: str) -> None:
    import sqlalchemy as sa

    from service.reports.worker import read_only

    engine = database.connect(url)
    with engine.connect() as connection:
        read_only(connection, 30)
        with pytest.raises(sa.exc.DBAPIError):
            connection.exec_driver_sql("DELETE FROM stories")
        connection.rollback()
        if connection.dialect.name == "postgresql":
            read_only(connection, 30)
            assert connection.exec_driver_sql("SHOW statement_timeout").scalar() == "30s"
            connection.rollback()
            assert connection.exec_driver_sql("SHOW statement_timeout").scalar() == "500ms"
    engine.dispose()


ALONE = """
import asyncio, sys, time
from datetime import date
from multiprocessing import get_context
from service.reports import worker
from service.reports.schemas import Filters, Period
from service.reports.service import Reports

def holds_its_own_line(its, ours, url):
    worker.run(its, url, 30)

async def main():
    asked = Reports(sys.argv[1], {}, deadline=100)
    await asked.report(Period(since=date(2026, 10, 5), until=date(2026, 10, 6)), Filters())
    context = get_context("spawn")
    ours, its = context.Pipe()
    other = context.Process(target=holds_its_own_line, args=(its, ours, sys.argv[1]))
    other.start()
    ours.send(("last_week", (date(2026, 10, 5),)))
    assert ours.recv()[0] == "made"
    print(asked._process.process.pid, other.pid, flush=True)
    time.sleep(300)

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_the_process_does_not_outlive_a_service_that_was_killed(url: str, tmp_path: Path) -> None:
    script = tmp_path / "alone.py"
    script.write_text(ALONE, encoding="utf-8")
    with subprocess.Popen([sys.executable, script, url], env=environment() | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        processes = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert len(processes) == 2  # one whose line ends, and one that would not see it
        parent.send_signal(signal.SIGKILL)
        parent.wait(10)
        _, alive = psutil.wait_procs(processes, timeout=20)
    assert alive == []


def test_a_service_loads_nothing_for_reports_and_its_process_loads_little() -> None:
    said = (
        "import sys, service.reports.worker, service.reports.report, service.reports.tickets; here = set(sys.modules);"
        "print([name for name in ('pandas', 'scipy', 'fastapi', 'sklearn') if name in here]);"
    )
    service = "import sys, service.app; print([name for name in ('pandas', 'scipy.stats', 'service.reports.report') if name in sys.modules])"
    for script in (said, service):
        found = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
        assert found.stdout.strip() == "[]"


# The command.


def run(*arguments: str) -> Any:
    return CliRunner().invoke(pointsman.main, ["report", *arguments], catch_exceptions=False)


@pytest.fixture
def days() -> list[str]:
    return ["--from", str(PERIOD.since), "--to", str(PERIOD.until)]


def test_the_command_shows_the_figures(url: str, days: list[str], home: Path) -> None:
    said = run("--database", url, "--model", str(home), *days)
    assert said.exit_code == 0
    for text in ("4 tickets, 3 of them judged", "2 of 3", "66.7%", "hosting -> domains", "the router was sure, and wrong", "promised)", "3.0"):
        assert text in said.output, text
    filtered = run("--database", url, *days, "--country", "DE")
    assert "country DE" in filtered.output
    assert "1 tickets" in filtered.output
    assert "promised)" not in filtered.output  # no model is here


def test_the_command_gives_the_report_as_data(url: str, days: list[str], tmp_path: Path) -> None:
    said = run("--database", url, *days, "--json")
    assert MisrouteReport.model_validate_json(said.stdout).misrouted["department"].count == 2
    assert json.loads(said.stdout)["period"] == {"from": str(PERIOD.since), "to": str(PERIOD.until)}
    table = tmp_path / "report.csv"
    assert run("--database", url, *days, "--csv", str(table)).exit_code == 0
    assert run("--database", url, *days, "--csv", "-").stdout_bytes == table.read_bytes()
    assert "'@gold" in table.read_text(encoding="utf-8")


def test_days_up_to_today(url: str) -> None:
    today = datetime.now(UTC).date()
    for last, length in (("7d", 7), ("4w", 28), ("90", 90)):
        period = json.loads(run("--database", url, "--last", last, "--json").stdout)["period"]
        assert period == {"from": str(today - timedelta(days=length - 1)), "to": str(today + timedelta(days=1))}
    assert "No ticket was created in these days" in run("--database", url, "--from", "2020-01-01", "--to", "2020-02-01").output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--last", "0"], "--last"), (["--last", "soon"], "--last"), (["--last", "99999d"], "--last"), (["--from", "2026-02-01", "--to", "2026-01-01"], "--from"),
        (["--from", "tomorrow"], "--from"), (["--to", "2300-01-01"], "--to"), (["--action", "maybe"], "--action"), (["--customer-tier", ""], "--customer-tier"),
        (["--csv", "/nowhere/at/all.csv"], "--csv"), (["--database", "mysql://x"], "--database"),
    ],
)  # fmt: skip
def test_what_the_command_refuses(url: str, arguments: list[str], said: str) -> None:
    refused = run(*(["--database", url] if "--database" not in arguments else []), *arguments)
    assert refused.exit_code == 2
    assert said in refused.stderr
    assert refused.stdout == ""
