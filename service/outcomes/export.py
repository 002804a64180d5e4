"""Back to training: the tickets with their final labels, who gave them, and whether the router's answer was shown to them first."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from model.language import UNKNOWN
from service.database import SIMULATED, decisions, microseconds, stories
from service.outcomes.repository import find_events
from service.outcomes.story import Event, in_order

_PAGE = 200  # tickets at a time: of the longest texts that is some tens of megabytes
_PATIENCE = "60s"  # for one page of a cold database: nobody waits for an answer here

NEVER_TOLD = "of which nothing was told"
OPEN = "still open"
FORGOTTEN = "whose text is no longer kept"
ECHO = "with no label but the router's own"


class Labelled(NamedTuple):
    """A row of the ticket table. `kind_by`, `department_by`: person, rule or router; None where nobody said so, and the label is the
    router's own. `answer_shown`: the router had decided, and its answer was not held back for review, before the labels were given."""

    id: str
    subject: str
    body: str
    kind: str | None
    department: str | None
    language: str | None
    created_at: str
    channel: str | None
    customer_tier: str | None
    customer_ref: str | None
    country: str | None
    declared_kind: str | None
    kind_by: str | None
    department_by: str | None
    answer_shown: bool
    decided_kind: str | None
    decided_department: str | None
    model_version: str


class Export:
    """Tickets created from `since` until before `until`, oldest first, page by page; iterate it once.

    `judged`: only tickets that are closed. `independent`: without the labels that nobody but the router gave, and without the tickets
    that have no other. Tickets without their text are never there. Afterwards `summary` says how many were left out, and why.
    """

    def __init__(
        self, engine: Engine, since: datetime | None = None, until: datetime | None = None, *, judged: bool = True, independent: bool = False,
        progress: Callable[[str, int, int], None] = lambda stage, done, of: None,
    ) -> None:  # fmt: skip
        self._engine = engine
        self._since = since
        self._until = until
        self._judged = judged
        self._independent = independent
        self._progress = progress
        self.written = 0
        self.simulated = 0
        self.left_out: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Labelled]:
        after: tuple[int, str] | None = None
        with self._engine.connect() as connection:
            connection.detach()  # what is set here is for no other
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql(f"SET statement_timeout = '{_PATIENCE}'")
                connection.commit()
            while True:
                found = connection.execute(self._query(after)).all()
                rows = [row for row in found if self._wanted(row)]
                events = find_events(connection, [row.ticket_id for row in rows if row.ticket_id is not None])
                connection.rollback()  # no transaction stays open while the page is written, which may take as long as its reader
                for row in rows:
                    self.written += 1
                    self.simulated += row.model_version.startswith(SIMULATED)
                    yield self._labelled(row, events.get(row.ticket_id, []))
                self._progress("exporting", self.written, 0)
                if len(found) < _PAGE:
                    return
                after = found[-1].created, found[-1].decision_id

    def summary(self) -> str:
        """What was written and what was not, in one line."""
        left_out = ", ".join(f"{count} {why}" for why, count in self.left_out.most_common())
        made_up = "all" if self.simulated == self.written else self.simulated
        simulated = f", {made_up} of them made up by `pointsman demo`: nothing to learn from" if self.simulated else ""
        return f"{self.written} tickets written{simulated}" + (f"; left out: {left_out}" if left_out else "")

    def _query(self, after: tuple[int, str] | None) -> sa.Select[Any]:
        """The next page: every ticket of the period, so that those left out can be counted. It begins where the last one ended, not at the
        beginning again, and each page takes the same time."""
        created = sa.type_coerce(stories.c.created_at, sa.BigInteger)
        query = (
            sa.select(
                *(column for column in stories.c if column.name not in ("created_at", "closed_at", "decided_at")),
                created.label("created"),
                stories.c.created_at,
                sa.type_coerce(stories.c.decided_at, sa.BigInteger).label("decided_at"),
                sa.type_coerce(stories.c.closed_at, sa.BigInteger).label("closed_at"),
                decisions.c.customer_ref,
                decisions.c.subject,
                decisions.c.body,
            )
            .join(decisions, decisions.c.decision_id == stories.c.decision_id)
            .order_by(stories.c.created_at, stories.c.decision_id)
            .limit(_PAGE)
        )
        if self._until is not None:
            query = query.where(created < microseconds(self._until))
        if after is not None:
            return query.where(created >= after[0], sa.or_(created > after[0], stories.c.decision_id > after[1]))
        return query if self._since is None else query.where(created >= microseconds(self._since))

    def _wanted(self, row: sa.Row[Any]) -> bool:
        why = None
        if self._judged and not row.events:
            why = NEVER_TOLD
        elif self._judged and row.closed_at is None:
            why = OPEN
        elif row.body is None:
            why = FORGOTTEN
        elif self._independent and not _given(row.kind_by) and not _given(row.department_by):
            why = ECHO
        if why:
            self.left_out[why] += 1
        return why is None

    def _labelled(self, row: sa.Row[Any], events: list[Event]) -> Labelled:
        return Labelled(
            id=row.ticket_id or row.decision_id,
            subject=row.subject,
            body=row.body,
            kind=row.final_kind if _given(row.kind_by) or not self._independent else None,
            department=row.final_department if _given(row.department_by) or not self._independent else None,
            language=row.language if row.language != UNKNOWN else None,
            created_at=row.created_at.isoformat().replace("+00:00", "Z"),
            channel=row.channel,
            customer_tier=row.customer_tier,
            customer_ref=row.customer_ref,
            country=row.country,
            declared_kind=row.declared_kind,
            kind_by=row.kind_by,
            department_by=row.department_by,
            answer_shown=row.action != "review" and _decided_first(row, events),
            decided_kind=row.kind,
            decided_department=row.department,
            model_version=row.model_version,
        )


def _given(by: str | None) -> bool:
    """Whether somebody else than the router gave the label."""
    return by is not None and by != "router"


def _decided_first(row: sa.Row[Any], events: list[Event]) -> bool:
    """Whether the router had decided when the last of the final labels was given; where nobody gave any, when the ticket was closed."""
    ordered = in_order(events)
    kind = next((event for event in reversed(ordered) if event.event == "kind_corrected"), None)
    place = next((event for event in reversed(ordered) if event.event in ("assigned", "moved")), None)
    given = [event.at for event in (kind, place) if event and _given(event.by)]
    last = max(given) if given else row.closed_at
    return last is None or bool(row.decided_at <= last)
