"""What the commands share: options, refusals, outputs that appear whole or not at all, progress and tables."""

import os
import stat
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from model.router import Router
    from training.table import Problem


PROBLEMS_SHOWN = 10
LONGEST_SHOWN = 40  # characters of a label


def refuse(message: object) -> NoReturn:
    click.echo(f"pointsman: {message}", err=True)
    raise SystemExit(2)


class Seconds(click.ParamType[float]):
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


def pairs(option: str, values: tuple[str, ...], *, alone: bool = False) -> dict[str, str]:
    """NAME=VALUE options as a dictionary; with `alone`, NAME stands for NAME=NAME."""
    pairs = {}
    for value in values:
        name, sign, rest = value.partition("=")
        if not name.strip() or not (rest.strip() if sign else alone):
            raise click.BadParameter(f"{value!r}: expected NAME=VALUE", param_hint=option)
        pairs[name.strip()] = rest.strip() or name.strip()
    return pairs


table_options: list[Callable[[Any], Any]] = [
    click.option("--text", metavar="COLUMN[,COLUMN]", help="Columns of the text: one, or subject and body. [default: subject,body]"),
    click.option("--target", "targets", multiple=True, metavar="NAME[=COLUMN]", help="What to learn, and its column. [default: kind, department]"),
    click.option("--database", envvar="POINTSMAN_DATABASE_URL", metavar="URL", help="Where a .sql file's query is run."),
]


database_option = click.option(
    "--database", envvar="POINTSMAN_DATABASE_URL", default="sqlite:///pointsman.db", show_default=True, metavar="URL", help="The service's database."
)


def with_table(command: Any) -> Any:
    for option in reversed(table_options):
        command = option(command)
    return command


@contextmanager
def open_database(url: str, *, migrate: bool = True, existing: bool = False) -> "Iterator[Engine]":
    """The service's database, brought up to date unless `migrate` is false. `existing`: one that is only read is not made by looking."""
    from sqlalchemy.exc import SQLAlchemyError

    from service import database

    try:
        engine = database.connect(url)
        file = database.sqlite_file(engine)
        if existing and file and not file.exists():
            refuse(f"{file} is not there; name the service's database with --database or POINTSMAN_DATABASE_URL")
        if migrate:
            database.migrate(engine)
        yield engine
        engine.dispose()
    except (SQLAlchemyError, ValueError, ImportError) as error:
        refuse(f"the database cannot be used ({type(error).__name__}); name it with --database or POINTSMAN_DATABASE_URL")


@contextmanager
def writing(name: str) -> Iterator[IO[bytes]]:
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


def silence_output() -> None:
    """Let what is buffered for standard output go nowhere: Python would try to write it once more at the end, and fail loudly."""
    with suppress(OSError):  # a test's standard output has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_folder(folder: Path) -> None:
    """A folder that cannot be made or written is found out before the work, not after it."""
    nearest = next(path for path in [folder.absolute(), *folder.absolute().parents] if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        refuse(f"--out {folder}: {nearest} is not a folder that can be written")


def setting_path(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value else None


@contextmanager
def showing_progress() -> Iterator[Callable[[str, int, int], None]]:
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


def check_same_task(router: "Router", labels: Mapping[str, Collection[str]]) -> None:
    """A router that learned none of a table's `labels` (by target) has another task: its answers would mean nothing there."""
    found = {target.name: (sorted({label for label in labels.get(target.name, ()) if label}), target.labels) for target in router.targets}
    told = {name: own for name, own in found.items() if len(own[0]) > 1}  # one label alone may be a new one
    if told and not any(set(own) & set(known) for own, known in told.values()):
        name, (own, known) = next(iter(told.items()))
        refuse(
            f"{router.version} knows none of the table's labels of {name} ({_few(own)}), but {_few(known)}: another column, which --target {name}=COLUMN "
            "names? Or another task: keep the routers of each in a folder of its own (train --out FOLDER)"
        )


def _few(labels: Collection[str]) -> str:
    short = [label for label in labels if len(label) <= LONGEST_SHOWN]  # longer ones may be tickets, by a slip in --target
    return ", ".join(short[:3]) + (", ..." if len(labels) > 3 or len(short) < len(labels) else "")


def show_problems(problems: "list[Problem]") -> None:
    for problem in problems[:PROBLEMS_SHOWN]:
        click.echo(f"{problem.source}, ticket {problem.row}: {problem.problem}", err=True)
    if len(problems) > PROBLEMS_SHOWN:
        kinds = Counter(problem.problem for problem in problems).most_common(PROBLEMS_SHOWN)
        click.echo(f"... and {len(problems) - PROBLEMS_SHOWN} further problems; in all: {'; '.join(f'{n} x {what}' for what, n in kinds)}", err=True)


def show_table(title: str, columns: list[str], rows: list[list[str]], *, numbers: bool = False) -> None:
    """`numbers`: all columns but the first hold numbers, which stand on the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(Text(column), overflow="fold", justify="right" if numbers and place else "left")
    for row in rows:
        table.add_row(*map(Text, row))  # labels may look like markup
    Console(width=None if sys.stdout.isatty() else 160).print(table)
