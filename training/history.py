"""A history of tickets as it is, for judging it before it is learned from: nothing is left out that has text and a label, every ticket
knows its row, and what training would say of the table stands beside it."""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from training import rows
from training.errors import TrainingError
from training.table import Problem, TicketTable, read_table

MOMENT = "created_at"
STDIN = "standard input"


class Place(NamedTuple):
    """Where a ticket stands: `row` counts the tickets of its table from 1."""

    source: str
    row: int


@dataclass(frozen=True)
class History:
    """`table`: every ticket with text and a label, duplicates too; `places`: where each stands; `moments`, `declared`, `annotators`: what
    its row says of it, "" where nothing; `rows`: how many rows there are; `problems`: what training would leave out or blank; `refusal`:
    why training would refuse the table, or None."""

    table: TicketTable
    places: list[Place]
    moments: list[str]
    declared: list[str]
    annotators: list[str]
    rows: int
    problems: list[Problem]
    refusal: str | None


def read_history(
    sources: Sequence[str],
    *,
    text: Sequence[str] | None = None,
    targets: Mapping[str, str] | None = None,
    database: str | None = None,
    declared: str = "declared_kind",
    annotator: str = "annotator",
) -> History:
    """Read the tables `sources` as one; `declared` and `annotator` name the columns of what the customer filed it as and of who labelled
    it, where there are any. The rest as in `training.table.read_table`, which raises TrainingError for what cannot be read at all."""
    with _readable_again(sources) as files:
        table = read_table(files, text=text, targets=targets, database=database, for_training=False)
        refusal, problems = None, table.problems
        try:
            problems = read_table(files, text=text, targets=targets, database=database).problems
        except TrainingError as error:
            refusal = str(error)
        extra = [
            (Place(source, number), _said(row, MOMENT), _said(row, declared), _said(row, annotator))
            for source in files
            for number, row in enumerate(rows.read(source, database), 1)
            if not isinstance(row, rows.BadRow)
        ]
    gone = {(problem.source, problem.row) for problem in table.problems if problem.problem.endswith("; dropped")}
    left = [own for own in extra if own[0] not in gone]
    if len(left) != len(table):
        raise TrainingError(f"{', '.join(sources)}: changed while it was read")
    names = dict(zip(files, (STDIN if source == "-" else source for source in sources), strict=True))
    return History(
        table=table,
        places=[Place(names[place.source], place.row) for place, *_ in left],
        moments=[moment for _, moment, _, _ in left],
        declared=[filed for _, _, filed, _ in left],
        annotators=[who for _, _, _, who in left],
        rows=len(extra),
        problems=[replace(problem, source=names[problem.source]) for problem in problems],
        refusal=_named(refusal, names),
    )


def _said(row: rows.Row, column: str) -> str:
    value = row.get(column)
    return "" if value is None or value != value else str(value).strip()


def _named(refusal: str | None, names: Mapping[str, str]) -> str | None:
    for file, name in names.items():
        refusal = refusal and refusal.replace(file, name)
    return refusal


@contextmanager
def _readable_again(sources: Sequence[str]) -> Iterator[list[str]]:
    """The sources, standard input as a file: it is read more than once."""
    if "-" not in sources:
        yield list(sources)
        return
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as kept:
        shutil.copyfileobj(sys.stdin.buffer, kept)
        kept.flush()
        yield [str(Path(kept.name)) if source == "-" else source for source in sources]
