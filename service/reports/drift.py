"""What comes in, week by week, and which weeks differ from the four before them beyond chance and by enough to matter."""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import NamedTuple

import numpy as np
from sqlalchemy.engine import Connection

from service.reports.figures import misrouted
from service.reports.frame import Mask, Stories, name_of, start_of, week_of
from service.reports.repository import Reader
from service.reports.schemas import NOT_GIVEN, OTHERS, Change, Drift, LastWeek, WeekMix
from service.reports.statistics import CHANCE, differs, holm, means_differ

BEFORE = 4  # weeks that a week is compared with
_LEAST = 30  # tickets on either side
_LEAST_CHANGE = 0.01  # of a share: with many tickets everything changes beyond chance
_LEAST_RATIO = 1.25  # of the odds
_MOST_VALUES = 40
_MIXES = {"language": "language", "kind": "kind", "department": "department"}


def drift(stories: Stories, first: int) -> Drift:
    """`stories` from `BEFORE` weeks before the week `first` on; what is told begins with `first`."""
    weekly = _Weekly(stories)
    told = [week for week in weekly.weeks.tolist() if week >= first]
    return Drift(weeks=[weekly.mix(week) for week in told], changes=weekly.changes(told))


def last_week(connection: Connection, today: date) -> LastWeek:
    """How the last complete week before `today` differs from the four before it, and what was misrouted in it. Reads five weeks of stories."""
    monday = today - timedelta(days=today.weekday())
    since, until = start_of(monday - timedelta(weeks=BEFORE + 1)), start_of(monday)
    last = int(week_of(np.array([until - 1.0]))[0])
    stories = Reader(connection).read(since, until, whole=False)
    in_it = stories.where(stories.week == last)
    return LastWeek(
        week=name_of(last),
        changes=drift(stories, last).changes,
        misrouted={target: found.share for target, found in misrouted(in_it).items()},
    )


def changes_of_last_week(connection: Connection, today: date) -> list[Change]:
    """The changes alone."""
    return last_week(connection, today).changes


class _Cell(NamedTuple):
    """One thing that is looked at in one week; `matters`: whether it changed by enough."""

    week: int
    what: str
    value: str
    was: float
    is_now: float
    p: float
    matters: bool


class _Weekly:
    """Counts by week."""

    def __init__(self, stories: Stories) -> None:
        self.stories = stories
        self.weeks, self.places = np.unique(stories.week, return_inverse=True)
        self.tickets = self._count(np.ones(len(stories), np.bool_))
        self.mixes = {name: self._mix(column) for name, column in _MIXES.items()}
        overridden = np.zeros(len(stories), np.bool_)
        for target, wrong in stories.wrong.items():
            overridden |= wrong & stories.has(f"{target}_by", "person")
        self.judged = self._count(stories.judged)
        self.flags = {
            "unfamiliar": (self._count(stories.reasoned("unfamiliar", "unknown_language")), self.tickets),
            "review": (self._count(stories.has("action", "review")), self.tickets),
            "overridden": (self._count(overridden), self.judged),
        }
        # In ten-thousandths, as decisions have them: whole numbers add up to the same in whatever order the database gives the rows.
        sure = np.rint(np.nan_to_num(stories.numbers["department_confidence"]) * 10_000)
        self.confidence = np.bincount(self.places, sure, minlength=len(self.weeks)) / 1e4
        self.confidence_squared = np.bincount(self.places, sure**2, minlength=len(self.weeks)) / 1e8
        self.confident = self._count(~np.isnan(stories.numbers["department_confidence"]))

    def _count(self, mask: Mask) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
        return np.bincount(self.places[mask], minlength=len(self.weeks))

    def _mix(self, column: str) -> tuple[list[str], np.ndarray[tuple[int, int], np.dtype[np.intp]]]:
        places, names = self.stories.facet(column, _MOST_VALUES)
        size = max(len(names), 1)
        counts = np.bincount(self.places * size + places, minlength=len(self.weeks) * size)
        return names, counts.reshape(len(self.weeks), size)

    def mix(self, week: int) -> WeekMix:
        place = int(np.searchsorted(self.weeks, week))
        tickets = int(self.tickets[place])
        shares = {
            f"{name}s": {value: round(count / tickets, 6) for value, count in zip(names, counts[place].tolist(), strict=False) if count}
            for name, (names, counts) in self.mixes.items()
        }
        flags = {name: round(int(count[place]) / int(of[place]), 6) if of[place] else None for name, (count, of) in self.flags.items()}
        confident = int(self.confident[place])
        return WeekMix(
            week=name_of(week), tickets=tickets, confidence=round(float(self.confidence[place]) / confident, 6) if confident else None,
            languages=shares["languages"], kinds=shares["kinds"], departments=shares["departments"],
            unfamiliar=flags["unfamiliar"] or 0.0, review=flags["review"] or 0.0, overridden=flags["overridden"],
        )  # fmt: skip

    def changes(self, weeks: list[int]) -> list[Change]:
        """Those of `weeks`, corrected for all that is looked at in them."""
        looked = [cell for week in weeks for cell in self._cells(week)]
        return [
            Change(
                week=name_of(cell.week), what=cell.what, value=cell.value, was=round(cell.was, 6), is_now=round(cell.is_now, 6), p=float(f"{p:.4g}")
            )
            for cell, p in zip(looked, holm([cell.p for cell in looked]).tolist(), strict=True)
            if p < CHANCE and cell.matters
        ]

    def _cells(self, week: int) -> Iterator[_Cell]:
        earlier = np.flatnonzero((self.weeks < week) & (self.weeks >= week - BEFORE))
        now = np.flatnonzero(self.weeks == week)
        found = [(name, "", count, of) for name, (count, of) in self.flags.items()]
        for name, (names, counts) in self.mixes.items():
            found += [(name, value, counts[:, i], self.tickets) for i, value in enumerate(names) if value not in (NOT_GIVEN, OTHERS)]
        for what, value, count, of in found:
            a, m, b, n = (int(column[place].sum()) for place in (earlier, now) for column in (count, of))
            if min(m, n) >= _LEAST and (a or b):
                yield _Cell(week, what, value, a / m, b / n, differs((a, m), (b, n)), _matters(a / m, b / n))
        before, after = (
            (self.confidence[place].sum(), self.confidence_squared[place].sum(), int(self.confident[place].sum())) for place in (earlier, now)
        )
        if min(before[2], after[2]) >= _LEAST:
            was, is_now = before[0] / before[2], after[0] / after[2]
            yield _Cell(week, "confidence", "", float(was), float(is_now), means_differ(before, after), abs(is_now - was) >= _LEAST_CHANGE)


def _matters(was: float, is_now: float) -> bool:
    low, high = sorted((was, is_now))
    return high - low >= _LEAST_CHANGE and high * (1 - low) >= _LEAST_RATIO * low * (1 - high)
