"""`pointsman outcomes`, `report`, `tickets` and `demo`: what became of the tickets."""

import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from commands.terminal import PROBLEMS_SHOWN, database_option, open_database, refuse, showing_progress, silence_output, writing

if TYPE_CHECKING:
    from datetime import datetime

# What is imported inside the commands is slow to import and not needed by the others.


@click.group(epilog="Example: pointsman tickets export labelled.jsonl")
def tickets() -> None:
    """Tables of tickets: what the service has decided, with what became of it, to learn from again."""


@tickets.command("export", epilog="Example: pointsman tickets export --from 2026-11-01 --independent labelled.parquet")
@click.argument("output", metavar="[OUT|-]", default="-")
@click.option("--from", "since", metavar="DAY", type=click.DateTime(["%Y-%m-%d"]), help="The first day, in UTC.")
@click.option("--to", "until", metavar="DAY", type=click.DateTime(["%Y-%m-%d"]), help="The day after the last.")
@click.option("--judged/--all", "judged", default=True, help="Closed tickets only, or open ones too. [default: judged]")
@click.option("--independent", is_flag=True, help="Without labels that nobody but the router gave.")
@database_option
def tickets_export(output: str, since: "datetime | None", until: "datetime | None", judged: bool, independent: bool, database: str) -> None:
    """Write the ticket table with the final labels, who gave them, and whether the router's answer was shown to them first
    (CSV, JSON Lines, Parquet by the name's end, .gz of the first two; - is JSON Lines on standard output)."""
    from datetime import UTC

    from service.outcomes import ticket_table
    from service.outcomes.export import Export

    if not ticket_table.known(output):
        refuse(f"{output}: not a kind of table; expected .csv, .jsonl, .parquet (.gz too, but for Parquet), or -")
    if since and until and since >= until:
        refuse(f"--to {until:%Y-%m-%d}: expected a day after --from {since:%Y-%m-%d}")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + signal.SIGTERM))  # so that a half-written output is removed
    try:
        with open_database(database, existing=True) as engine, writing(output) as out, showing_progress() as progress:
            period = since and since.replace(tzinfo=UTC), until and until.replace(tzinfo=UTC)
            export = Export(engine, *period, judged=judged, independent=independent, progress=progress)
            ticket_table.write(out, output, export)
    except BrokenPipeError:
        silence_output()  # the reader has seen enough
        return
    except OSError as error:
        silence_output()
        refuse(f"{output}: cannot be written: {error.strerror}")
    click.echo(export.summary(), err=True)


@click.group(epilog="Example: pointsman outcomes import history.csv")
def outcomes() -> None:
    """What became of tickets: moved, corrected, answered, closed."""


@outcomes.command("import", epilog="Example: pointsman outcomes import history.csv --database postgresql://localhost/pointsman")
@click.argument("files", nargs=-1, required=True)
@database_option
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def outcomes_import(files: tuple[str, ...], database: str, as_json: bool) -> None:
    """Store outcomes from before the service (CSV, JSON Lines, Parquet, .gz too; - is JSON Lines on standard input), with the columns
    ticket_id, event_id (may be missing), at, event, to, from, by and reason. What is stored already is not stored again, so an import
    that was ended is simply run again."""
    from service.outcomes.history import Line, Tally, bring_in
    from service.settings import Settings
    from training import rows
    from training.errors import TrainingError

    def lines() -> Iterator[Line]:
        for source in files:
            for number, row in enumerate(rows.read(source, database), 1):
                if isinstance(row, rows.BadRow):
                    place, _, why = row.why.rpartition(": ")
                    yield Line(place, why)
                else:
                    yield Line(f"{source}, event {number}", row)

    shown = 0

    def refused(place: str, why: str) -> None:
        nonlocal shown
        shown += 1
        if shown <= PROBLEMS_SHOWN:
            click.echo(f"{place}: {why}", err=True)

    try:
        with open_database(database) as engine, showing_progress() as progress:

            def stored(tally: Tally) -> None:
                progress("importing", sum(asdict(tally).values()), 0)

            tally = bring_in(engine, lines(), Settings().keep_text_days, refused, stored)
    except TrainingError as error:
        refuse(error)
    if shown > PROBLEMS_SHOWN:
        click.echo(f"... and {shown - PROBLEMS_SHOWN} further problems", err=True)
    found = asdict(tally)
    click.echo(json.dumps(found) if as_json else ", ".join(f"{count} {what}" for what, count in found.items()))
    if tally.failed or tally.conflicting:
        raise SystemExit(1)


_FILTERS = ("department", "kind", "language", "channel", "customer_tier", "country", "model_version", "action")


def _with_filters(command: Any) -> Any:
    for name in reversed(_FILTERS):
        command = click.option(f"--{name.replace('_', '-')}", name, metavar="VALUE", help=f"Only tickets of this {name.replace('_', ' ')}.")(command)
    return command


@click.command(epilog="Example: pointsman report --last 7d --department hosting")
@click.option("--last", default="28d", show_default=True, metavar="DAYS", help="Days up to today, such as 7d or 4w; --from and --to go before.")
@click.option("--from", "since", metavar="DAY", type=click.DateTime(["%Y-%m-%d"]), help="The first day, in UTC.")
@click.option("--to", "until", metavar="DAY", type=click.DateTime(["%Y-%m-%d"]), help="The day after the last. [default: tomorrow]")
@_with_filters
@click.option("--model", default="models", show_default=True, type=click.Path(path_type=Path), help="Whose promises are held against what came.")
@database_option
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
@click.option("--csv", "sheet", metavar="FILE", help="Write the whole report as CSV, one row a figure; - is standard output.")
def report(
    last: str, since: "datetime | None", until: "datetime | None", model: Path, database: str, as_json: bool, sheet: str | None, **filters: str | None
) -> None:
    """What went to the wrong team: how often, between whom, why, at what cost, and what got worse since the period before."""
    from pydantic import ValidationError

    from service.reports.schemas import Filters, asked_period

    days = last[:-1] if last[-1:].lower() in ("d", "w") else last
    try:
        length = int(days) * (7 if last[-1:].lower() == "w" else 1) if days.isdecimal() and len(days) < 6 else 0
        period = asked_period(since and since.date(), until and until.date(), length)
        asked = Filters.model_validate(filters)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        refuse(f"--{str(first['loc'][0]).replace('_', '-')}: {first['msg']}")
    except ValueError as error:
        refuse(f"--{error}")
    from service.reports.report import misroutes
    from service.reports.sheets import report_sheet
    from service.reports.terminal import show
    from service.reports.worker import read_only

    try:
        with open_database(database, existing=True) as engine, engine.connect() as connection:
            read_only(connection, 600)
            made = misroutes(connection, period, asked, _promised(model))
        if sheet is not None:
            with writing(sheet) as out:
                out.write(report_sheet(made))
    except BrokenPipeError:
        silence_output()  # the reader has seen enough
        return
    except OSError as error:
        silence_output()
        refuse(f"--csv {sheet}: cannot be written: {error.strerror}")
    if as_json:
        click.echo(made.model_dump_json())
    elif sheet is None:
        show(made, terminal=sys.stdout.isatty())


def _promised(model: Path) -> dict[str, float]:
    """What the router at `model` promises, by target; nothing where there is none."""
    from model import bundle
    from model.errors import ModelError

    try:
        return {target.name: target.promise for target in bundle.load(bundle.find(model)).targets}
    except ModelError:
        return {}


@click.command(epilog="Example: pointsman demo --database sqlite:///demo.db --tickets 3000")
@click.option(
    "--database", default="sqlite:///demo.db", show_default=True, metavar="URL", help="An empty database."
)  # never a service's own, by chance
@click.option("--tickets", default=12_000, show_default=True, type=click.IntRange(100, 1_000_000), help="How many to simulate.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1))
@click.option("--until", metavar="DAY", type=click.DateTime(["%Y-%m-%d"]), help="The day after the year's last, in UTC. [default: today]")
@click.option("--replace", is_flag=True, help="Make an earlier demonstration anew.")
def demo(database: str, tickets: int, seed: int, until: "datetime | None", replace: bool) -> None:
    """Fill an empty database with a year of simulated traffic, to see every report and page without a customer. Tickets and
    model versions are marked as simulated by their names."""
    from datetime import UTC, datetime

    from sqlalchemy import make_url

    from service.demo.service import NotEmptyError, fill
    from service.demo.simulation import first_day

    today = datetime.now(UTC).date()
    end = until.date() if until else today
    if end > today:
        refuse(f"--until {end}: expected today, {today}, or an earlier day; nothing is simulated ahead")
    try:
        with open_database(database, migrate=False) as engine, showing_progress() as progress:
            fill(engine, tickets, seed, end, replace=replace, progress=progress)
    except NotEmptyError as error:
        refuse(error)
    shown = make_url(database).render_as_string()
    click.echo(f"{tickets} simulated tickets of {first_day(end)} to {end} are in {shown}. Look at them with")
    click.echo(f"\n  POINTSMAN_KEEP_TEXT_DAYS=400 POINTSMAN_DATABASE_URL={shown} pointsman serve\n")
    click.echo("and open http://127.0.0.1:8000/app/misroutes")
