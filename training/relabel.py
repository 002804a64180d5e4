"""Change some labels of a ticket table and nothing else: rows that are not changed stay as they are, in CSV and JSON Lines byte for byte."""

import csv
import gzip
import io
import json
from collections.abc import Iterator
from typing import IO, Any, cast

from training.errors import TrainingError

Changes = dict[int, dict[str, str]]  # row, counted from 1 as `training.rows` does, to column to label
_FORMS = (".csv", ".jsonl", ".ndjson", ".parquet", ".pq")


def form(file: str) -> str:
    """What kind of table a file is, by its suffix. Raises TrainingError where labels cannot be changed in such a file."""
    name = file.lower().removesuffix(".gz")
    found = next((suffix for suffix in _FORMS if name.endswith(suffix)), None)
    if found is None:
        raise TrainingError(f"{file}: labels can be changed in a .csv, .jsonl or .parquet file (.gz too); write the others to one first")
    return found


def rewrite(source: str, changes: Changes, out: IO[bytes], *, packed: bool) -> None:
    """Write the table `source` to `out` with `changes`; a column that it does not have is added. With `packed`, gzipped."""
    suffix = form(source)
    if suffix in (".parquet", ".pq"):
        _parquet(source, changes, out)
        return
    with gzip.open(source, "rb") if source.lower().endswith(".gz") else open(source, "rb") as file:
        lines = (_csv if suffix == ".csv" else _json_lines)(cast(IO[bytes], file), changes)
        if not packed:
            out.writelines(lines)
            return
        with gzip.GzipFile(fileobj=out, mode="wb", mtime=0, filename="") as zipped:
            zipped.writelines(lines)


def _json_lines(file: IO[bytes], changes: Changes) -> Iterator[bytes]:
    number = 0
    for place, line in enumerate(file):
        mark = b"\xef\xbb\xbf" if not place and line.startswith(b"\xef\xbb\xbf") else b""
        number += not line.removeprefix(mark).isspace()
        change = None if line.removeprefix(mark).isspace() else changes.get(number)
        if change is None:
            yield line
            continue
        content = line.removeprefix(mark)
        # Numbers as they are written: 1.10 stays 1.10.
        row = json.loads(content, parse_float=_Number, parse_int=_Number) | change
        separators = (", ", ": ") if b'": ' in content else (",", ":")
        yield mark + _dumped(row, separators).encode() + content[len(content.rstrip(b"\r\n")) :]


class _Number(str):
    """A number as it stands in the text."""


def _dumped(value: Any, separators: tuple[str, str]) -> str:
    comma, colon = separators
    if isinstance(value, _Number):
        return str(value)
    if isinstance(value, dict):
        return "{" + comma.join(json.dumps(key, ensure_ascii=False) + colon + _dumped(own, separators) for key, own in value.items()) + "}"
    if isinstance(value, list):
        return "[" + comma.join(_dumped(own, separators) for own in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def _csv(file: IO[bytes], changes: Changes) -> Iterator[bytes]:
    raw: list[str] = []

    def remembered(lines: io.TextIOWrapper) -> Iterator[str]:
        for place, line in enumerate(lines):
            raw.append(line)
            yield line if place else line.removeprefix("\ufeff")

    with io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
        records = csv.reader(remembered(text), strict=True)
        header = next(records)
        added = sorted({column for change in changes.values() for column in change if column not in header})
        # Where a name comes up twice, the last one counts, as in reading.
        places = {name: place for place, name in enumerate(header + added)}
        yield _with_cells(raw, added).encode()
        raw.clear()
        number = 0
        for cells in records:
            number += bool(cells)
            change = changes.get(number, {}) if cells else {}
            kept = {column: change.get(column, "") for column in added} if cells else {}
            if any(column in header for column in change):
                for column, label in change.items():
                    if column in header:
                        cells[places[column]] = label
                written = io.StringIO()
                csv.writer(written, lineterminator="").writerow(cells)
                raw[:] = [written.getvalue() + _line_end("".join(raw))]
            yield _with_cells(raw, list(kept.values())).encode()
            raw.clear()


def _with_cells(raw: list[str], cells: list[str]) -> str:
    """A record as it stands, with further cells at its end."""
    record = "".join(raw)
    if not cells:
        return record
    end = _line_end(record)
    written = io.StringIO()
    csv.writer(written, lineterminator="").writerow(["", *cells])
    return record.removesuffix(end) + written.getvalue() + end


def _line_end(record: str) -> str:
    return next((end for end in ("\r\n", "\n", "\r") if record.endswith(end)), "")


def _parquet(source: str, changes: Changes, out: IO[bytes]) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(source)
    for column in sorted({column for change in changes.values() for column in change}):
        place = table.schema.get_field_index(column)
        values = table.column(place).to_pylist() if place >= 0 else [None] * len(table)
        for number, change in changes.items():
            if column in change:
                values[number - 1] = change[column]
        if place < 0:
            table = table.append_column(column, pyarrow.array(values, pyarrow.string()))
            continue
        kind = table.schema.field(place).type
        try:
            made = pyarrow.array(values, kind)
        except (pyarrow.ArrowException, TypeError):  # numbers for labels, and one that is none
            made = pyarrow.array([None if value is None else str(value) for value in values], pyarrow.string())
        table = table.set_column(place, table.schema.field(place).with_type(made.type), made)
    pyarrow.parquet.write_table(table, out)
