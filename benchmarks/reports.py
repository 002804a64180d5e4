"""What the misroute report costs, and how far its likely causes are to be trusted: `python benchmarks/reports.py [--tickets 1000000]`.

The cost is measured on a year of so many tickets, a month of it and the whole, on SQLite and PostgreSQL, each report in a fresh process. The
tickets are 20,000 simulated ones (`pointsman demo`), told of as the service tells of them; their stories, which are all that the report
reads, are then copied straight into the table `stories`, whose indexes are there before, each copy a minute or so later than the one before
it, with ids and texts of its own, in the order of time.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import psycopg
import sqlalchemy as sa
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sqlalchemy.engine import Engine

from service import database
from service.database import decisions, outcomes, stories
from service.demo.router import PROMISED
from service.demo.service import put
from service.demo.simulation import Simulated, first_day, simulate
from service.reports.causes import CAUSES, find
from service.reports.frame import start_of
from service.reports.report import misroutes
from service.reports.repository import Reader
from service.reports.schemas import Filters, Period
from service.reports.worker import read_only
from tests.postgresql import Server

HERE = Path(__file__).resolve().parent
UNTIL = date(2026, 11, 22)
PERIODS = {"a month": (date(2026, 10, 1), date(2026, 11, 1)), "the year": (first_day(UNTIL), UNTIL + timedelta(days=1))}
BASE = 20_000
APART = 70_000_000  # microseconds between two copies
PATIENCE = 600.0  # seconds that a statement may take here
RUNS = 3
COLUMNS = [column.name for column in stories.columns]
MOMENTS = [place for place, name in enumerate(COLUMNS) if name.endswith("_at")]

Row = tuple[Any, ...]


def copies(rows: list[Row], tickets: int) -> Iterator[Row]:
    """So many stories, made of `rows`, in the order of time but for some minutes."""
    id_, ticket, text = (COLUMNS.index(name) for name in ("decision_id", "ticket_id", "text_key"))
    times, rest = divmod(tickets, len(rows))
    for place, row in enumerate(rows):
        for copy in range(times + (place < rest)):
            made = list(row)
            for moment in MOMENTS:
                if made[moment] is not None:
                    made[moment] += copy * APART
            made[id_] = f"{row[id_][:10]}{place:08d}{copy:08d}"
            made[ticket] = f"{row[ticket]}-{copy}"
            made[text] = hashlib.sha256(f"{row[text]}{copy}".encode()).hexdigest()[:16]
            yield tuple(made)


def fill(engine: Engine, rows: list[Row], tickets: int, name: str) -> float:
    """Put `tickets` stories into an empty database; seconds."""
    database.migrate(engine)
    begun = time.perf_counter()
    made = track(copies(rows, tickets), f"filling {name}", tickets, console=Console(stderr=True), transient=True)
    if engine.dialect.name == "sqlite":
        with engine.begin() as connection:
            cursor: Any = connection.connection.cursor()
            cursor.executemany(f"INSERT INTO stories ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})", made)  # noqa: S608
    else:
        url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(url) as copying, copying.cursor() as cursor_, cursor_.copy(f"COPY stories ({', '.join(COLUMNS)}) FROM STDIN") as copy:
            for row in made:
                copy.write_row(row)
        with psycopg.connect(url, autocommit=True) as tidying:
            tidying.execute("VACUUM ANALYZE stories")  # as the server does by itself, some minutes later
    return time.perf_counter() - begun


def measure(url: str, since: date, until: date) -> dict[str, Any]:
    """One report by this process, which has made none: seconds, and its most memory in MB."""
    engine = database.connect(url)
    with engine.connect() as connection:
        read_only(connection, PATIENCE)
        begun, processor = time.perf_counter(), time.process_time()
        report = misroutes(connection, Period(since=since, until=until), Filters(), PROMISED)
        answer = report.model_dump_json()
        seconds, processor = time.perf_counter() - begun, time.process_time() - processor
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    return {"tickets": report.tickets, "seconds": seconds, "of a processor": processor, "peak, MB": peak, "answer, kB": len(answer) / 1000}


def cost(tickets: int, rows: list[Row], folder: Path) -> dict[str, dict[str, Any]]:
    """Seconds and memory of the reports on both databases; of `RUNS` the fastest, whose neighbours disturbed it least, and all of them."""
    found: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        server = stack.enter_context(Server.running(folder))
        urls = {"SQLite": f"sqlite:///{folder}/million.db", "PostgreSQL": stack.enter_context(server.database())}
        for name, url in urls.items():
            engine = database.connect(url)
            filling = fill(engine, rows, tickets, name)
            engine.dispose()
            for period, (since, until) in PERIODS.items():
                runs = []
                for _ in range(RUNS):
                    with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
                        runs.append(fresh.submit(measure, url, since, until).result())
                found[f"{name}, {period}"] = min(runs, key=lambda run: run["seconds"]) | {
                    "all runs": [run["seconds"] for run in runs],
                    "filling, s": filling,
                }
    return found


def confusion(engine: Engine, world: list[Simulated]) -> dict[str, dict[str, int]]:
    """Misrouted tickets by their true cause, in the rows, and by the likely one that the report tells."""
    with engine.connect() as connection:
        read = Reader(connection).read(start_of(first_day(UNTIL)), start_of(UNTIL), ids=True)
    ids = read.ids.tolist() if read.ids is not None else []
    likely = {name.decode(): CAUSES[cause] for name, cause in zip(ids, find(read).cause.tolist(), strict=True) if cause >= 0}
    true = {each.record.decision_id: each.truth.cause for each in world if each.truth.cause}
    if likely.keys() != true.keys():
        raise click.ClickException("the report's misrouted tickets are not those of the simulation")
    pairs = Counter((true[decision], likely[decision]) for decision in true)
    return {row: {column: pairs[row, column] for column in CAUSES} for row in CAUSES}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--tickets", default=1_000_000, show_default=True, type=click.IntRange(BASE, 10_000_000))
def main(tickets: int) -> None:
    """Measure the report on so many tickets, and its causes on 20,000; write results/reports.json."""
    load = os.getloadavg()[0]  # before the work: what others do
    # Not in the system's own folder for such things, which may be memory.
    with tempfile.TemporaryDirectory(prefix="pointsman-reports-", dir=HERE / "results") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL may run as another user
        engine = database.connect(f"sqlite:///{folder}/demo.db")
        database.migrate(engine)
        begun = time.perf_counter()
        world = list(simulate(BASE, 0, UNTIL))
        simulated = time.perf_counter()
        put(engine, world, 0)
        stored = time.perf_counter()
        matrix = confusion(engine, world)
        with engine.connect() as connection:
            rows = [tuple(row) for row in connection.exec_driver_sql(f"SELECT {', '.join(COLUMNS)} FROM stories ORDER BY created_at")]  # noqa: S608
            sizes = {table.name: connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() for table in (decisions, outcomes)}
        engine.dispose()
        figures = cost(tickets, rows, Path(folder))
    agreeing = sum(own[cause] for cause, own in matrix.items()) / sum(sum(own.values()) for own in matrix.values())
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True).stdout.strip()
    facts = {"at": f"{datetime.now(UTC):%Y-%m-%dT%H:%MZ}", "commit": commit, "cores": os.cpu_count(), "load_average_before": load}
    demo = {"tickets": BASE, "simulating, s": simulated - begun, "storing, s": stored - simulated, **sizes}
    found = facts | {"reports": figures, "demo": demo, "causes": {"agreement": agreeing, "true_by_likely": matrix}}
    found = json.loads(json.dumps(found), parse_float=lambda number: float(f"{float(number):.5g}"))  # more digits would be noise
    (HERE / "results" / "reports.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    _show(f"the report on {tickets} tickets", found["reports"])
    _show("the demonstration", {"": demo})
    _show(f"true causes in the rows, likely ones in the columns; {agreeing:.1%} agree", matrix)


def _show(title: str, found: dict[str, dict[str, Any]]) -> None:
    table = Table("", title=title, title_justify="left")
    for column in next(iter(found.values())):
        table.add_column(column, justify="right")
    for name, row in found.items():
        table.add_row(name, *(_cell(value) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_cell, value))
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
