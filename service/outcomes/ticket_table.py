"""Writing a ticket table: CSV, JSON Lines or Parquet, row by row."""

import csv
import gzip
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import IO

import orjson

from model.spreadsheet import safe
from service.outcomes.export import Labelled

FORMS = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet")  # others of the same kinds are known too
_TOGETHER = 500


def known(name: str) -> bool:
    """Whether a ticket table can be written to a file of that name."""
    return _kind(name) is not None


def write(out: IO[bytes], name: str, tickets: Iterable[Labelled]) -> None:
    """Write `tickets` as the form that `name` ends in says; `-` is JSON Lines."""
    kind = _kind(name)
    if kind == "parquet":
        _parquet(out, tickets)
        return
    with _packed(out) if name.lower().endswith(".gz") else _as_it_is(out) as file:
        (_csv if kind == "csv" else _json_lines)(file, tickets)


def _kind(name: str) -> str | None:
    lower = name.lower()
    plain = lower.removesuffix(".gz")
    if name == "-" or plain.endswith((".jsonl", ".ndjson")):
        return "jsonl"
    if plain.endswith(".csv"):
        return "csv"
    return "parquet" if lower.endswith((".parquet", ".pq")) else None


@contextmanager
def _packed(out: IO[bytes]) -> Iterator[IO[bytes]]:
    # No name and no time in its head: the same tickets give the same file.
    with gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=0) as file:
        yield file  # type: ignore[misc]


@contextmanager
def _as_it_is(out: IO[bytes]) -> Iterator[IO[bytes]]:
    yield out


def _json_lines(out: IO[bytes], tickets: Iterable[Labelled]) -> None:
    for ticket in tickets:
        out.write(orjson.dumps(ticket._asdict(), option=orjson.OPT_APPEND_NEWLINE))


def _csv(out: IO[bytes], tickets: Iterable[Labelled]) -> None:
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text)
    writer.writerow(Labelled._fields)
    writer.writerows([_cell(value) for value in ticket] for ticket in tickets)
    text.detach()  # it would close what others still write to


def _cell(value: str | bool | None) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return safe(value)


def _parquet(out: IO[bytes], tickets: Iterable[Labelled]) -> None:
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema([(name, pyarrow.bool_() if name == "answer_shown" else pyarrow.string()) for name in Labelled._fields])
    rows = iter(tickets)
    with pyarrow.parquet.ParquetWriter(out, schema) as writer:
        while some := list(islice(rows, _TOGETHER)):
            writer.write_table(pyarrow.Table.from_pylist([ticket._asdict() for ticket in some], schema))
