"""The rules of `POST /classify`: from a request to a decision that is stored and answered."""

import asyncio
import hashlib
import time
from collections import deque
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
from service.errors import NoText, ServiceError, StorageUnavailable, TicketConflict, from_validation
from service.state import State

_MOST_TOGETHER = 64
_MOST_ON_LOOP = 20_000  # characters decided between two looks at the network, about 2 ms; a longer ticket is read on a thread


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


class _Asked(NamedTuple):
    ticket: TicketIn
    answered: asyncio.Future[bytes | TicketConflict]
    since: float


class Desk:
    """Where the tickets of single requests wait while a commit is under way, to be decided in one go and to share the next commit: for
    each that is a fraction of the work. One that comes alone waits for nobody."""

    def __init__(self) -> None:
        self._waiting: deque[_Asked] = deque()
        self._working: asyncio.Task[None] | None = None

    async def answer(self, state: State, ticket: TicketIn) -> bytes:
        """The stored decision as JSON. Raises TicketConflict, StorageUnavailable."""
        if len(ticket.body or "") > _MOST_ON_LOOP:
            (answer,) = await store(state, await run_in_threadpool(classify, state, [ticket]))
        else:
            answer = await self._wait(state, ticket)
        if isinstance(answer, TicketConflict):
            raise answer
        return answer

    async def _wait(self, state: State, ticket: TicketIn) -> bytes | TicketConflict:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[bytes | TicketConflict] = loop.create_future()
        self._waiting.append(_Asked(ticket, answered, time.monotonic()))
        if self._working is None:
            self._working = loop.create_task(self._work(state))  # begins after the requests that the loop has at hand
        giving_up = loop.call_later(state.settings.write_seconds, _fail, answered, StorageUnavailable())
        try:
            return await answered
        finally:
            giving_up.cancel()

    async def _work(self, state: State) -> None:
        try:
            while self._waiting:
                group: list[_Asked] = []
                size = 0
                while self._waiting and len(group) < _MOST_TOGETHER and size <= _MOST_ON_LOOP:
                    asked = self._waiting.popleft()
                    if not asked.answered.done():  # else it was refused, or its client has gone
                        group.append(asked)
                        size += len(asked.ticket.body or "")
                if group:
                    await self._decide(state, group)
        finally:
            self._working = None

    async def _decide(self, state: State, group: list[_Asked]) -> None:
        try:
            answers = await store(state, classify(state, [asked.ticket for asked in group]), group[0].since)
        except Exception as error:
            if len(group) == 1 or isinstance(error, ServiceError):
                for asked in group:
                    _fail(asked.answered, error)
            else:  # a ticket that breaks what reads it must not take its neighbours with it
                for asked in group:
                    await self._decide(state, [asked])
            return
        for asked, answer in zip(group, answers, strict=True):
            if not asked.answered.done():
                asked.answered.set_result(answer)


def _fail(answered: asyncio.Future[bytes | TicketConflict], error: Exception) -> None:
    if not answered.done():
        answered.set_exception(error)


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


async def store(state: State, decided: Sequence[Decided], since: float | None = None) -> list[bytes | TicketConflict]:
    """Store decisions; for each the body of its answer, or the conflict with what was decided earlier. See `Writer.write`."""
    stored = await state.writer.write([each.record for each in decided], since)
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
