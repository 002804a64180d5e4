"""`POST /classify` and `POST /classify/batch`."""

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, ValidationError

from service import body
from service.access import Scope, needs
from service.classify import service
from service.classify.schemas import MOST_TICKETS, BatchIn, DecisionOut, TicketIn
from service.errors import (
    BadJson,
    ErrorBody,
    InvalidField,
    NoText,
    ServiceError,
    TicketConflict,
    TooLarge,
    TooSlow,
    documented,
    from_validation,
)
from service.state import State

router = APIRouter(tags=["classify"], route_class=needs(Scope.CLASSIFY))


class BatchOut(BaseModel):
    """One result a ticket, in order: its decision, or its error."""

    results: list[DecisionOut | ErrorBody]


def _takes(model: type[BaseModel]) -> dict[str, Any]:
    # The body is read and parsed by hand: FastAPI's own way reads it whole before it counts it, and answers 500 to NaN.
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}}}


@router.post(
    "/classify",
    response_model=DecisionOut,
    responses=documented(BadJson, TooSlow, TicketConflict, TooLarge, InvalidField, NoText),
    openapi_extra=_takes(TicketIn),
)
async def classify(request: Request) -> Response:
    """Decide one ticket: real incident or request for advice, which department, how sure, and where it goes.

    The decision is stored before it is answered. The same `ticket_id` with the same text gives the stored decision.
    """
    state: State = request.app.state.service
    ticket = service.parse(await body.read(request, state.settings.max_request_bytes))
    return Response(await state.desk.answer(state, ticket, request.receive), media_type="application/json")


@router.post(
    "/classify/batch",
    response_model=BatchOut,
    responses=documented(BadJson, TooSlow, TooLarge, InvalidField),
    openapi_extra=_takes(BatchIn),
)
async def classify_batch(request: Request) -> Response:
    """Decide up to 256 tickets; one that is wrong gets its error in its place and does not fail the others."""
    state: State = request.app.state.service
    raw = await body.read(request, state.settings.max_batch_bytes)
    results, tickets = await run_in_threadpool(_parse_batch, raw)
    places = [place for place, result in enumerate(results) if result is None]
    if places:
        for place, answer in zip(places, await service.answer_all(state, tickets, request.receive), strict=True):
            results[place] = orjson.dumps(answer.as_dict()) if isinstance(answer, TicketConflict) else answer
    joined = b",".join(result for result in results if result is not None)
    return Response(b'{"results":[' + joined + b"]}", media_type="application/json")


def _parse_batch(raw: bytes) -> tuple[list[bytes | None], list[TicketIn]]:
    """For each item the JSON of its error, or None and its ticket in the second list."""
    try:
        items = BatchIn.model_validate_json(raw).tickets
    except ValidationError as error:
        raise from_validation(error) from None
    if len(items) > MOST_TICKETS:
        raise TooLarge(f"At most {MOST_TICKETS} tickets in a batch.", code="too_many_tickets", field="tickets")
    results: list[bytes | None] = []
    tickets = []
    for item in items:
        try:
            tickets.append(service.parse_item(item))
            results.append(None)
        except ServiceError as error:
            results.append(orjson.dumps(error.as_dict()))
    return results, tickets
