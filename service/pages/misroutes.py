"""The pages that a support lead opens on Mondays: `/app/misroutes`, the tickets behind its numbers, and one ticket's story."""

from datetime import UTC, datetime

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import HTMLResponse
from sqlalchemy.exc import SQLAlchemyError

from service.access import Scope, needs
from service.database import SIMULATED
from service.errors import NotFound, ReportTooSlow, StorageUnavailable, TooMany
from service.outcomes.schemas import Name, TicketStory
from service.outcomes.service import find
from service.pages.asked import Asked, parse
from service.pages.behind import behind
from service.pages.html import show
from service.pages.overview import overview
from service.pages.story import only, period_of, story_page
from service.reports.schemas import Filters, TicketBehind
from service.state import State

router = APIRouter(tags=["pages"], include_in_schema=False, route_class=needs(Scope.REPORTS))


@router.get("/app/misroutes")
async def misroutes(request: Request) -> HTMLResponse:
    """The report of a period."""
    state: State = request.app.state.service
    asked = parse(request.query_params.multi_items(), selects=False)
    report = await state.reports.report(asked.period, asked.filters)
    labels = {name: list(target.labels) for name, target in state.taxonomy.targets.items()}
    labels["language"] = list(state.router.languages.labels) if state.router.languages else []
    labels["channel"] = ["web", "email", "phone", "chat", "api"]

    def make() -> HTMLResponse:
        return show("misroutes.html", overview(report, asked, datetime.now(UTC).date(), labels, state.settings.shows_docs))

    return await run_in_threadpool(make)  # some tenths of a second, during which tickets are decided


@router.get("/app/misroutes/tickets")
async def tickets(request: Request) -> HTMLResponse:
    """The tickets behind one of its numbers."""
    state: State = request.app.state.service
    asked = parse(request.query_params.multi_items(), selects=True)
    found = await state.reports.tickets(asked.period, asked.filters, asked.selection)
    simulated = any(ticket.model_version.startswith(SIMULATED) for ticket in found.shown)
    return await run_in_threadpool(lambda: show("behind.html", behind(found, asked, simulated, state.settings.shows_docs)))


@router.get("/app/tickets/{ticket_id:path}")
async def story(request: Request, ticket_id: Name) -> HTMLResponse:
    """What became of one ticket. The period of the report that it was come to from is where its cause is looked for."""
    state: State = request.app.state.service
    asked = parse(request.query_params.multi_items(), selects=False)
    try:
        found = await run_in_threadpool(find, state.engine, ticket_id)
    except SQLAlchemyError:
        raise StorageUnavailable from None
    if found is None:
        raise NotFound("Nothing is known of this ticket.")
    simulated = found.decision is not None and found.decision["model_version"].startswith(SIMULATED)
    told = await _told_of(state, found, asked)
    return await run_in_threadpool(lambda: show("story.html", story_page(found, asked, told, simulated, state.settings.shows_docs)))


async def _told_of(state: State, found: TicketStory, asked: Asked) -> TicketBehind | None:
    """What the report says of a misrouted ticket: its likely cause, and why."""
    if found.misrouted is None or not (found.misrouted.kind or found.misrouted.department) or found.decision is None:
        return None
    period = period_of(found, asked.period)
    try:
        behind = await state.reports.tickets(period, Filters(model_version=found.decision["model_version"]), only(found))
    except (ReportTooSlow, TooMany):
        return None  # the story itself is there all the same
    return next((ticket for ticket in behind.shown if ticket.decision_id == found.decision["decision_id"]), None)
