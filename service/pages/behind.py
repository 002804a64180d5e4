"""What `/app/misroutes/tickets` shows: the tickets behind a number."""

from dataclasses import dataclass, field

from service.pages.asked import Asked
from service.pages.service import explain_reason
from service.pages.words import ACTIONS, CAUSES, COURSE, FACETS
from service.reports.schemas import Cause, TicketBehind, TicketsBehind


@dataclass(frozen=True)
class Listed:
    """One ticket, where its story stands, and why it was not routed at once."""

    ticket: TicketBehind
    address: str | None
    reasons: list[str]


@dataclass(frozen=True)
class BehindPage:
    """The whole page; `asks`: what was selected, in words."""

    docs: bool
    simulated: bool
    asked: Asked
    asks: list[str]
    matching: int
    listed: list[Listed]
    actions: dict[str, str] = field(default_factory=lambda: ACTIONS)
    causes: dict[Cause, str] = field(default_factory=lambda: CAUSES)
    courses: dict[str, str] = field(default_factory=lambda: COURSE)


def behind(found: TicketsBehind, asked: Asked, simulated: bool, docs: bool) -> BehindPage:
    """The page for what was found."""
    listed = [
        Listed(ticket, asked.story(ticket.ticket_id) if ticket.ticket_id is not None else None, [explain_reason(code) for code in ticket.reasons])
        for ticket in found.shown
    ]
    return BehindPage(docs, simulated, asked, in_words(asked), found.matching, listed)


def in_words(asked: Asked) -> list[str]:
    """What is selected, and what was filtered before."""
    selection = asked.selection
    of = selection.target
    said = []
    if selection.decided:
        said.append(f"{of} decided: {selection.decided}")
    if selection.final:
        said.append(f"{of} in the end: {selection.final}")
    if selection.misrouted:
        said.append("misrouted" if selection.misrouted == "any" else f"misrouted in {selection.misrouted}")
    elif selection.judged is not None:
        said.append("judged" if selection.judged else "not judged yet")
    if selection.cause:
        said.append(f"likely cause: {CAUSES[selection.cause].lower()}")
    if selection.course:
        said.append(COURSE[selection.course].lower())
    if selection.week:
        said.append(f"week {selection.week}")
    if selection.least_confidence is not None:
        said.append(f"confidence of {of} at least {100 * selection.least_confidence:.0f}%")
    if selection.below_confidence is not None and selection.below_confidence <= 1:
        said.append(f"confidence of {of} below {100 * selection.below_confidence:.0f}%")
    return said + [f"{FACETS[name].removesuffix(' (in the end)')}: {ACTIONS.get(value, value)}" for name, value in asked.filtered.items()]
