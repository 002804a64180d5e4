"""What a router is worth: the same tickets go through the same teams twice, without it and with it, and what differs is its work.

Without it, a first line reads every ticket, those first that the customer calls an incident, and sends it to a team. With it, what it is sure
of goes to the team at once, what it proposes is confirmed by the first line, and the rest is read as before. A team takes incidents first;
one that has a ticket of another team reads it, and passes it on. All that is assumed stands in `Office`; nobody rests and nobody sleeps.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import simpy

INCIDENT = "incident"
Steps = Generator[simpy.Event, Any, None]
COLUMNS = ("minute", "kind", "department", "declared_kind", "decided_kind", "decided_department", "action", "held")


@dataclass(frozen=True)
class Office:
    """What is assumed of a month: `teams`: how many people of each are at work at any time, `first_line` likewise; the rest is in minutes of
    one person. `incident` and `advice`: the work itself, on average; `sorting`, `confirming`, `passing_on` as in `training.risk.Minutes`;
    `mistaken`: the share of tickets that the first line sends to a wrong team; `spread`: of the work, as the sigma of a lognormal."""

    teams: Mapping[str, int]
    first_line: int
    incident: float = 25.0
    advice: float = 15.0
    sorting: float = 5.0
    confirming: float = 1.5
    passing_on: float = 12.0
    mistaken: float = 0.10
    spread: float = 0.8


def replay(stories: pd.DataFrame, times: int = 1, seed: int = 0) -> pd.DataFrame:
    """Arrivals from the `stories` of a period: `created_at` and `COLUMNS` but the minute, one row a ticket. Each is met `times` times within its hour,
    so that a sample stands for all: an outage stays a burst, a quiet night stays quiet."""
    found = stories.loc[stories.index.repeat(times)].reset_index(drop=True)
    moments = pd.to_datetime(found["created_at"], utc=True)
    minute = (moments - moments.min()) / pd.Timedelta(minutes=1)
    again = np.arange(len(found)) % times > 0
    jitter = np.random.default_rng(seed).uniform(-30, 30, len(found)) * again
    return found.assign(minute=np.maximum(minute + jitter, 0)).sort_values("minute", kind="stable", ignore_index=True)[list(COLUMNS)]


def more_wrong(arrivals: pd.DataFrame, share: float, seed: int = 0) -> pd.DataFrame:
    """The arrivals with a further `share` of the decided departments wrong, and of the kinds: what if the router is worse than it was here?"""
    chance = np.random.default_rng(seed)
    found = arrivals.copy()
    for decided, truth in (("decided_department", "department"), ("decided_kind", "kind")):
        labels = sorted(set(arrivals[truth]))
        struck = np.flatnonzero((chance.random(len(found)) < share) & (found[decided] == found[truth]))
        others = [[label for label in labels if label != true] for true in found[truth].iloc[struck]]
        found.loc[struck, decided] = [other[int(draw * len(other))] for other, draw in zip(others, chance.random(len(struck)), strict=True)]
    return found


def work_through(arrivals: pd.DataFrame, office: Office, *, router: bool, seed: int = 0) -> pd.DataFrame:
    """What becomes of each arrival, in their order: `kind`, `waited` (minutes until the right team begins), `moves` between teams, `handled`
    (minutes of people beside the work itself) and `worked` (the work itself).

    With the same seed a ticket takes the same work with the router and without it, and the first line has the same slips.
    """
    missing = sorted(set(arrivals["department"]) - set(office.teams))
    if missing:
        raise ValueError(f"nobody works in {missing[0]}; the teams are {', '.join(office.teams)}")
    chance = np.random.default_rng(seed)
    n = len(arrivals)
    # A lognormal's mean is exp(sigma^2 / 2) times its median.
    size = chance.lognormal(-(office.spread**2) / 2, office.spread, n)
    work = size * np.where(arrivals["kind"] == INCIDENT, office.incident, office.advice)
    slips = chance.random(n) < office.mistaken
    elsewhere = chance.random(n)
    world = _World(office)
    for i, (row, slip, draw, minutes) in enumerate(zip(arrivals.itertuples(index=False), slips, elsewhere, work, strict=True)):
        astray = [team for team in office.teams if team != row.department]
        sent = astray[int(draw * len(astray))] if slip and astray else str(row.department)
        world.clock.process(world.with_router(i, row, sent, float(minutes)) if router else world.without(i, row, sent, float(minutes)))
    world.clock.run()
    told = pd.DataFrame([world.told[i] for i in range(n)], columns=["waited", "moves", "handled", "worked"])
    return told.assign(kind=arrivals["kind"].to_numpy())


def summary(handled: pd.DataFrame) -> dict[str, float]:
    """The figures that matter: minutes until the right team begins, of real incidents and of advice; moves; hours of people beside the work."""
    incidents, advice = (handled.loc[(handled["kind"] == INCIDENT) == real, "waited"] for real in (True, False))
    return {
        "incident waits, median": round(float(incidents.median()), 2),
        "incident waits, 90%": round(float(incidents.quantile(0.9)), 2),
        "incidents that wait over an hour": int((incidents > 60).sum()),
        "advice waits, median": round(float(advice.median()), 2),
        "moves": int(handled["moves"].sum()),
        "hours of sorting and passing on": round(float(handled["handled"].sum()) / 60, 1),
    }


class _World:
    """A clock, the first line and the teams. A ticket's way through them is a process."""

    def __init__(self, office: Office) -> None:
        self.office = office
        self.clock = simpy.Environment()
        self.told: dict[int, tuple[float, int, float, float]] = {}
        self._first_line = simpy.PriorityResource(self.clock, max(1, office.first_line))
        self._teams = {name: simpy.PriorityResource(self.clock, max(1, people)) for name, people in office.teams.items()}

    def without(self, i: int, row: Any, sent: str, work: float) -> Steps:
        yield self.clock.timeout(row.minute)
        yield from self._busy(self._first_line, row.declared_kind == INCIDENT, self.office.sorting)
        yield from self._team(i, row, sent, row.kind == INCIDENT, self.office.sorting, work)

    def with_router(self, i: int, row: Any, sent: str, work: float) -> Steps:
        yield self.clock.timeout(row.minute)
        urgent = row.decided_kind == INCIDENT
        if row.action == "auto":
            yield from self._team(i, row, str(row.decided_department), urgent, 0.0, work)
            return
        right = (row.decided_kind, row.decided_department) == (row.kind, row.department)
        confirmed = row.action == "suggest" and right
        spent = self.office.confirming if confirmed else self.office.sorting
        yield from self._busy(self._first_line, urgent or bool(row.held), spent)
        yield from self._team(i, row, str(row.department) if confirmed else sent, row.kind == INCIDENT, spent, work)

    def _team(self, i: int, row: Any, sent: str, urgent: bool, handled: float, work: float) -> Steps:
        """To the team that it is sent to, and from there to its own; who reads it sees how urgent it is."""
        moves = 0
        if sent != row.department:
            yield from self._busy(self._teams[sent], urgent, self.office.passing_on)
            moves, handled, urgent = 1, handled + self.office.passing_on, row.kind == INCIDENT
        with self._teams[row.department].request(priority=0 if urgent else 1) as turn:
            yield turn
            self.told[i] = (self.clock.now - row.minute, moves, handled, work)
            yield self.clock.timeout(work)

    def _busy(self, who: simpy.PriorityResource, urgent: bool, minutes: float) -> Steps:
        with who.request(priority=0 if urgent else 1) as turn:
            yield turn
            yield self.clock.timeout(minutes)
