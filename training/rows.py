"""The one door for ticket tables: every form of table, read row by row in constant memory.

CSV, JSON Lines and Parquet are known by their suffix (``.gz`` is read too), a ``.sql`` file is a query to run against a
database, and ``-`` is JSON Lines on standard input. pandas is not needed here, so that classifying a file starts fast.
"""

import contextlib
import csv
import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import orjson

from model.decision import Ticket
from training.errors import TrainingError

LONGEST_FIELD = 10_000_000  # characters; longer is not a ticket
Row = dict[str, Any]
Reader = Callable[[IO[bytes], str], Iterator["Row | BadRow"]]


class BadRow(NamedTuple):
    """A row that cannot be read: its number (the header is row 1 of a CSV, lines count from 1), and why."""

    number: int
    why: str


def read(source: str, database: str | None = None) -> Iterator[Row | BadRow]:
    """The rows of the table `source`, in order; a row that cannot be read comes as a BadRow and reading goes on.

    Raises TrainingError where the table as a whole cannot be read.
    """
    name = source.lower().removesuffix(".gz")
    packed = source.lower().endswith(".gz")
    if source == "-":
        return _guarded("standard input", _json_lines, sys.stdin.buffer)
    path = Path(source)
    if not path.is_file() and not path.is_fifo():
        raise TrainingError(f"{source}: no such file")
    if name.endswith(".csv"):
        return _guarded(source, _csv, _open(path, packed))
    if name.endswith((".jsonl", ".ndjson")):
        return _guarded(source, _json_lines, _open(path, packed))
    if name.endswith((".parquet", ".pq")) and not packed:
        return _parquet(source)
    if name.endswith(".sql") and not packed:
        return _query(source, database)
    raise TrainingError(f"{source}: not a kind of table; expected .csv, .jsonl, .parquet (.gz too, but for Parquet) or .sql")


def text_of(row: Row, columns: tuple[str, ...]) -> tuple[str, str]:
    """Subject and body of a row, by the columns that hold the text: one (it is the body) or two (subject first)."""
    values = ["" if (value := row.get(column)) is None else str(value) for column in columns]
    return (values[0], values[1]) if len(values) == 2 else ("", values[0])


def as_ticket(row: Row | BadRow, columns: tuple[str, ...]) -> tuple[dict[str, Any], Ticket | None]:
    """The beginning of a row's answer (its id, or the error), and its ticket; None where the row fails."""
    if isinstance(row, BadRow):
        return {"id": None, "error": {"code": "bad_row", "message": row.why}}, None
    get = row.get
    line = {"id": get("id")}
    subject, body = text_of(row, columns)
    if (not subject or subject.isspace()) and (not body or body.isspace()):
        lacks = not any(column in row for column in columns)
        why = f"no column {' or '.join(columns)}, which the router reads" if lacks else f"no text in {' and '.join(columns)}"
        return line | {"error": {"code": "no_text", "message": why}}, None
    told = get("language")
    known = [None if value is None else str(value) for value in (get("channel"), get("declared_kind"), get("customer_tier"), get("country"))]
    return line, Ticket(subject, body, told if isinstance(told, str) else None, *known)


def _open(path: Path, packed: bool) -> IO[bytes]:
    try:
        return gzip.open(path, "rb") if packed else path.open("rb")  # type: ignore[return-value]
    except OSError as error:
        raise TrainingError(f"{path}: cannot be read: {error.strerror}") from error


def _guarded(source: str, reader: Reader, file: IO[bytes]) -> Iterator[Row | BadRow]:
    try:
        with file:
            yield from reader(file, source)
    except UnicodeDecodeError as error:
        raise _not_utf8(source, error) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TrainingError(f"{source}: cut in the middle or damaged: {error}") from error
    except OSError as error:
        raise TrainingError(f"{source}: cannot be read: {error.strerror or error}") from error


def _not_utf8(source: str, error: UnicodeDecodeError) -> TrainingError:
    byte = error.object[error.start]
    return TrainingError(f"{source}: not UTF-8 (byte 0x{byte:02x}); save it as UTF-8, or convert it with `iconv -t UTF-8`")


def _json_lines(file: Iterable[bytes], source: str) -> Iterator[Row | BadRow]:
    for number, line in enumerate(file, 1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if line.isspace():
            continue
        try:
            row = orjson.loads(line)
        except orjson.JSONDecodeError:
            line.decode("utf-8")  # a wrong encoding is a fault of the whole file
            row = None
        if isinstance(row, dict):
            yield row
        else:
            yield BadRow(number, f"{source}, line {number}: not a JSON object in UTF-8 (cut in the middle?)")


def _csv(file: IO[bytes], source: str) -> Iterator[Row | BadRow]:
    csv.field_size_limit(LONGEST_FIELD)
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        lines = csv.reader(text, strict=True)
        try:
            header = next(lines, None)
            if header is None:
                return
            number = 1
            for number, fields in enumerate(lines, 2):
                if len(fields) == len(header):
                    yield dict(zip(header, fields, strict=True))
                elif fields:
                    yield BadRow(number, f"{source}, row {number}: {len(fields)} fields, the header has {len(header)} (cut in the middle?)")
        except csv.Error as error:
            raise TrainingError(f"{source}, near line {lines.line_num}: not valid CSV ({error}); cut in the middle?") from error


def _parquet(source: str) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(source) as file:
            for batch in file.iter_batches(batch_size=4096):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise TrainingError(f"{source}: not a Parquet file, or cut in the middle") from error


def _query(source: str, database: str | None) -> Iterator[Row]:
    import sqlalchemy

    if not database:
        raise TrainingError(f"{source}: a query needs a database; name it with --database or POINTSMAN_DATABASE_URL")
    try:
        query = Path(source).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(source, error) from error
    try:
        engine = sqlalchemy.create_engine(database)
        with contextlib.closing(engine.connect().execution_options(stream_results=True, yield_per=4096)) as connection:
            for row in connection.exec_driver_sql(query).mappings():
                yield dict(row)
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        raise TrainingError(f"{source}: the query failed: {type(error).__name__}") from error
