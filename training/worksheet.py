"""Worksheets: tickets for a person to label or to correct in a spreadsheet, and the way back into the table they came from.

A worksheet is a CSV with a row for each label in question. The person fills the column `corrected`; the others are left alone. Merging
changes these labels and nothing else (see `training.relabel`).
"""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import NamedTuple

from model.cleaning import clean
from model.spreadsheet import safe
from training import rows
from training.errors import TrainingError
from training.relabel import Changes
from training.table import DEFAULT_TEXT

LONGEST_TEXT = 5_000  # characters of a ticket; a spreadsheet's cell holds 32,767
LONGEST_LABEL = 200
COMPARED = 200  # letters and digits at the start of a ticket, by which it is known again


class Question(NamedTuple):
    """A label to look at. `row` counts the tickets of `source` from 1; `given` is the label in the table ("": none); `score` is from 0 to
    1, the higher the sooner it is worth a look; `corrected` is the person's."""

    source: str
    row: int
    id: str
    target: str
    text: str
    given: str
    suggested: str
    score: float
    words: str = ""
    corrected: str = ""


@dataclass
class Merging:
    """What a merge comes to: labels to change, by row and column; how many are so already; labels that the table did not have before, and
    how often, where they are allowed; and, by worksheet row (the header is row 1), why others are left."""

    changes: Changes = field(default_factory=dict)
    already: int = 0
    new_labels: dict[str, int] = field(default_factory=dict)
    left: list[tuple[int, str]] = field(default_factory=list)

    @property
    def changed(self) -> int:
        return sum(map(len, self.changes.values()))


def write(questions: Iterable[Question]) -> Iterator[bytes]:
    """The worksheet, line by line: CSV in UTF-8 with a byte order mark, which Excel needs."""
    yield b"\xef\xbb\xbf" + _line(Question._fields)
    for question in questions:
        text = question.text if len(question.text) <= LONGEST_TEXT else question.text[: LONGEST_TEXT - 1] + "…"
        yield _line([_marked(str(cell)) for cell in question._replace(text=text, score=round(question.score, 4))])


def _line(cells: Sequence[str]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerow(cells)
    return out.getvalue().encode("utf-8", "replace")


def _marked(cell: str) -> str:
    # A cell that begins with the mark gets one more, so that taking one off gives every cell as it was.
    return f"'{cell}" if cell.startswith("'") else safe(cell)


def _plain(cell: str) -> str:
    return cell.removeprefix("'")


def read(file: str) -> Iterator[tuple[int, Question]]:
    """The questions of a worksheet that have an answer, with their rows (the header is row 1). Commas, semicolons and tabs are read: which
    one a spreadsheet writes hangs on the country. Raises TrainingError where it is no worksheet."""
    csv.field_size_limit(rows.LONGEST_FIELD)
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            first = lines.readline()
            mark = max(",;\t", key=first.count)
            header = [cell.strip() for cell in next(csv.reader([first], delimiter=mark), [])]
            missing = [name for name in ("row", "id", "target", "text", "given", "corrected") if name not in header]
            if missing:
                raise TrainingError(f"{file}: not a worksheet: no column {missing[0]}; the columns must stay as they were written")
            for number, cells in enumerate(csv.reader(lines, delimiter=mark), 2):
                own = dict(zip(header, cells, strict=False))
                if not own.get("corrected", "").strip():
                    continue
                if len(cells) != len(header) or not own["row"].strip().isdecimal():
                    raise TrainingError(f"{file}, row {number}: not as it was written ({len(cells)} cells, the header has {len(header)})")
                told = {name: _plain(own.get(name, "")).strip() for name in ("source", "id", "target", "given", "suggested", "words", "corrected")}
                yield number, Question(**told, row=int(own["row"]), text=_plain(own["text"]), score=0.0)
    except UnicodeDecodeError as error:
        raise TrainingError(f"{file}: not UTF-8; save it from the spreadsheet as CSV UTF-8") from error
    except (OSError, csv.Error) as error:
        raise TrainingError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def merge(
    history: str, worksheet: str, *, text: Sequence[str] | None = None, targets: Mapping[str, str] | None = None, allow_new: bool = False
) -> Merging:  # fmt: skip
    """Find out which labels of the table `history` the filled rows of `worksheet` change. A ticket is known by its id, where the table
    gives it to that one only, else by its row; and its text and label must be those of the worksheet.

    `allow_new`: labels that neither the table, where it has any, nor a suggestion has are taken, too; a slip of the keyboard looks like one.
    `text` and `targets` as in `training.table.read_table`. Raises TrainingError where one of the two cannot be read.
    """
    merging = Merging()
    asked = list(read(worksheet))
    ids = {question.id for _, question in asked}
    wanted = {question.row for _, question in asked}
    columns = dict(targets or {}) | {q.target: q.target for _, q in asked if q.target not in (targets or {})}
    known: dict[str, set[str]] = {column: set() for column in columns.values()}
    found: dict[int, rows.Row] = {}
    by_id: dict[str, list[int]] = defaultdict(list)
    for number, row in enumerate(rows.read(history), 1):
        if isinstance(row, rows.BadRow):
            raise TrainingError(row.why)
        own_id = _said(row.get("id"))
        if own_id in ids:
            by_id[own_id].append(number)
        if number in wanted or own_id in ids:
            found[number] = row
        for column, labels in known.items():
            if label := _said(row.get(column)):
                labels.add(label)
    for _, question in asked:
        labels = known[columns[question.target]]
        if labels and question.suggested:
            labels.add(question.suggested)  # a router's, or another table's

    answers: dict[tuple[int, str], list[tuple[int, Question]]] = defaultdict(list)
    for line, question in asked:
        place = _place(question, by_id, found)
        why = place if isinstance(place, str) else _changed_since(question, found[place], text or DEFAULT_TEXT, history)
        if isinstance(place, str) or why:
            merging.left.append((line, why))
        else:
            answers[place, columns[question.target]].append((line, question))
    for (number, column), given in answers.items():
        _answer(merging, number, column, given, _said(found[number].get(column)), known[column], allow_new)
    merging.left.sort()
    return merging


def _place(question: Question, by_id: Mapping[str, list[int]], found: Mapping[int, rows.Row]) -> int | str:
    """The row of the ticket, or why there is none."""
    if not question.target or len(question.corrected) > LONGEST_LABEL:
        return "no target is named" if not question.target else f"the label is longer than {LONGEST_LABEL} characters"
    if not question.id:
        return question.row if question.row in found else f"the table has no ticket {question.row}"
    numbers = by_id.get(question.id, [])
    if len(numbers) == 1:
        return numbers[0]
    if question.row in numbers:
        return question.row
    return f"{len(numbers) or 'no'} tickets have the id {question.id}"


def _changed_since(question: Question, row: rows.Row, text: Sequence[str], history: str) -> str:
    if missing := [column for column in text if column not in row] if not set(text) & set(row) else []:
        raise TrainingError(f"{history}: no text column {missing[0]}; name yours with --text")
    # Spreadsheets change line ends and blanks; letters they leave alone.
    if _letters(clean(*rows.text_of(row, tuple(text)))) != _letters(question.text):
        return "the ticket has another text in the table: is the worksheet of another one?"
    return ""


def _answer(merging: Merging, number: int, column: str, given: list[tuple[int, Question]], current: str, known: set[str], allow_new: bool) -> None:
    """Take the answers to one label of one ticket into the merge: one that all agree on, for the label that was asked about."""
    labels = {question.corrected for _, question in given}
    for line, question in given:
        if len(labels) > 1:
            merging.left.append((line, f"the worksheet has {len(labels)} answers to this label"))
        elif question.corrected == current:
            merging.already += 1
        elif question.given != current:
            merging.left.append((line, f"{column} is {current or 'empty'} in the table by now, not {question.given or 'empty'} as in the worksheet"))
        elif known and question.corrected not in known and not allow_new:
            merging.left.append((line, _slip(question.corrected, known)))
        elif column not in merging.changes.setdefault(number, {}):
            merging.changes[number][column] = question.corrected
            if question.corrected not in known:
                merging.new_labels[question.corrected] = merging.new_labels.get(question.corrected, 0) + 1
    if not merging.changes.get(number, True):
        del merging.changes[number]


def _slip(label: str, known: set[str]) -> str:
    alike = {name.casefold(): name for name in sorted(known)}
    near = get_close_matches(label.casefold(), alike, 1)
    return f"{label!r} is a label that the table does not have{f'; {alike[near[0]]!r} is meant?' if near else ''}; --new-labels takes it"


def _letters(text: str) -> str:
    return "".join(letter for letter in text[: 4 * COMPARED] if letter.isalnum())[:COMPARED]


def _said(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None or value != value else str(value).strip()
