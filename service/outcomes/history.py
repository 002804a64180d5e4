"""Outcomes from before the service, out of tables: `pointsman outcomes import`.

Small transactions, each of which is as if it had come by HTTP: whenever the import ends, what is stored is whole, and the same
import again stores the rest and doubles nothing.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from service.errors import ServiceError
from service.outcomes import service
from service.outcomes.repository import Told
from service.outcomes.schemas import LONGEST_REASON

TOGETHER = 100  # events of a transaction: a tenth of a second at most, of the half that a decision waits for the database
PATIENCE = 60.0  # seconds that a database is tried again which is locked, or away
_PAUSE = 0.05
_COLUMNS = ("ticket_id", "event_id", "at", "event", "to", "from", "by", "reason")


class Line(NamedTuple):
    """A row of a table: where it stands, for people, and the row itself, or why it cannot be read."""

    place: str
    row: Mapping[str, Any] | str


@dataclass
class Tally:
    """What became of the rows."""

    new: int = 0
    repeated: int = 0
    conflicting: int = 0
    failed: int = 0


def bring_in(
    engine: Engine, lines: Iterable[Line], keep_text_days: int, refused: Callable[[str, str], None], stored: Callable[[Tally], None]
) -> Tally:
    """Keep the events of `lines` that are new. `refused` is told the place and the fault of those that are no events, or contradict
    what is kept; `stored` how far it came, after each transaction. Raises OperationalError where the database is away for long."""
    tally = Tally()
    oldest = datetime.now(UTC) - timedelta(days=keep_text_days)

    def read() -> Iterator[tuple[str, Told]]:
        for place, row in lines:
            try:
                if isinstance(row, str):
                    raise ValueError(row)
                yield place, as_told(row, oldest)
            except (ServiceError, ValueError) as error:
                tally.failed += 1
                field = f"{error.field}: " if isinstance(error, ServiceError) and error.field else ""
                refused(place, f"{field}{error}")

    good = read()
    while some := list(islice(good, TOGETHER)):
        for (place, _), what in zip(some, _keep(engine, [told for _, told in some]), strict=True):
            if what == "new":
                tally.new += 1
            elif what == "repeat":
                tally.repeated += 1
            else:
                tally.conflicting += 1
                refused(place, "this event_id of the ticket is known with other content")
        stored(tally)
    return tally


def as_told(row: Mapping[str, Any], oldest_reason: datetime) -> Told:
    """The event that a row tells of. Without an `event_id` it gets one made of its content. Raises InvalidField."""
    told = {name: value for name in _COLUMNS if (value := _value(row.get(name))) is not None}
    unnamed = "event_id" not in told
    if unnamed:
        told["event_id"] = "import"
    if len(told.get("reason", "")) > LONGEST_REASON:
        told["reason"] = told["reason"][:LONGEST_REASON]
    sent = service.parse_item(told)
    found = service.as_told(sent.ticket_id, sent, keep_reason=sent.at > oldest_reason)
    return found._replace(event=found.event._replace(event_id=f"import-{found.digest[:32]}")) if unnamed else found


def _value(value: Any) -> str | None:
    """A cell as text, None where it is empty; databases and Parquet have numbers as ids, and moments as moments."""
    if value is None or value != value:  # NaN: how a column of numbers says that it has none
        return None
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value).strip() or None


def _keep(engine: Engine, told: list[Told]) -> list[str]:
    """Keep the events in one transaction, as soon as the database can be had; for each what it was."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            since = time.monotonic()
            with engine.begin() as connection:
                added, _ = service.keep(connection, told)
        except sa.exc.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(_PAUSE)
            continue
        if engine.dialect.name == "sqlite":
            # It has one writer at a time, and who waits is not served in turn, but tries now and then: a running service needs gaps to
            # find. PostgreSQL has only the tickets' locks.
            time.sleep(time.monotonic() - since)
        return list(added)
