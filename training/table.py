"""A table of tickets fit to learn from: validated, with what is wrong reported by row and left out."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pandera.pandas as pa
from numpy.typing import NDArray

from model.cleaning import clean
from model.language import normalise
from training import rows
from training.errors import TrainingError

DEFAULT_TEXT = ("subject", "body")
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
    `created_at`: ISO 8601 or ""; `problems`: what was left out or blanked, by row.
    """

    texts: list[str]
    labels: dict[str, list[str]]
    languages: list[str]
    text_columns: tuple[str, ...]
    problems: list[Problem] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.texts)

    def label_names(self, target: str) -> list[str]:
        """The labels of `target`, sorted."""
        return sorted(set(self.labels[target]) - {""})

    def codes(self, target: str, names: Sequence[str]) -> NDArray[np.int64]:
        """The place of each ticket's label in `names`, -1 where it has none or another one."""
        places = {name: place for place, name in enumerate(names)}
        return np.array([places.get(label, -1) for label in self.labels[target]], np.int64)


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
    frame, problems = _read_frame(sources, database)
    columns = _text_columns(frame, text)
    wanted = _target_columns(frame, targets)
    frame, blanked = _validated(frame)
    problems += blanked
    pairs = [rows.text_of(dict(zip(columns, values, strict=True)), columns) for values in frame[list(columns)].itertuples(index=False)]
    frame["_text"] = [clean(subject, body) for subject, body in pairs]
    for name, column in wanted.items():
        frame[f"_{name}"] = [_label(value) for value in frame[column]]
    labels = [f"_{name}" for name in wanted]
    problems += _drop(frame, frame["_text"] == "", "no text")
    problems += _drop(frame, (frame[labels] == "").all(axis=1), "no label")
    if for_training:
        problems += _drop_duplicates(frame, labels)
        problems += _drop_rare(frame, wanted)
    if strict and problems:
        first = problems[0]
        raise TrainingError(f"--strict: {len(problems)} problems; the first: {first.source}, ticket {first.row}: {first.problem}")
    table = TicketTable(
        texts=frame["_text"].tolist(),
        labels={name: frame[f"_{name}"].tolist() for name in wanted},
        languages=[normalise(tag) or "" if isinstance(tag, str) else "" for tag in frame.get("language", [""] * len(frame))],
        text_columns=columns,
        problems=sorted(problems, key=lambda problem: (problem.source, problem.row)),
        ids=["" if value is None else str(value) for value in frame.get("id", [""] * len(frame))],
    )
    if not len(table):
        raise TrainingError(f"{', '.join(sources)}: no ticket is left to work with; see the problems above: {_summary(problems)}")
    if for_training and all(len(table.label_names(name)) < 2 for name in wanted):
        found = ", ".join(f"{name}: {len(table.label_names(name))}" for name in wanted)
        raise TrainingError(f"{', '.join(sources)}: fewer than two labels in every target ({found}); there is nothing to tell apart")
    return table


def _read_frame(sources: Sequence[str], database: str | None) -> tuple[pd.DataFrame, list[Problem]]:
    parts = []
    for source in sources:
        records = []
        for number, row in enumerate(rows.read(source, database), 1):
            if isinstance(row, rows.BadRow):
                raise TrainingError(row.why)
            records.append({"_source": source, "_row": number, **row})
        parts.append(pd.DataFrame.from_records(records))
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    if frame.empty:
        raise TrainingError(f"{', '.join(sources)}: no rows")
    return frame.astype(object).where(frame.notna(), None), []


def _text_columns(frame: pd.DataFrame, text: Sequence[str] | None) -> tuple[str, ...]:
    found = ", ".join(str(column) for column in frame.columns if not str(column).startswith("_"))
    if text is None:
        columns = tuple(column for column in DEFAULT_TEXT if column in frame.columns)
        if not columns:
            raise TrainingError(f"no text column: expected subject and body; found {found}; name yours with --text")
        return columns
    missing = [column for column in text if column not in frame.columns]
    if missing or not 1 <= len(text) <= 2:
        raise TrainingError(f"no text column {', '.join(missing)}: found {found}; --text takes one column, or two with the subject first")
    return tuple(text)


def _target_columns(frame: pd.DataFrame, targets: Mapping[str, str] | None) -> dict[str, str]:
    found = ", ".join(str(column) for column in frame.columns if not str(column).startswith("_"))
    if targets is None:
        present = {name: name for name in DEFAULT_TARGETS if name in frame.columns}
        if not present:
            raise TrainingError(f"no column of labels: expected {' or '.join(DEFAULT_TARGETS)}; found {found}; name yours with --target")
        return present
    for column in targets.values():
        if column not in frame.columns:
            raise TrainingError(f"no column {column!r} for a target; found {found}")
    return dict(targets)


def _validated(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[Problem]]:
    """The frame with wrong optional values blanked, and what they were wrong in (never the values: they may be private)."""
    for column in _KNOWN:
        if column in frame.columns:
            frame[column] = [None if value is None or str(value).strip() == "" else str(value).strip() for value in frame[column]]
    present = [column for column in SCHEMA.columns if column in frame.columns and frame[column].notna().any()]
    try:
        SCHEMA.select_columns(present).validate(frame[present].astype("str").where(frame[present].notna(), None), lazy=True)
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases.dropna(subset=["index"])
        problems = []
        for index, column, check in zip(cases["index"], cases["column"], cases["check"], strict=True):
            frame.loc[index, column] = None
            problems.append(_problem(frame, int(index), f"{column}: {check}; the value is left out"))
        return frame, problems
    return frame, []


def _problem(frame: pd.DataFrame, index: int, problem: str) -> Problem:
    return Problem(str(frame.at[index, "_source"]), int(str(frame.at[index, "_row"])), problem)


def _drop(frame: pd.DataFrame, which: "pd.Series[bool]", why: str) -> list[Problem]:
    dropped = [_problem(frame, int(index), f"{why}; dropped") for index in frame.index[which]]
    frame.drop(index=frame.index[which], inplace=True)
    return dropped


def _drop_duplicates(frame: pd.DataFrame, labels: list[str]) -> list[Problem]:
    text = frame["_text"].str.casefold()
    answers = frame[labels].agg("\x1f".join, axis=1)
    contradicting = answers.groupby(text).transform("nunique") > 1
    problems = _drop(frame, contradicting, "same text as another ticket, other labels")
    repeated = text.loc[frame.index].duplicated()
    return problems + _drop(frame, repeated, "same text and labels as an earlier ticket")


def _drop_rare(frame: pd.DataFrame, targets: Mapping[str, str]) -> list[Problem]:
    """A label seen once cannot be learned and judged; the row may still teach the other targets only if it stays labelled
    there, but a half-labelled ticket is a surprise, so the row goes."""
    problems = []
    for name in targets:
        counts = Counter(frame[f"_{name}"])
        lonely = frame[f"_{name}"].map(lambda label, counts=counts: bool(label) and counts[label] == 1)
        problems += _drop(frame, lonely.astype(bool), f"its label in {name} is seen only once")
    return problems


def _label(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # pandas and Excel turn whole-number labels into floats
    return str(value).strip()


def _summary(problems: Iterable[Problem]) -> str:
    return ", ".join(f"{count} x {what}" for what, count in Counter(problem.problem for problem in problems).most_common(5))
