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

from model.decision import Decider, Decision, Ticket
from service.classify.repository import Record, Stored
from service.classify.schemas import TicketIn
from service.database import microseconds
from service.deep import Found, Receive, unless_gone
from service.errors import NoText, ServiceError, StorageUnavailable, TicketConflict, from_validation
from service.state import State

_MOST_TOGETHER = 64
_TURNS = 4  # of the loop, in which the clients just answered come back: else eight settle into groups of 1 and 7, and a third fewer are answered
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
    answered: "asyncio.Future[bytes | TicketConflict | _Sent]"
    since: float


class _Sent(NamedTuple):
    """A doubtful ticket that was sent to the deep path; where nothing is found there, the fast path's decision stands."""

    ticket: TicketIn
    fast: "Decided"
    found: asyncio.Future[Found]


class Desk:
    """Where the tickets of single requests wait while a commit is under way, to be decided in one go and to share the next commit: for
    each that is a fraction of the work. One that comes alone waits for nobody, and after a commit the next group has a few turns of the
    loop to gather. Those that go to the deep path leave the others, and come back to be stored with whatever is stored then."""

    def __init__(self) -> None:
        self._waiting: deque[_Asked] = deque()
        self._working: asyncio.Task[None] | None = None

    async def answer(self, state: State, ticket: TicketIn, receive: Receive) -> bytes:
        """The stored decision as JSON. Raises TicketConflict, StorageUnavailable."""
        if len(ticket.body or "") > _MOST_ON_LOOP:
            (answer,) = await answer_all(state, [ticket], receive)
        else:
            told = await self._wait(state, ticket)
            if isinstance(told, _Sent):
                (answer,) = await store(state, _reconsidered(state, [told.ticket], [told.fast], [0], await unless_gone(told.found, receive)))
            else:
                answer = told
        if isinstance(answer, TicketConflict):
            raise answer
        return answer

    async def _wait(self, state: State, ticket: TicketIn) -> bytes | TicketConflict | _Sent:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[bytes | TicketConflict | _Sent] = loop.create_future()
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
                    for _ in range(_TURNS):
                        await asyncio.sleep(0)
        finally:
            self._working = None

    async def _decide(self, state: State, group: list[_Asked]) -> None:
        try:
            since = group[0].since
            decided = classify(state, [asked.ticket for asked in group])
            if any(each.doubt for each in decided):
                group, decided = _send_doubtful(state, group, decided)
            answers = await store(state, decided, since) if group else []
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


def _fail(answered: "asyncio.Future[bytes | TicketConflict | _Sent]", error: Exception) -> None:
    if not answered.done():
        answered.set_exception(error)


def _send_doubtful(state: State, group: list[_Asked], decided: "list[Decided]") -> "tuple[list[_Asked], list[Decided]]":
    """Send to the deep path whom it has a place for; the others."""
    doubtful = [each.doubt for each in decided if each.doubt]
    places = state.deep.admit(doubtful[0].decider, len(doubtful))
    staying: list[_Asked] = []
    theirs: list[Decided] = []
    for asked, each in zip(group, decided, strict=True):
        if places and each.doubt and not asked.answered.done():
            places -= 1
            found = state.deep.ask(each.doubt.decider, [each.doubt.ticket], [each.doubt.text])
            asked.answered.set_result(_Sent(asked.ticket, each, found))
        else:
            staying.append(asked)
            theirs.append(each)
    return staying, theirs


class Doubt(NamedTuple):
    """What the deep path is asked, where the fast path has doubts."""

    decider: Decider
    ticket: Ticket
    text: str


class Decided(NamedTuple):
    """What is to be stored, and the explanation as JSON, which the first answer has even where it is not kept."""

    record: Record
    explanation: bytes
    decision: Decision
    doubt: Doubt | None = None


def classify(state: State, tickets: Sequence[TicketIn]) -> list[Decided]:
    """Decide the tickets by the fast path: what is to be stored and then answered, in order."""
    now = microseconds(datetime.now(UTC))
    asked = [_as_ticket(ticket) for ticket in tickets]
    decider = state.decider
    with state.metrics.clean_seconds.time():
        texts = decider.clean(asked)
    with state.metrics.classify_seconds.time():
        answers = decider.answer(asked, texts, explain=True)
        decisions = decider.conclude(asked, texts, answers, explain=True, advise=True)
    decided = [_record(state, ticket, decision, now) for ticket, decision in zip(tickets, decisions, strict=True)]
    for i, doubtful in enumerate(answers.doubtful):
        if doubtful:
            decided[i] = decided[i]._replace(doubt=Doubt(decider, asked[i], texts[i]))
    return decided


async def answer_all(state: State, tickets: Sequence[TicketIn], receive: Receive) -> list[bytes | TicketConflict]:
    """Decide and store the tickets of one request, off the loop; the doubtful ones have one place with the deep path, and one deadline."""
    decided = await run_in_threadpool(classify, state, tickets)
    doubtful = [i for i, each in enumerate(decided) if each.doubt]
    doubts = [each.doubt for each in decided if each.doubt]
    if doubts and state.deep.admit(doubts[0].decider, len(doubts), together=True):
        found = state.deep.ask(doubts[0].decider, [doubt.ticket for doubt in doubts], [doubt.text for doubt in doubts])
        decided = await run_in_threadpool(_reconsidered, state, tickets, decided, doubtful, await unless_gone(found, receive))
    return await store(state, decided)


def _reconsidered(state: State, tickets: Sequence[TicketIn], decided: list[Decided], doubtful: list[int], found: Found) -> list[Decided]:
    """`decided`, with what the deep path `found` of the `doubtful` ones (their places) where it answered."""
    now = microseconds(datetime.now(UTC))
    decided = list(decided)
    for i, decision in zip(doubtful, found, strict=False):  # where the client has gone, nothing was found
        if decision is not None:
            decided[i] = _record(state, tickets[i], decision, now)
    return decided


async def store(state: State, decided: Sequence[Decided], since: float | None = None) -> list[bytes | TicketConflict]:
    """Store decisions; for each the body of its answer, or the conflict with what was decided earlier. See `Writer.write`."""
    stored = await state.writer.write([each.record for each in decided], since)
    state.metrics.count_decisions(each.decision for each, found in zip(decided, stored, strict=True) if found.decision is each.record.decision)
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
        kind_confidence=labels["kind"]["confidence"] if "kind" in labels else None,
        department_confidence=labels["department"]["confidence"] if "department" in labels else None,
        action=decision["action"],
        reasons=" ".join(decision["reasons"]),
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
    return Decided(record, explanation, decision)


def _digest(ticket: TicketIn) -> str:
    # The length of the subject keeps ("ab", "c") and ("a", "bc") apart.
    subject, body = ticket.subject or "", ticket.body or ""
    return hashlib.sha256(f"{len(subject)}\0{subject}\0{body}".encode()).hexdigest()
