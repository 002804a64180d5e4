"""A table of tickets fit to learn from: validated, with what is wrong reported by row and left out."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pandera.pandas as pa
from numpy.typing import NDArray

from model.cleaning import clean
from model.language import normalise
from training import rows
from training.errors import TrainingError

DEFAULT_TEXT = ("subject", "body")
NO_LABEL = "no label"
DEFAULT_TARGETS = ("kind", "department")
CHANNELS = ("web", "email", "phone", "chat", "api")
_KNOWN = ("id", "language", "created_at", "channel", "customer_tier", "customer_ref", "country")

# What the optional columns must hold. A ticket with a wrong value keeps its text and labels; the value is left out.
SCHEMA = pa.DataFrameSchema(
    {
        "language": pa.Column(str, pa.Check(lambda tag: normalise(tag) is not None, element_wise=True, error="not a BCP 47 language tag"),
                              nullable=True, required=False),
        "created_at": pa.Column(str, pa.Check(lambda moments: pd.Series(pd.to_datetime(moments, errors="coerce", utc=True, format="ISO8601")).notna(),
                                              error="not an ISO 8601 moment"), nullable=True, required=False),
        "channel": pa.Column(str, pa.Check.isin(CHANNELS, error=f"not one of {', '.join(CHANNELS)}"), nullable=True, required=False),
    },
    strict=False,
)  # fmt: skip


_FEW = 1000  # tickets of a label


@dataclass(frozen=True)
class Problem:
    """Something wrong with one row: `row` counts the tickets of its table from 1."""

    source: str
    row: int
    problem: str


@dataclass(frozen=True)
class TicketTable:
    """Tickets to learn from or to be judged on.

    `texts`: cleaned; `labels`: for each target one label a ticket, "" where it has none; `languages`: a code or "";
    `tiers`: of the customers, or ""; `problems`: what was left out or blanked, by row.
    """

    texts: list[str]
    labels: dict[str, list[str]]
    languages: list[str]
    text_columns: tuple[str, ...]
    problems: list[Problem] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    tiers: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, which: NDArray[np.int64]) -> "TicketTable":
        """The tickets at the places `which`, in that order; the problems are told of the whole."""
        texts, languages, ids, tiers, *labels = (
            [column[i] for i in which] if column else [] for column in (self.texts, self.languages, self.ids, self.tiers, *self.labels.values())
        )
        return TicketTable(texts, dict(zip(self.labels, labels, strict=True)), languages, self.text_columns, self.problems, ids, tiers)

    def label_names(self, target: str) -> list[str]:
        """The labels of `target`, sorted."""
        return sorted(set(self.labels[target]) - {""})

    def codes(self, target: str, names: Sequence[str]) -> NDArray[np.int64]:
        """The place of each ticket's label in `names`, -1 where it has none or another one."""
        places = {name: place for place, name in enumerate(names)}
        return np.array([places.get(label, -1) for label in self.labels[target]], np.int64)


def thinned(table: TicketTable, most: int, seed: int) -> TicketTable:
    """About `most` tickets of the table, drawn by chance: memory grows with the tickets, and the last million teaches little. Labels with
    fewer than `_FEW` tickets keep them all."""
    if len(table) <= most:
        return table
    rare = np.zeros(len(table), bool)
    for labels in table.labels.values():
        counts = Counter(labels)
        rare |= np.array([label != "" and counts[label] < _FEW for label in labels])
    common = np.flatnonzero(~rare)
    drawn = np.random.default_rng(seed).choice(common, max(0, min(len(common), most - int(rare.sum()))), replace=False)
    return table.take(np.sort(np.concatenate([np.flatnonzero(rare), drawn])))


def read_table(
    sources: Sequence[str],
    *,
    text: Sequence[str] | None = None,
    targets: Mapping[str, str] | None = None,
    database: str | None = None,
    strict: bool = False,
    for_training: bool = True,
) -> TicketTable:
    """Read the tables `sources` as one and leave out what cannot be used, saying so in `problems`.

    `text`: the columns of the text; `targets`: name to column. With `strict` any problem raises. With `for_training`
    False, duplicates and labels seen once stay: a test table is judged as it is.
    Raises TrainingError: no rows, no text column, fewer than two labels in every target, a row that cannot be read.
    """
    if isinstance(sources, str):
        raise TypeError("expected a list of file names, found one string: put it in a list")
    where = ", ".join(sources)
    foreign, origin = _read(sources, database)
    columns = _text_columns(where, foreign, text)
    wanted = _target_columns(where, foreign, targets)
    # The table's own columns may be called anything; from here on the names are ours.
    frame = origin.assign(
        text=[clean(*rows.text_of(dict(zip(columns, row, strict=True)), columns)) for row in zip(*(foreign[c] for c in columns), strict=True)]
    )
    for name in _KNOWN:
        frame[name] = [_text(value) for value in foreign[name]] if name in foreign else ""
    labels = [f"label {name}" for name in wanted]
    for column, source in zip(labels, wanted.values(), strict=True):
        frame[column] = [_label(value) for value in foreign[source]]
    sieve = _Sieve(frame, _blank_invalid(frame))
    sieve.drop(frame["text"] == "", "no text")
    sieve.drop((sieve.frame[labels] == "").all(axis=1), NO_LABEL)
    if for_training:
        _drop_duplicates(sieve, labels)
        _drop_rare(sieve, labels)
    frame, problems = sieve.frame, sieve.problems
    if strict and problems:
        first = problems[0]
        raise TrainingError(f"--strict: {len(problems)} problems; the first: {first.source}, ticket {first.row}: {first.problem}")
    table = TicketTable(
        texts=frame["text"].tolist(),
        labels={name: frame[column].tolist() for name, column in zip(wanted, labels, strict=True)},
        languages=[normalise(tag) or "" if tag else "" for tag in frame["language"]],
        text_columns=columns,
        problems=sorted(problems, key=lambda problem: (problem.source, problem.row)),
        ids=frame["id"].tolist(),
        tiers=frame["customer_tier"].tolist(),
    )
    if not len(table):
        raise TrainingError(f"{where}: no ticket is left to work with ({_summary(problems)})")
    if for_training and all(len(table.label_names(name)) < 2 for name in wanted):
        found = ", ".join(f"{name}: {len(table.label_names(name))}" for name in wanted)
        raise TrainingError(f"{where}: fewer than two labels in every target ({found}); there is nothing to tell apart")
    return table


def _read(sources: Sequence[str], database: str | None) -> tuple[dict[str, list[Any]], pd.DataFrame]:
    """All rows as columns of values (None where a row has none), and where each row comes from."""
    records: list[rows.Row] = []
    origin: list[tuple[str, int]] = []
    for source in sources:
        for number, row in enumerate(rows.read(source, database), 1):
            if isinstance(row, rows.BadRow):
                raise TrainingError(row.why)
            records.append(row)
            origin.append((source, number))
    if not records:
        raise TrainingError(f"{', '.join(sources)}: no rows")
    names = dict.fromkeys(name for row in records for name in row)
    return {name: [row.get(name) for row in records] for name in names}, pd.DataFrame(origin, columns=["source", "row"])


def _text_columns(where: str, foreign: Mapping[str, object], text: Sequence[str] | None) -> tuple[str, ...]:
    found = ", ".join(foreign)
    if text is None:
        columns = tuple(column for column in DEFAULT_TEXT if column in foreign)
        if not columns:
            raise TrainingError(f"{where}: no text column: expected subject and body; found {found}; name yours with --text")
        return columns
    missing = [column for column in text if column not in foreign]
    if missing or not 1 <= len(text) <= 2:
        raise TrainingError(f"{where}: no text column {', '.join(missing)}: found {found}; --text takes one column, or two with the subject first")
    return tuple(text)


def _target_columns(where: str, foreign: Mapping[str, object], targets: Mapping[str, str] | None) -> dict[str, str]:
    found = ", ".join(foreign)
    if targets is None:
        present = {name: name for name in DEFAULT_TARGETS if name in foreign}
        if not present:
            raise TrainingError(f"{where}: no column of labels: expected {' or '.join(DEFAULT_TARGETS)}; found {found}; name yours with --target")
        return present
    for column in targets.values():
        if column not in foreign:
            raise TrainingError(f"{where}: no column {column!r} for a target; found {found}; name yours with --target NAME=COLUMN")
    return dict(targets)


def _blank_invalid(frame: pd.DataFrame) -> list[Problem]:
    """Blank wrong optional values in `frame`; what they were wrong in (never the values: they may be private)."""
    present = frame[list(SCHEMA.columns)].replace("", None).astype("str")
    try:
        SCHEMA.validate(present.where(frame[list(SCHEMA.columns)] != "", None), lazy=True)
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases.dropna(subset=["index"])
        problems = []
        for index, column, check in zip(cases["index"], cases["column"], cases["check"], strict=True):
            frame.loc[index, column] = ""
            problems.append(_problem(frame, int(index), f"{column}: {check}; the value is left out"))
        return problems
    return []


def _problem(frame: pd.DataFrame, index: int, problem: str) -> Problem:
    return Problem(str(frame.at[index, "source"]), int(str(frame.at[index, "row"])), problem)


class _Sieve:
    """A frame that loses rows, and what was wrong with each."""

    def __init__(self, frame: pd.DataFrame, problems: list[Problem]) -> None:
        self.frame = frame
        self.problems = problems

    def drop(self, which: "pd.Series[bool]", why: str) -> None:
        """Drop the rows of `which`."""
        self.problems += [_problem(self.frame, int(str(index)), f"{why}; dropped") for index in self.frame.index[which]]
        self.frame = self.frame[~which]


def _drop_duplicates(sieve: _Sieve, labels: list[str]) -> None:
    text = sieve.frame["text"].str.casefold()
    answers = pd.Series(["\x1f".join(row) for row in sieve.frame[labels].itertuples(index=False)], index=text.index, dtype=str)
    sieve.drop(answers.groupby(text).transform("nunique") > 1, "same text as another ticket, other labels")
    sieve.drop(text.loc[sieve.frame.index].duplicated(), "same text and labels as an earlier ticket")


def _drop_rare(sieve: _Sieve, labels: list[str]) -> None:
    """A label seen once cannot be learned and judged. The whole row goes: a half-labelled ticket would be a surprise. That may
    leave a label of another target alone, so it is done until nothing changes."""
    before = -1
    while len(sieve.frame) != before:
        before = len(sieve.frame)
        for column in labels:
            counts = sieve.frame[column].value_counts()
            lonely = sieve.frame[column].isin(counts.index[counts == 1]) & (sieve.frame[column] != "")
            sieve.drop(lonely, f"its {column.replace('label', 'label in')} is seen only once")


def _label(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # pandas and Excel turn whole-number labels into floats
    return _text(value)


def _text(value: object) -> str:
    return "" if value is None or value != value else str(value).strip()  # NaN is the one that differs


def _summary(problems: Iterable[Problem]) -> str:
    return ", ".join(f"{count} x {what}" for what, count in Counter(problem.problem for problem in problems).most_common(5))
