"""Findings that need no classifier: what a table has, and lacks."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
import pandas as pd

from training.history import History
from training.table import NO_LABEL

Cell = str | int | float
RARE = 20  # tickets of a label or a language; with fewer, what is said of it is chance
SHORT = 15  # characters
MOST_ROWS, MOST_LABELS = 25, 100
DRIFT = 0.10  # of all tickets, from the earliest third to the latest
KIND, INCIDENT, ADVISORY = "kind", "incident", "advisory"


@dataclass(frozen=True)
class Finding:
    """Something to know: `count` of `of` `unit`; `why` it matters and what `to_do`; a table of `rows`, and `bars` to be drawn, by title.

    `level`: ``problem`` (do something before training), ``look`` (a person should look), ``fine``."""

    code: str
    title: str
    level: Literal["problem", "look", "fine"]
    count: int
    of: int
    why: str
    to_do: str
    columns: tuple[str, ...] = ()
    rows: list[list[Cell]] = field(default_factory=list)
    bars: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    unit: str = "tickets"


def excerpt(text: str, most: int = 160) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text[: 4 * most].split())
    return line if len(line) <= most else line[: most - 1] + "…"


def counted(values: Iterable[str]) -> list[tuple[str, int]]:
    """Each value and how often it comes up, the most common first."""
    return sorted(Counter(values).items(), key=lambda pair: (-pair[1], pair[0]))


def schema(history: History) -> Finding:
    kinds = counted(problem.problem for problem in history.problems)
    first = {problem.problem: problem for problem in reversed(history.problems)}
    rows: list[list[Cell]] = [[what, n, first[what].source, first[what].row] for what, n in kinds[:MOST_ROWS]]
    touched = len({(problem.source, problem.row) for problem in history.problems})
    # Tickets that nobody labelled yet are nothing wrong: most exports have some.
    unlabelled = {(problem.source, problem.row) for problem in history.problems if problem.problem.startswith(f"{NO_LABEL};")}
    amiss = touched - len(unlabelled) > 0.1 * (history.rows - len(unlabelled))
    refused = f" Training would refuse this table: {history.refusal}." if history.refusal else ""
    return Finding(
        "schema", "Rows that training would leave out or mend", "problem" if refused or amiss else "look" if touched else "fine",
        touched, history.rows, "What is left out is not learned from; many such rows mean that the export is not what it was meant to be." + refused,
        "Mend the export, or leave it: training says the same and goes on." if touched else "Nothing.",
        ("problem", "rows", "first in", "at row"), rows, unit="rows",
    )  # fmt: skip


def over_time(history: History) -> Finding:
    """Tickets by month, and labels whose share moved."""
    moments = pd.Series(pd.to_datetime(pd.Series(history.moments, dtype=str).replace("", None), errors="coerce", utc=True, format="ISO8601"))
    dated = moments.notna().to_numpy()
    if not dated.any():
        return Finding(
            "time", "Tickets over time", "look", len(moments), len(moments), "No ticket says when it came (created_at), so nothing is known of change.",
            "Export created_at, and test on the latest tickets: a random split flatters.",
        )  # fmt: skip
    months = moments[dated].dt.strftime("%Y-%m")
    by_month = sorted(Counter(months).items())
    order = np.flatnonzero(dated)[np.argsort(moments[dated].to_numpy(), kind="stable")]
    third = len(order) // 3
    rows: list[list[Cell]] = []
    for name, labels in history.table.labels.items():
        early, late = (Counter(labels[i] for i in part if labels[i]) for part in (order[:third], order[len(order) - third :]))
        for label in sorted(set(early) | set(late)):
            shares = [part[label] / max(1, sum(part.values())) for part in (early, late)]
            if abs(shares[1] - shares[0]) >= DRIFT and third >= RARE:
                rows.append([name, label, f"{shares[0]:.0%}", f"{shares[1]:.0%}"])
    return Finding(
        "time", "Tickets over time", "look" if rows or not dated.all() else "fine", len(rows), sum(len(set(own) - {""}) for own in history.table.labels.values()),
        f"{int(dated.sum())} tickets from {months.min()} to {months.max()}, {int((~dated).sum())} without a date. Labels whose share moved by "
        f"{DRIFT:.0%} of all tickets or more, from the earliest third to the latest: what was true then may not be now.",
        "Train on the recent part, or say the mix at the door (--prior); test on the latest tickets." if rows else "Test on the latest tickets.",
        ("target", "label", "earliest third", "latest third"), rows[:MOST_ROWS],
        {"Tickets by month": [(month, float(n)) for month, n in by_month[-36:]]}, unit="labels",
    )  # fmt: skip


def lengths(history: History) -> Finding:
    table = history.table
    sizes = np.array([len(text) for text in table.texts])
    short = np.flatnonzero(sizes < SHORT)
    edges = [0, SHORT, 50, 100, 200, 400, 800, 1600, 3200, int(max(sizes.max() + 1, 3201))]
    counts, _ = np.histogram(sizes, edges)
    names = [f"{low}–{high - 1}" for low, high in pairwise(edges[:-1])] + [f"{edges[-2]} and more"]
    rows: list[list[Cell]] = [[history.places[i].row, table.ids[i], excerpt(table.texts[i])] for i in short[:MOST_ROWS].tolist()]
    half, most = np.quantile(sizes, [0.5, 0.95])
    return Finding(
        "lengths", "Lengths", "look" if len(short) > 0.05 * len(sizes) else "fine", len(short), len(sizes),
        f"Half of the tickets have {half:.0f} characters or fewer, 95% {most:.0f} or fewer, after signatures and quotes are taken away. Those under "
        f"{SHORT} say too little to be told apart.",
        "Ask for more in the form, or expect these to go to people." if len(short) else "Nothing.",
        ("row", "id", "ticket"), rows, {"Tickets by characters": [(name, float(n)) for name, n in zip(names, counts, strict=True)]},
    )  # fmt: skip


def labels(history: History, target: str) -> Finding:
    own = history.table.labels[target]
    counts = counted(label for label in own if label)
    rare = [label for label, n in counts if n < RARE]
    missing = sum(1 for label in own if not label)
    rows: list[list[Cell]] = [[label, n, f"{n / len(own):.1%}", "rare" if n < RARE else ""] for label, n in counts]
    return Finding(
        f"labels_{target}", f"Labels of {target}", "problem" if len(counts) < 2 else "look" if rare or missing else "fine", len(rare), len(counts),
        f"{len(counts)} labels, {missing} tickets without one. A label with fewer than {RARE} tickets can hardly be learned, and not be judged: its "
        "figures are chance. Labels that differ in a letter are a slip.",
        "Label more of the rare ones (pointsman label), join them, or leave them out." if rare else "Nothing.",
        ("label", "tickets", "share", ""), rows[:MOST_LABELS], {f"Tickets by {target}": [(label, float(n)) for label, n in counts[:20]]}, unit="labels",
    )  # fmt: skip


def filed_as_incident(history: History) -> list[Finding]:
    """What share of declared incidents is advice; without a declared kind, of all tickets."""
    kinds: Sequence[str] = history.table.labels.get(KIND, [])
    if INCIDENT not in kinds or ADVISORY not in kinds:
        return []
    filed = [i for i, kind in enumerate(kinds) if kind and history.declared[i] == INCIDENT]
    known = any(history.declared)
    among = filed if known else [i for i, kind in enumerate(kinds) if kind]
    advice = [i for i in among if kinds[i] == ADVISORY]
    calm = [i for i, kind in enumerate(kinds) if kind == INCIDENT and history.declared[i] and history.declared[i] != INCIDENT]
    rows: list[list[Cell]] = []
    for name, own in history.table.labels.items():
        if name != KIND:
            rows += [[name, label, n] for label, n in counted(own[i] for i in advice if own[i])]
    said = (
        "Tickets filed as an incident that are a request for advice"
        if known
        else "Tickets that are a request for advice (no column says what they were filed as)"
    )
    return [Finding(
        "filed_as_incident", "Advice filed as an incident" if known else "Incidents and advice", "look", len(advice), len(among),
        f"{said}. Each takes the time of those who mend what is broken."
        + (f" The other way round, {len(calm)} real incidents were filed as something else." if known else ""),
        "Look where they come from: there the form should lead to advice first.",
        ("target", "label", "advice"), rows[:MOST_ROWS],
    )]  # fmt: skip
