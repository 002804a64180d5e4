"""What `/app/tickets/{ticket_id}` shows: one ticket's story, as it went on."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from math import nextafter
from typing import Any, Literal

from model.cleaning import clean
from service.outcomes.schemas import EventOut, TicketStory
from service.pages.asked import Asked
from service.pages.service import Piece, explain_reason, pieces
from service.pages.words import ACTIONS, BY, CAUSES, COURSE, DECIDED, EVENTS
from service.reports.schemas import MOST_TICKETS, Cause, Period, Selection, TicketBehind


@dataclass(frozen=True)
class Step:
    """One thing that happened. `since`: seconds since the step before, None for the first; `held`: the department that holds it from here
    on, and for how many seconds, None until now; `wrong`: whether it is not the right one."""

    at: datetime
    kind: str
    what: str
    label: str | None = None
    by: str | None = None
    reason: str | None = None
    since: float | None = None
    held: str | None = None
    held_for: float | None = None
    wrong: bool = False


@dataclass(frozen=True)
class Answered:
    """One target: what was decided, how sure, what it was in the end, and the text with the words that pulled the decision."""

    target: str
    decided: str
    confidence: float
    final: str | None
    given_by: str | None
    wrong: bool | None
    pieces: list[Piece] | None


@dataclass(frozen=True)
class StoryPage:
    """The whole page."""

    docs: bool
    simulated: bool
    asked: Asked
    story: TicketStory
    steps: list[Step]
    answers: list[Answered]
    reasons: list[str]
    behind: TicketBehind | None
    lost: float | None
    course: str | None
    to_team: float | None
    to_answer: float | None
    actions: dict[str, str] = field(default_factory=lambda: ACTIONS)
    causes: dict[Cause, str] = field(default_factory=lambda: CAUSES)


def story_page(story: TicketStory, asked: Asked, behind: TicketBehind | None, simulated: bool, docs: bool) -> StoryPage:
    """The page for a story; `behind`: what the report says of the ticket, where it says anything."""
    created = _moment(story.created_at)
    wrong_at, right_at, answered_at = _moment(story.wrong_at), _moment(story.right_at), _moment(story.answered_at)
    return StoryPage(
        docs=docs,
        simulated=simulated,
        asked=asked,
        story=story,
        steps=list(_steps(story)),
        answers=list(_answers(story)),
        reasons=[explain_reason(code) for code in (story.decision or {}).get("reasons", [])],
        behind=behind,
        lost=_seconds(wrong_at, right_at) if story.wrong_stays else None,
        course=COURSE[story.course] if story.course else None,
        to_team=_seconds(created, right_at),
        to_answer=_seconds(created, answered_at),
    )


def period_of(story: TicketStory, asked: Period) -> Period:
    """The period asked for if the ticket belongs to it, else the ticket's day."""
    created = _moment(story.created_at) or datetime.now(UTC)
    if asked.since <= created.date() < asked.until:
        return asked
    return Period(since=created.date(), until=created.date() + timedelta(days=1))


def only(story: TicketStory) -> Selection:
    """What selects the ticket of a story, and of others at most those that are decided with exactly its confidence."""
    target: Literal["department", "kind"] = "department" if story.misrouted and story.misrouted.department else "kind"
    answer = (story.decision or {})["labels"][target]
    sure = answer["confidence"]
    return Selection(
        target=target, decided=answer["label"], misrouted=target, least_confidence=sure, below_confidence=nextafter(sure, 2), limit=MOST_TICKETS
    )  # fmt: skip


def _answers(story: TicketStory) -> Iterator[Answered]:
    decision = story.decision or {}
    finals = {"kind": (story.final_kind, story.kind_by), "department": (story.final_department, story.department_by)}
    wrong = story.misrouted.model_dump() if story.misrouted else {}
    text = clean(story.subject or "", story.body or "") if story.subject is not None or story.body is not None else None
    explanation = decision.get("explanation") or {}
    for target, answer in decision.get("labels", {}).items():
        final, by = finals.get(target, (None, None))
        marked = list(pieces(text, explanation.get(target, []))) if text is not None else None
        yield Answered(target, answer["label"], answer["confidence"], final, BY.get(by or ""), wrong.get(target), marked)


def _steps(story: TicketStory) -> Iterator[Step]:
    found = sorted(_happened(story), key=lambda step: step.at)
    wrong_at, right_at = _moment(story.wrong_at), _moment(story.right_at)
    holder = None
    for place, step in enumerate(found):
        since = (step.at - found[place - 1].at).total_seconds() if place else None
        until = next((later.at for later in found[place + 1 :] if later.held not in (None, step.held) or later.kind == "closed"), None)
        held = step.held if step.held != holder else None  # said once of a stay, however often it was assigned there again
        holder = step.held or holder
        held_for = (until - step.at).total_seconds() if held and until else None
        wrong = step.held is not None and step.held != story.final_department and wrong_at is not None and (right_at is None or step.at < right_at)
        yield replace(step, since=since, held=held, held_for=held_for, wrong=wrong)


def _happened(story: TicketStory) -> Iterator[Step]:
    created, decided = _moment(story.created_at), _moment(story.decided_at)
    if created and decided and created < decided:
        yield Step(created, "created", "The customer sent it")
    if decided and story.decision:
        label = story.decision["labels"].get("department", {}).get("label")
        action = story.decision["action"]
        yield Step(decided, "decided", DECIDED[action], label, BY["router"], held=label if action == "auto" else None)
    for event in story.events:
        yield Step(
            _at(event),
            event.event,
            EVENTS[event.event],
            event.to,
            BY[event.by],
            event.reason,
            held=event.to if event.event in ("assigned", "moved") else None,
        )


def _at(event: EventOut) -> datetime:
    return datetime.fromisoformat(event.at).astimezone(UTC)


def _moment(at: Any) -> datetime | None:
    return datetime.fromisoformat(at).astimezone(UTC) if at else None


def _seconds(since: datetime | None, until: datetime | None) -> float | None:
    return max(0.0, (until - since).total_seconds()) if since and until else None
