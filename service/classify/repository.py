"""All SQL about decisions."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from itertools import chain
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.database import decisions, trials
from service.outcomes.repository import lock, open_stories

_ROWS = 64  # of one INSERT
_FORGOTTEN_TOGETHER = 5_000
_FILLER = 32_768  # bytes


class Record(NamedTuple):
    """A decision about to be stored: the columns of `service.database.decisions`, in their order; moments in microseconds."""

    decision_id: str
    ticket_id: str | None
    text_digest: str
    decided_at: int
    created_at: int
    model_version: str
    path: str
    language: str
    kind: str | None
    department: str | None
    kind_confidence: float | None
    department_confidence: float | None
    action: str
    reasons: str
    declared_kind: str | None
    channel: str | None
    customer_tier: str | None
    customer_ref: str | None
    country: str | None
    decision: bytes
    explanation: bytes | None
    subject: str | None
    body: str | None


@dataclass(frozen=True, slots=True)
class Stored:
    """What stands in the database for a ticket: the answer and its explanation as JSON, and whether it is of this text."""

    decision: bytes
    explanation: bytes | None
    same_text: bool


def store(connection: Connection, records: Sequence[Record]) -> list[Stored]:
    """Store the records whose ticket was not decided yet; for each, what stands in the database afterwards."""
    named = {record.ticket_id for record in records if record.ticket_id is not None}
    lock(connection, named)
    known = _find(connection, named) if named else {}
    new, result = [], []
    for record in records:
        ticket = record.ticket_id
        earlier = known.get(ticket) if ticket is not None else None
        if earlier is None:
            new.append(record)
            earlier = (record.text_digest, record.decision, record.explanation)
            if ticket is not None:
                known[ticket] = earlier  # the same ticket twice among the records: the first counts
        digest, decision, explanation = earlier
        result.append(Stored(decision, explanation, digest == record.text_digest))
    # One statement for many rows, by hand: each trip into the driver gives the interpreter away and has to win it back, and under
    # load that took longer than the database did.
    for start in range(0, len(new), _ROWS):
        rows = new[start : start + _ROWS]
        connection.exec_driver_sql(_insert(len(rows), connection.dialect.paramstyle), tuple(chain.from_iterable(rows)))
    open_stories(connection, [record.decision_id for record in new], {record.ticket_id for record in new if record.ticket_id is not None})
    return result


@cache  # at most `_ROWS` statements for each database
def _insert(rows: int, paramstyle: str) -> str:
    place = "?" if paramstyle == "qmark" else "%s"
    row = f"({', '.join([place] * len(Record._fields))})"
    return f"INSERT INTO decisions ({', '.join(Record._fields)}) VALUES {', '.join([row] * rows)}"  # noqa: S608  # names of our own


def forget_text(connection: Connection, before: datetime) -> int:
    """Take the text and the explanations' words from decisions made before that moment, some thousands at a time so that nobody
    waits long for the database; how many."""
    has_text = decisions.c.body.is_not(None)  # and then a subject and an explanation, be they empty
    old = sa.select(decisions.c.decision_id).where(decisions.c.decided_at < before, has_text).limit(_FORGOTTEN_TOGETHER)
    gone = {"subject": None, "body": None, "explanation": None}
    return connection.execute(sa.update(decisions).where(decisions.c.decision_id.in_(old)).values(gone)).rowcount


def try_storing(connection: Connection) -> None:
    """Store something and take it away again, in two transactions. It is more than a page and cannot be packed, so that a full disk
    shows; changing no row would not."""
    with connection.begin():
        connection.execute(sa.insert(trials).values(filler=os.urandom(_FILLER)))
    with connection.begin():
        connection.execute(sa.delete(trials))


def _find(connection: Connection, tickets: set[str]) -> dict[str, tuple[str, bytes, bytes | None]]:
    columns = decisions.c.ticket_id, decisions.c.text_digest, decisions.c.decision, decisions.c.explanation
    found = connection.execute(sa.select(*columns).where(decisions.c.ticket_id.in_(tickets)))
    return {row.ticket_id: (row.text_digest, row.decision, row.explanation) for row in found}
