"""The misroute report: read, counted, put together. Blocking, and it takes seconds: the service has it done in a process of its own."""

from collections.abc import Mapping
from datetime import timedelta

import numpy as np
from sqlalchemy.engine import Connection

from service.database import SIMULATED
from service.reports import causes, comparison, durations, figures
from service.reports.definitions import DEFINITIONS
from service.reports.drift import BEFORE, drift
from service.reports.frame import TARGETS, Stories, start_of, week_of
from service.reports.repository import Reader
from service.reports.schemas import Filters, MisrouteReport, Period


def misroutes(connection: Connection, period: Period, filters: Filters, promised: Mapping[str, float]) -> MisrouteReport:
    """The report. `promised`: for each target the precision that the serving model promises of what it routes without a person."""
    since, until = start_of(period.since), start_of(period.until)
    before = period.since - (period.until - period.since)
    monday = period.since - timedelta(days=period.since.weekday() + 7 * BEFORE)
    reader = Reader(connection)
    period_ = reader.read(since, until)
    earlier = reader.read(min(start_of(before), start_of(monday)), since, whole=False)
    cause = causes.find(period_).cause
    chosen = period_.matching(filters)
    now, cause = period_.where(chosen), cause[chosen]
    del period_, chosen
    earlier = earlier.where(earlier.matching(filters))
    return MisrouteReport(
        period={"from": period.since, "to": period.until},
        filters=filters.model_dump(exclude_none=True),
        simulated=any(version.version.startswith(SIMULATED) for version in figures.versions(now)),
        tickets=len(now),
        judged=int(now.judged.sum()),
        moves=int(now.numbers["moves"].sum()),
        misrouted=figures.misrouted(now),
        incidents=figures.incidents(now),
        filed_as_incident=figures.filed_as_incident(now),
        courses=figures.courses(now),
        moves_of_tickets=figures.moves_of_tickets(now),
        minutes=durations.minutes(now),
        matrix={target: figures.matrix(now, target) for target in TARGETS},
        pairs=figures.pairs(now),
        confidence={target: figures.confidence(now, target, promised.get(target)) for target in TARGETS},
        by=figures.groups(now),
        versions=figures.versions(now),
        compared=comparison.compare(earlier.where(earlier.numbers["created_at"] >= start_of(before)), now, before, period.since),
        causes=causes.shares(cause),
        drift=drift(_joined(earlier.where(earlier.numbers["created_at"] >= start_of(monday)), now), int(week_of(np.array([float(since)]))[0])),
        definitions=DEFINITIONS,
    )


def _joined(earlier: Stories, now: Stories) -> Stories:
    """Both, with the columns that both have."""
    return Stories(
        {name: np.concatenate([column, now.codes[name]]) for name, column in earlier.codes.items()},
        now.words,
        {name: np.concatenate([column, now.numbers[name]]) for name, column in earlier.numbers.items()},
    )
