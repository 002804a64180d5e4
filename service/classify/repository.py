"""All SQL about decisions."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.database import decisions


@dataclass(frozen=True, slots=True)
class Record:
    """A decision about to be stored: its columns, by name (`service.database.decisions`)."""

    values: dict[str, Any]

    @property
    def ticket_id(self) -> str | None:
        return self.values["ticket_id"]  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Stored:
    """What stands in the database for a ticket: the answer and its explanation as JSON, and whether it is of this text."""

    decision: bytes
    explanation: bytes | None
    same_text: bool


def store(connection: Connection, records: Sequence[Record]) -> list[Stored]:
    """Store the records whose ticket was not decided yet; for each, what stands in the database afterwards."""
    named = {record.ticket_id for record in records if record.ticket_id is not None}
    known = _find(connection, named) if named else {}
    new, result = [], []
    for record in records:
        values = record.values
        ticket = record.ticket_id
        earlier = known.get(ticket) if ticket is not None else None
        if earlier is None:
            new.append(values)
            earlier = (values["text_digest"], values["decision"], values["explanation"])
            if ticket is not None:
                known[ticket] = earlier  # the same ticket twice among the records: the first counts
        digest, decision, explanation = earlier
        result.append(Stored(decision, explanation, digest == values["text_digest"]))
    if new:
        connection.execute(sa.insert(decisions), new)
    return result


def forget_text(connection: Connection, before: datetime) -> int:
    """Take the text and the explanations' words from decisions made before that moment; how many."""
    private = sa.or_(decisions.c.body.is_not(None), decisions.c.subject.is_not(None), decisions.c.explanation.is_not(None))
    found = connection.execute(sa.update(decisions).where(decisions.c.decided_at < before, private).values(subject=None, body=None, explanation=None))
    return found.rowcount


def _find(connection: Connection, tickets: set[str]) -> dict[str, tuple[str, bytes, bytes | None]]:
    columns = decisions.c.ticket_id, decisions.c.text_digest, decisions.c.decision, decisions.c.explanation
    found = connection.execute(sa.select(*columns).where(decisions.c.ticket_id.in_(tickets)))
    return {row.ticket_id: (row.text_digest, row.decision, row.explanation) for row in found}
