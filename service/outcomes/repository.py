"""All SQL about outcomes: the events, and the stories that are told of them.

Whoever stores a decision or an event of a ticket holds the ticket's lock while doing so (`lock`): of a decision and an event that arrive at
the same time, the second sees the first, in whichever process they are stored.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, NamedTuple, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.database import EPOCH, decisions, microseconds, outcomes, stories
from service.outcomes.story import UNDECIDED, Event, Story, Verdict, tell

_TOGETHER = 500  # rows of a statement
_FORGOTTEN_TOGETHER = 5_000
_COPIED = [column.name for column in stories.columns if column.name in decisions.columns]
_TOLD: dict[str, Any] = {name: sa.bindparam(name, type_=sa.BigInteger if name.endswith("_at") else None) for name in Story._fields}

Added = Literal["new", "repeat", "conflict"]
_T = TypeVar("_T")


class Told(NamedTuple):
    """An event that was told of a ticket; `digest`: of what was sent."""

    ticket_id: str
    event: Event
    digest: str


class Known(NamedTuple):
    """What was decided of a ticket, None where that is yet to come, and the story that its events tell."""

    decided: Verdict | None
    story: Story


def lock(connection: Connection, tickets: Collection[str]) -> None:
    """Hold the tickets until the transaction ends; call it before anything of them is read in it."""
    if not tickets:
        return
    if connection.dialect.name == "sqlite":
        if not connection.connection.dbapi_connection.in_transaction:  # type: ignore[union-attr]
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # the one writer: Python's driver would begin with the first INSERT, after what was read
        return
    # In one order, so that no two wait for each other.
    numbers = sorted({int.from_bytes(hashlib.blake2b(ticket.encode(), digest_size=8).digest(), "big", signed=True) for ticket in tickets})
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(number) FROM unnest(%s::bigint[]) AS number", (numbers,))


def open_stories(connection: Connection, decided: Sequence[str], tickets: Collection[str]) -> None:
    """Begin the stories of new decisions, by their ids; those of their `tickets` that events were told of before are told at once."""
    for some in _together(decided):
        connection.exec_driver_sql(_open(len(some), connection.dialect.paramstyle), tuple(some))
    if tickets:
        early = {ticket for some in _together(sorted(tickets)) for ticket in connection.execute(_WITH_EVENTS, {"tickets": some}).scalars()}
        retell(connection, early)


def _open(decided: int, paramstyle: str) -> str:
    places = ", ".join(["?" if paramstyle == "qmark" else "%s"] * decided)
    return f"{_BEGIN} WHERE decision_id IN ({places})"


_BEGIN = (
    f"INSERT INTO stories ({', '.join(_COPIED)}, text_key, events, final_kind, final_department, moves, wrong_stays) "  # noqa: S608  # names of our own
    f"SELECT {', '.join(_COPIED)}, substr(text_digest, 1, 16), 0, kind, department, 0, 0 FROM decisions"
)
_WITH_EVENTS = sa.select(outcomes.c.ticket_id).distinct().where(outcomes.c.ticket_id.in_(sa.bindparam("tickets", expanding=True)))


def add(connection: Connection, told: Sequence[Told], received_at: datetime) -> list[Added]:
    """Keep the events that are new; for each whether it was, or came before, with the same content or another. The stories are not
    told anew by this: see `retell`."""
    tickets = sorted({each.ticket_id for each in told})
    known = {(row.ticket_id, row.event_id): row.digest for some in _together(tickets) for row in connection.execute(_DIGESTS, {"tickets": some})}
    found: list[Added] = []
    new: list[dict[str, Any]] = []
    for each in told:
        key = each.ticket_id, each.event.event_id
        if key not in known:
            known[key] = each.digest  # the same event twice among those told: the first counts
            found.append("new")
            new.append(_row(each, received_at))
        else:
            found.append("repeat" if known[key] == each.digest else "conflict")
    if new:
        connection.execute(sa.insert(outcomes), new)
    return found


_DIGESTS = sa.select(outcomes.c.ticket_id, outcomes.c.event_id, outcomes.c.digest).where(
    outcomes.c.ticket_id.in_(sa.bindparam("tickets", expanding=True))
)


def _row(told: Told, received_at: datetime) -> dict[str, Any]:
    event = told.event
    return {
        "ticket_id": told.ticket_id, "event_id": event.event_id, "happened_at": EPOCH + timedelta(microseconds=event.at), "event": event.event,
        "to_label": event.to, "from_label": event.origin, "by_whom": event.by, "reason": event.reason, "digest": told.digest,
        "received_at": received_at,
    }  # fmt: skip


def retell(connection: Connection, tickets: Collection[str]) -> dict[str, Known]:
    """Tell the stories of `tickets` anew, and keep those of the decided ones; all of them, of those that anything is known of."""
    found: dict[str, Known] = {}
    for some in _together(sorted(tickets)):
        known = find_known(connection, some)
        kept = [{"ticket": ticket, **each.story._asdict()} for ticket, each in known.items() if each.decided]
        if kept:
            connection.execute(_UPDATE, kept)
        found |= known
    return found


def find_known(connection: Connection, tickets: Sequence[str]) -> dict[str, Known]:
    """What was decided of the tickets and what story their events tell; without those of which nothing is known."""
    events = find_events(connection, tickets)
    decided: dict[str, Verdict | None] = dict.fromkeys(events)
    for row in connection.execute(_DECIDED, {"tickets": list(tickets)}):
        ticket, *said = row
        decided[ticket] = Verdict(*said)
    return {ticket: Known(each, tell(each or UNDECIDED, events.get(ticket, ()))) for ticket, each in decided.items()}


_DECIDED = sa.select(
    stories.c.ticket_id, sa.type_coerce(stories.c.decided_at, sa.BigInteger).label("decided_at"),
    sa.type_coerce(stories.c.created_at, sa.BigInteger).label("created_at"), stories.c.kind, stories.c.department, stories.c.action,
).where(stories.c.ticket_id.in_(sa.bindparam("tickets", expanding=True)))  # fmt: skip
_UPDATE = sa.update(stories).where(stories.c.ticket_id == sa.bindparam("ticket")).values(_TOLD)


def find_events(connection: Connection, tickets: Collection[str]) -> dict[str, list[Event]]:
    """The events of each of the tickets that has any, in no order."""
    found: dict[str, list[Event]] = defaultdict(list)
    for row in connection.execute(_EVENTS, {"tickets": list(tickets)}):
        ticket, *event = row
        found[ticket].append(Event(*event))
    return found


_EVENTS = sa.select(
    outcomes.c.ticket_id, sa.type_coerce(outcomes.c.happened_at, sa.BigInteger), outcomes.c.event_id, outcomes.c.event, outcomes.c.to_label,
    outcomes.c.from_label, outcomes.c.by_whom, outcomes.c.reason,
).where(outcomes.c.ticket_id.in_(sa.bindparam("tickets", expanding=True)))  # fmt: skip


def find_ticket(connection: Connection, ticket_id: str) -> sa.Row[Any] | None:
    """The ticket's decision, as `service.database.decisions` has it."""
    return connection.execute(sa.select(decisions).where(decisions.c.ticket_id == ticket_id)).one_or_none()


def as_decided(row: sa.Row[Any]) -> Verdict:
    """What a row of decisions says that its story begins with."""
    return Verdict(microseconds(row.decided_at), microseconds(row.created_at), row.kind, row.department, row.action)


def forget_reasons(connection: Connection, before: datetime) -> int:
    """Take the reasons from events that happened before that moment, some thousands at a time; how many."""
    key = sa.tuple_(outcomes.c.ticket_id, outcomes.c.event_id)
    old = sa.select(outcomes.c.ticket_id, outcomes.c.event_id).where(outcomes.c.happened_at < before, outcomes.c.reason.is_not(None))
    return connection.execute(sa.update(outcomes).where(key.in_(old.limit(_FORGOTTEN_TOGETHER))).values(reason=None)).rowcount


def rebuild(connection: Connection) -> int:
    """Make all stories anew from the decisions and the events, in one transaction; how many. What is kept in step must come to the same."""
    connection.execute(sa.delete(stories))
    connection.exec_driver_sql(_BEGIN)
    tickets = connection.execute(sa.select(outcomes.c.ticket_id).distinct()).scalars().all()
    retell(connection, tickets)
    return connection.execute(sa.select(sa.func.count()).select_from(stories)).scalar_one()


def _together(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    return (items[start : start + _TOGETHER] for start in range(0, len(items), _TOGETHER))
