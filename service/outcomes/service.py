"""The rules of outcomes: from an event that is told to the story that is kept."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson
from pydantic import ValidationError
from sqlalchemy.engine import Connection, Engine

from service.database import EPOCH, microseconds
from service.errors import EventConflict, InvalidField, from_validation
from service.outcomes import repository
from service.outcomes.repository import Known, Told
from service.outcomes.schemas import EventOut, Final, MisroutedOut, OutcomeIn, OutcomeOut, TicketOutcomeIn, TicketStory
from service.outcomes.story import UNDECIDED, Event, in_order, judge, tell

if TYPE_CHECKING:  # it holds the model, which takes seconds to load and which an import of history has no use for
    from service.state import State

_WITH_TO = frozenset({"assigned", "moved", "kind_corrected"})


def parse(raw: bytes) -> OutcomeIn:
    """The event in a request's body. Raises BadJson, InvalidField."""
    try:
        return complete(OutcomeIn.model_validate_json(raw))
    except ValidationError as error:
        raise from_validation(error) from None


def parse_item(item: Any) -> TicketOutcomeIn:
    """One event of a batch. Raises InvalidField."""
    try:
        sent = TicketOutcomeIn.model_validate(item)
    except ValidationError as error:
        raise from_validation(error) from None
    complete(sent)
    return sent


def complete(sent: OutcomeIn) -> OutcomeIn:
    """The event, if it says where to, where it must, and only there. Raises InvalidField."""
    if sent.event in _WITH_TO and sent.to is None:
        raise InvalidField("assigned, moved and kind_corrected need the label that the ticket has from then on.", field="to")
    if sent.event not in _WITH_TO and sent.to is not None:
        raise InvalidField("answered and closed have no label.", field="to")
    return sent


def as_told(ticket_id: str, sent: OutcomeIn, *, keep_reason: bool = True) -> Told:
    """The event as it is stored. Its digest is of the moment, not of its spelling."""
    event = Event(microseconds(sent.at), sent.event_id, sent.event, sent.to, sent.origin, sent.by, sent.reason)
    return Told(ticket_id, event if keep_reason else event._replace(reason=None), digest(event))


def digest(event: Event) -> str:
    """Of what happened, without the event's id: in it, a repeat and a contradiction differ."""
    return hashlib.sha256(orjson.dumps([event.at, event.event, event.to, event.origin, event.by, event.reason])).hexdigest()


def keep(connection: Connection, told: Sequence[Told]) -> tuple[list[repository.Added], dict[str, Known]]:
    """Keep the events that are new and tell the stories of their tickets anew, in the transaction of `connection`; what each event was,
    and what is known of each ticket now."""
    tickets = {each.ticket_id for each in told}
    repository.lock(connection, tickets)
    added = repository.add(connection, told, datetime.now(UTC))
    changed = {each.ticket_id for each, what in zip(told, added, strict=True) if what == "new"}
    known = repository.retell(connection, changed)
    if unchanged := sorted(tickets - changed):
        known |= repository.find_known(connection, unchanged)
    return added, known


async def take(state: "State", told: Sequence[Told]) -> list[tuple[bool, bytes] | EventConflict]:
    """Keep the events of one request, together; for each whether it is new and the answer, or the conflict. Raises StorageUnavailable."""
    if not told:
        return []
    added, known = await state.writer.run(lambda connection: keep(connection, told))
    state.metrics.count_outcomes(each.event.event for each, what in zip(told, added, strict=True) if what == "new")
    return [
        EventConflict() if what == "conflict" else (what == "new", _answer(each.ticket_id, known[each.ticket_id]))
        for each, what in zip(told, added, strict=True)
    ]


def is_reason_kept(state: "State", sent: OutcomeIn) -> bool:
    """Whether the event is so young that its words may be stored."""
    return sent.at > datetime.now(UTC) - timedelta(days=state.settings.keep_text_days)


def _answer(ticket_id: str, known: Known) -> bytes:
    story, misrouted = known.story, _misrouted(known)
    out = OutcomeOut(
        ticket_id=ticket_id, events=story.events, final=Final(kind=story.final_kind, department=story.final_department), moves=story.moves,
        closed=story.closed_at is not None, misrouted=misrouted,
    )  # fmt: skip
    return orjson.dumps(out.model_dump())


def _misrouted(known: Known) -> MisroutedOut | None:
    judged = known.decided and judge(known.decided, known.story)
    return MisroutedOut(**judged._asdict()) if judged else None


def find(database: Engine | Connection, ticket_id: str) -> TicketStory | None:
    """All that is known of the ticket, None where that is nothing. It waits for the database."""
    if isinstance(database, Engine):
        with database.connect() as connection:
            return find(connection, ticket_id)
    row = repository.find_ticket(database, ticket_id)
    events = in_order(repository.find_events(database, [ticket_id]).get(ticket_id, ()))
    if row is None and not events:
        return None
    decided = None if row is None else repository.as_decided(row)
    story = tell(decided or UNDECIDED, events)
    facts = {name: getattr(row, name, None) for name in ("declared_kind", "channel", "customer_tier", "country", "subject", "body")}
    told = {name: _spelt(value) if name.endswith("_at") else value for name, value in story._asdict().items() if name != "events"}
    explained = {"explanation": row.explanation and orjson.loads(row.explanation)} if row else {}
    return TicketStory(
        ticket_id=ticket_id,
        decision=orjson.loads(row.decision) | explained if row else None,
        decided_at=_spelt(decided.decided_at) if decided else None,
        created_at=_spelt(decided.created_at) if decided else None,
        events=[_event(each) for each in events],
        misrouted=_misrouted(Known(decided, story)),
        **facts,
        **told,
    )


def _event(event: Event) -> EventOut:
    return EventOut.model_validate({**event._asdict(), "at": _spelt(event.at)})


def _spelt(moment: int | None) -> str | None:
    return None if moment is None else (EPOCH + timedelta(microseconds=moment)).isoformat()
