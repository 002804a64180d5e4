"""`/reports/misroutes`, the tickets behind its numbers, and both as CSV."""

from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, BeforeValidator, Field

from service.access import Scope, needs
from service.errors import InvalidField, ReportTooSlow, documented
from service.reports.schemas import Filters, MisrouteReport, Period, Selection, TicketsBehind, asked_period
from service.reports.sheets import report_sheet, tickets_sheet
from service.state import State

router = APIRouter(tags=["reports"], route_class=needs(Scope.REPORTS))

_CSV: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {"schema": {"type": "string"}}}, "description": "One row a figure."}}


def _only_a_day(value: object) -> object:
    """As ISO 8601 writes it; pydantic would take numbers too."""
    try:
        if value is None or (isinstance(value, str) and len(value) == len("2026-11-01")):
            return value and date.fromisoformat(value)
    except ValueError:
        pass
    raise ValueError("Not a day, such as 2026-11-01.")


_Day = Annotated[date, BeforeValidator(_only_a_day)]


class ReportQuery(Filters):
    """A period and filters."""

    since: Annotated[_Day | None, Field(alias="from", description="The first day, in UTC; 28 days before `to` where it is not given.")] = None
    until: Annotated[_Day | None, Field(alias="to", description="The day after the last; tomorrow where it is not given.")] = None

    def period(self) -> Period:
        """Raises InvalidField."""
        try:
            return asked_period(self.since, self.until)
        except ValueError as error:
            field, _, message = str(error).partition(": ")
            raise InvalidField(f"{message[0].upper()}{message[1:]}.", field=field) from None

    def filters(self) -> Filters:
        return Filters(**_part(self, Filters))


class TicketsQuery(ReportQuery, Selection):
    """A period, filters, and conditions on top of them."""

    def selection(self) -> Selection:
        return Selection(**_part(self, Selection))


def _part(query: BaseModel, of: type[BaseModel]) -> dict[str, Any]:
    return {name: getattr(query, name) for name in of.model_fields}


Asked = Annotated[ReportQuery, Query()]
AskedTickets = Annotated[TicketsQuery, Query()]
_ERRORS = documented(InvalidField, ReportTooSlow)


@router.get("/reports/misroutes", response_model=MisrouteReport, responses=_ERRORS)
async def misroutes(request: Request, asked: Asked) -> Response:
    """What went to the wrong team in a period: how often, why, at what cost; without a period, in the last 28 days."""
    state: State = request.app.state.service
    return Response(await state.reports.report_json(asked.period(), asked.filters()), media_type="application/json")


@router.get("/reports/misroutes.csv", response_class=Response, responses=_CSV | _ERRORS)
async def misroutes_csv(request: Request, asked: Asked) -> Response:
    """The same report as CSV, one row a figure: its section, the facet and value that it is of, and the figure."""
    state: State = request.app.state.service
    period = asked.period()
    report = await state.reports.report(period, asked.filters())
    return _sheet(await run_in_threadpool(report_sheet, report), "misroutes", period)


@router.get("/reports/misroutes/tickets", response_model=TicketsBehind, responses=_ERRORS)
async def tickets(request: Request, asked: AskedTickets) -> Response:
    """The tickets behind one of the report's numbers, with their likely causes and the evidence for them."""
    state: State = request.app.state.service
    found = await state.reports.tickets_json(asked.period(), asked.filters(), asked.selection())
    return Response(found, media_type="application/json")


@router.get("/reports/misroutes/tickets.csv", response_class=Response, responses=_CSV | _ERRORS)
async def tickets_csv(request: Request, asked: AskedTickets) -> Response:
    """The same tickets as CSV, one row a ticket."""
    state: State = request.app.state.service
    period = asked.period()
    found = await state.reports.tickets(period, asked.filters(), asked.selection())
    return _sheet(await run_in_threadpool(tickets_sheet, found), "misrouted-tickets", period)


def _sheet(rows: bytes, name: str, period: Period) -> Response:
    file = f"{name}-{period.since}-{period.until}.csv"
    return Response(rows, media_type="text/csv", headers={"Content-Disposition": f'attachment; filename="{file}"'})
