"""The rules of `POST /classify`: from a request to a decision that is stored and answered."""

import asyncio
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson
from fastapi.concurrency import run_in_threadpool
from pydantic import ValidationError
from ulid import ULID

from model.decision import Decision, Ticket
from service.classify.repository import Record, Stored
from service.classify.schemas import TicketIn
from service.database import microseconds
from service.errors import NoText, ServiceError, TicketConflict, from_validation
from service.state import State


def parse(raw: bytes) -> TicketIn:
    """The ticket in a request's body. Raises BadJson, InvalidField, NoText."""
    try:
        ticket = TicketIn.model_validate_json(raw)
    except ValidationError as error:
        raise from_validation(error) from None
    return with_text(ticket)


def parse_item(item: Any) -> TicketIn:
    """One ticket of a batch. Raises InvalidField, NoText."""
    try:
        ticket = TicketIn.model_validate(item)
    except ValidationError as error:
        raise from_validation(error) from None
    return with_text(ticket)


def with_text(ticket: TicketIn) -> TicketIn:
    """The ticket, if it has any. Raises NoText."""
    if not ((ticket.subject and not ticket.subject.isspace()) or (ticket.body and not ticket.body.isspace())):
        raise NoText
    return ticket


_MOST_TOGETHER = 64
_MOST_ON_LOOP = 20_000  # characters, about 2 ms; with more the decision is made on a thread and other requests go on


class Desk:
    """Where the tickets of single requests are decided: those that arrive together are decided in one go and share a commit, which
    costs a fraction of deciding each for itself; one that comes alone waits for nobody."""

    def __init__(self) -> None:
        self._waiting: list[tuple[TicketIn, asyncio.Future[bytes | TicketConflict]]] = []
        self._groups: set[asyncio.Task[None]] = set()  # the event loop itself keeps no hold of its tasks

    async def answer(self, state: State, ticket: TicketIn) -> bytes:
        """The stored decision as JSON. Raises TicketConflict, StorageUnavailable."""
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[bytes | TicketConflict] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._next_group, state, loop)  # after the requests that the loop has at hand
        self._waiting.append((ticket, answered))
        answer = await answered
        if isinstance(answer, TicketConflict):
            raise answer
        return answer

    def _next_group(self, state: State, loop: asyncio.AbstractEventLoop) -> None:
        group, self._waiting = self._waiting[:_MOST_TOGETHER], self._waiting[_MOST_TOGETHER:]
        if self._waiting:
            loop.call_soon(self._next_group, state, loop)
        task = loop.create_task(self._decide(state, group))
        self._groups.add(task)
        task.add_done_callback(self._groups.discard)

    async def _decide(self, state: State, group: list[tuple[TicketIn, asyncio.Future[bytes | TicketConflict]]]) -> None:
        tickets = [ticket for ticket, _ in group]
        try:
            if sum(len(ticket.body or "") for ticket in tickets) > _MOST_ON_LOOP:
                decided = await run_in_threadpool(classify, state, tickets)
            else:
                decided = classify(state, tickets)
            answers: list[bytes | TicketConflict] = await store(state, decided)
        except Exception as error:
            # A ticket that breaks what reads it must not take its neighbours with it.
            if len(group) > 1 and not isinstance(error, ServiceError):
                await asyncio.gather(*(self._decide(state, [each]) for each in group))
                return
            for _, answered in group:
                if not answered.done():
                    answered.set_exception(error)
            return
        for (_, answered), answer in zip(group, answers, strict=True):
            if not answered.done():  # else its client has gone
                answered.set_result(answer)


class Decided(NamedTuple):
    """What is to be stored, and the explanation as JSON, which the first answer has even where it is not kept."""

    record: Record
    explanation: bytes


def classify(state: State, tickets: Sequence[TicketIn]) -> list[Decided]:
    """Decide the tickets: what is to be stored and then answered, in order."""
    now = microseconds(datetime.now(UTC))
    asked = [_as_ticket(ticket) for ticket in tickets]
    decider = state.decider
    with state.metrics.clean_seconds.time():
        texts = decider.clean(asked)
    with state.metrics.classify_seconds.time():
        decided = decider.decide_cleaned(asked, texts, explain=True, advise=True)
    state.metrics.count_decisions(decided)
    return [_record(state, ticket, decision, now) for ticket, decision in zip(tickets, decided, strict=True)]


async def store(state: State, decided: Sequence[Decided]) -> list[bytes | TicketConflict]:
    """Store decisions; for each the body of its answer, or the conflict with what was decided earlier."""
    stored = await state.writer.write([each.record for each in decided])
    return [_answer(each, found) for each, found in zip(decided, stored, strict=True)]


def _answer(decided: Decided, stored: Stored) -> bytes | TicketConflict:
    if not stored.same_text:
        return TicketConflict()
    explanation = decided.explanation if stored.decision is decided.record.decision else stored.explanation
    # Both are our own JSON, so they are joined rather than parsed: an object without its last brace, and one field more.
    return stored.decision[:-1] + b',"explanation":' + (explanation or b"null") + b"}"


def _as_ticket(ticket: TicketIn) -> Ticket:
    return Ticket(
        ticket.subject or "", ticket.body or "", ticket.language, ticket.channel, ticket.declared_kind, ticket.customer_tier, ticket.country
    )


def _record(state: State, ticket: TicketIn, decision: Decision, now: int) -> Decided:
    explanation = orjson.dumps(decision.pop("explanation"))
    decision_id = str(ULID())
    answered = {"decision_id": decision_id, "ticket_id": ticket.ticket_id, **decision}
    labels = decision["labels"]
    keep = state.settings.keep_text_days > 0
    record = Record(
        decision_id=decision_id,
        ticket_id=ticket.ticket_id,
        text_digest=_digest(ticket),
        decided_at=now,
        created_at=microseconds(ticket.created_at) if ticket.created_at else now,
        model_version=decision["model_version"],
        path=decision["path"],
        language=decision["language"]["code"],
        kind=labels["kind"]["label"] if "kind" in labels else None,
        department=labels["department"]["label"] if "department" in labels else None,
        action=decision["action"],
        declared_kind=ticket.declared_kind,
        channel=ticket.channel,
        customer_tier=ticket.customer_tier,
        customer_ref=ticket.customer_ref,
        country=ticket.country,
        decision=orjson.dumps(answered),
        explanation=explanation if keep else None,
        # PostgreSQL's text cannot hold NUL.
        subject=(ticket.subject or "").replace("\0", "\ufffd") if keep else None,
        body=(ticket.body or "").replace("\0", "\ufffd") if keep else None,
    )
    return Decided(record, explanation)


def _digest(ticket: TicketIn) -> str:
    # The length of the subject keeps ("ab", "c") and ("a", "bc") apart.
    subject, body = ticket.subject or "", ticket.body or ""
    return hashlib.sha256(f"{len(subject)}\0{subject}\0{body}".encode()).hexdigest()
