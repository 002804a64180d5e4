"""The tickets behind a number: which ones, and what is told of each."""

import json
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.engine import Connection

from service.reports import causes, readings, repository
from service.reports.definitions import DEFINITIONS
from service.reports.figures import misplaced
from service.reports.frame import TARGETS, Mask, Stories, name_of, start_of
from service.reports.schemas import Filters, Period, Selection, TicketBehind, TicketsBehind, Word

_MOST_WORDS = 12
_TOLD = ("judged", "misrouted", "tickets", "moves", "hours_misplaced", "courses", "causes", "words")


def tickets_behind(connection: Connection, period: Period, filters: Filters, selection: Selection) -> TicketsBehind:
    """The tickets of a report's number, in the order that is asked for, and how many there are."""
    stories = repository.Reader(connection).read(start_of(period.since), start_of(period.until), ids=True)
    found = causes.find(stories)
    places = np.flatnonzero(stories.matching(filters) & _selected(stories, found.cause, selection))
    shown = places[_order(stories.where(places), selection)[: selection.limit]]
    assert stories.ids is not None  # noqa: S101  # for the type checker: they were asked for
    ids = [name.decode() for name in stories.ids[shown].tolist()]
    rows = repository.find(connection, ids)
    told = [_ticket(rows[name], _evidence(stories, found, place)) for name, place in zip(ids, shown.tolist(), strict=True) if name in rows]
    return TicketsBehind(matching=len(places), shown=told, definitions={name: DEFINITIONS[name] for name in _TOLD})


def _selected(stories: Stories, cause: NDArray[np.int8], asked: Selection) -> Mask:
    """Which of them the selection means."""
    target = asked.target
    mask = np.ones(len(stories), np.bool_)
    if asked.decided is not None:
        mask &= stories.codes[target] == stories.code(target, asked.decided)
    if asked.final is not None:
        mask &= stories.codes[f"final_{target}"] == stories.code(target, asked.final)
    if asked.judged is not None:
        mask &= stories.judged == asked.judged
    if asked.misrouted is not None:
        mask &= stories.wrong["department"] | stories.wrong["kind"] if asked.misrouted == "any" else stories.wrong[asked.misrouted]
    if asked.cause is not None:
        mask &= cause == causes.CAUSES.index(asked.cause)
    if asked.course is not None:
        mask &= stories.judged & stories.has("course", asked.course)
    if asked.week is not None:
        mask &= np.isin(stories.week, [week for week in np.unique(stories.week).tolist() if name_of(week) == asked.week])
    sure = stories.numbers[f"{target}_confidence"]
    if asked.least_confidence is not None:
        mask &= sure >= asked.least_confidence
    if asked.below_confidence is not None and asked.below_confidence < 1:  # the last band of a report includes what is wholly sure
        mask &= sure < asked.below_confidence
    return mask


def _order(stories: Stories, asked: Selection) -> NDArray[np.intp]:
    """The places of the stories in the order that is asked for, the same each time."""
    assert stories.ids is not None  # noqa: S101  # for the type checker
    newest = -stories.numbers["created_at"]
    if asked.order == "recent":
        return np.lexsort((stories.ids, newest))
    if asked.order == "random":
        return np.argsort(stories.ids)[np.random.default_rng(asked.seed).permutation(len(stories))]
    lay = np.nan_to_num(misplaced(stories), nan=-1)
    return np.lexsort((stories.ids, newest, -stories.numbers["moves"], -lay))


def _evidence(stories: Stories, found: causes.Causes, place: int) -> readings.Evidence | None:
    """What is known of the cause of the ticket at `place`; None where it is not misrouted."""
    if found.cause[place] < 0:
        return None
    taken = int(stories.codes["overruled_to"][place])
    to = stories.words["department"].known[taken] if taken >= 0 else None
    return readings.Evidence(causes.CAUSES[found.cause[place]], int(found.agreeing[place]), int(found.differing[place]), to)


def _ticket(row: Any, evidence: readings.Evidence | None) -> TicketBehind:
    lay = None if row.wrong_at is None or row.right_at is None else max(0.0, round((row.right_at - row.wrong_at) / timedelta(hours=1), 4))
    return TicketBehind(
        ticket_id=row.ticket_id, decision_id=row.decision_id, created_at=row.created_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        language=row.language, customer_tier=row.customer_tier, model_version=row.model_version, action=row.action, reasons=row.reasons.split(),
        decided={target: getattr(row, target) for target in TARGETS},
        confidence={target: getattr(row, f"{target}_confidence") for target in TARGETS},
        final={target: getattr(row, f"final_{target}") for target in TARGETS},
        judged=row.closed_at is not None, course=row.course if row.closed_at is not None else None, moves=row.moves, hours_misplaced=lay,
        cause=evidence.cause if evidence else None, reading=readings.read(row, evidence) if evidence else None,
        subject=row.subject, words=_words(row.explanation),
    )  # fmt: skip


def _words(explanation: bytes | None) -> dict[str, list[Word]] | None:
    if explanation is None:
        return None
    return {
        target: [Word(text=phrase["text"], weight=phrase["weight"]) for phrase in phrases[:_MOST_WORDS]]
        for target, phrases in json.loads(explanation).items()
    }
