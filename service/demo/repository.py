"""All SQL about what is simulated, and what is not."""

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from service.database import SIMULATED, decisions, outcomes, stories

_TOGETHER = 500  # tickets taken away in one transaction

_simulated = decisions.c.model_version.startswith(SIMULATED, autoescape=True)


def holds_simulated(connection: Connection) -> bool:
    return connection.execute(sa.select(sa.exists().where(_simulated))).scalar_one()


def holds_others(connection: Connection) -> bool:
    """Whether there are decisions that nobody simulated, or events that wait for theirs."""
    decided = sa.exists().where(~_simulated)
    if connection.execute(sa.select(decided)).scalar_one():
        return True
    if not sa.inspect(connection).has_table(outcomes.name):  # it came with a later migration
        return False
    joined = outcomes.join(decisions, decisions.c.ticket_id == outcomes.c.ticket_id, isouter=True)
    waiting = sa.select(outcomes.c.ticket_id).select_from(joined).where(decisions.c.decision_id.is_(None)).limit(1)
    return connection.execute(waiting).first() is not None


def take_away(connection: Connection) -> int:
    """Delete some simulated decisions with their events and stories; how many."""
    rows = connection.execute(sa.select(decisions.c.decision_id, decisions.c.ticket_id).where(_simulated).limit(_TOGETHER)).all()
    ids, tickets = [row.decision_id for row in rows], [row.ticket_id for row in rows]
    connection.execute(sa.delete(outcomes).where(outcomes.c.ticket_id.in_(tickets)))
    connection.execute(sa.delete(stories).where(stories.c.decision_id.in_(ids)))
    connection.execute(sa.delete(decisions).where(decisions.c.decision_id.in_(ids)))
    return len(rows)
