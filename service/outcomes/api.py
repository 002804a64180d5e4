"""`POST /tickets/{ticket_id}/outcomes`, `POST /outcomes/batch` and `GET /tickets/{ticket_id}`."""

from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, TypeAdapter, ValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.routing import Match
from starlette.types import Scope as Asked

from service import body
from service.access import GuardedRoute, Scope, needs
from service.errors import (
    BadJson,
    ErrorBody,
    EventConflict,
    InvalidField,
    NotFound,
    ServiceError,
    StorageUnavailable,
    TooLarge,
    TooSlow,
    documented,
    from_validation,
)
from service.outcomes import service
from service.outcomes.repository import Told
from service.outcomes.schemas import MOST_OUTCOMES, Name, OutcomeIn, OutcomeOut, OutcomesIn, TicketStory
from service.state import State

TICKET_ID: dict[str, Any] = {
    "name": "ticket_id", "in": "path", "required": True, "description": "As it was sent with the ticket.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": r"^[^\x00-\x1f\x7f]+$"},
}  # fmt: skip
_FROM_ANSWER = {"ticket_id": "$response.body#/ticket_id"}
_STORY_LINK = {"story": {"operationId": "story_of_ticket", "parameters": _FROM_ANSWER, "description": "The whole story of the ticket."}}
# Where an id that was sent leads, for the description of `POST /classify`.
LINKS = {
    name: {"operationId": operation, "parameters": {"ticket_id": "$request.body#/ticket_id"}, "description": description}
    for name, operation, description in (
        ("outcomes", "tell_outcome", "Tell what became of the ticket."),
        ("story", "story_of_ticket", "The whole story of the ticket."),
    )
}
_a_name = TypeAdapter(Name)


def _ticket_route(scope: Scope) -> type[GuardedRoute]:
    """The class of routes with a ticket's id in their path, which may hold anything, `%2F` too: elsewhere that is a slash like any other."""

    class TicketRoute(needs(scope)):  # type: ignore[misc]
        def matches(self, scope: Asked) -> tuple[Match, Asked]:
            sent = scope.get("raw_path") or quote(scope["path"]).encode()
            segments = [quote(unquote_to_bytes(segment), safe="") for segment in sent.split(b"/")]
            match, found = super().matches({**scope, "path": "/".join(segments)})
            return match, found

    return TicketRoute


def _ticket_id(request: Request) -> str:
    """The id in the path. Raises InvalidField."""
    try:
        return _a_name.validate_python(unquote(request.path_params["ticket_id"], errors="strict"))
    except UnicodeDecodeError:
        raise InvalidField("Not UTF-8.", field="ticket_id") from None
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        if fault["type"] == "string_too_long":
            raise InvalidField("At most 200 characters.", code="ticket_id_too_long", field="ticket_id") from None
        raise InvalidField("1 to 200 characters, none of them a control character.", field="ticket_id") from None


def _takes(model: type[BaseModel]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}}}


router = APIRouter(tags=["outcomes"], route_class=needs(Scope.OUTCOMES))
_telling = APIRouter(tags=["outcomes"], route_class=_ticket_route(Scope.OUTCOMES))
_reading = APIRouter(tags=["outcomes"], route_class=_ticket_route(Scope.REPORTS))


class OutcomesOut(BaseModel):
    """One result an event, in order: what is known of its ticket, or its error."""

    results: list[OutcomeOut | ErrorBody]


@_telling.post(
    "/tickets/{ticket_id}/outcomes",
    operation_id="tell_outcome",
    status_code=201,
    response_model=OutcomeOut,
    response_description="The event is kept.",
    responses={
        **documented(BadJson, TooSlow, EventConflict, TooLarge, InvalidField),
        200: {"model": OutcomeOut, "description": "The event was told before; nothing has changed.", "links": _STORY_LINK},
        201: {"links": _STORY_LINK},
    },
    openapi_extra=_takes(OutcomeIn) | {"parameters": [TICKET_ID]},
)
async def tell_outcome(request: Request) -> Response:
    """Tell what happened to a ticket: it was assigned, moved, answered, closed, or its kind was corrected.

    Events may come late, in any order and again; of a ticket that is not decided yet they are kept until it is.
    """
    state: State = request.app.state.service
    ticket_id = _ticket_id(request)
    sent = service.parse(await body.read(request, state.settings.max_request_bytes))
    (answer,) = await service.take(state, [service.as_told(ticket_id, sent, keep_reason=service.is_reason_kept(state, sent))])
    if isinstance(answer, EventConflict):
        raise answer
    new, content = answer
    return Response(content, 201 if new else 200, media_type="application/json")


@router.post(
    "/outcomes/batch",
    operation_id="tell_outcomes",
    response_model=OutcomesOut,
    responses=documented(BadJson, TooSlow, TooLarge, InvalidField),
    openapi_extra=_takes(OutcomesIn),
)
async def tell_outcomes(request: Request) -> Response:
    """Tell up to 256 events of any tickets; one that is wrong gets its error in its place and does not fail the others."""
    state: State = request.app.state.service
    raw = await body.read(request, state.settings.max_batch_bytes)
    results, told = await run_in_threadpool(_parse_batch, state, raw)
    answers = iter(await service.take(state, told))
    for place, result in enumerate(results):
        if result is None:
            answer = next(answers)
            results[place] = orjson.dumps(answer.as_dict()) if isinstance(answer, EventConflict) else answer[1]
    joined = b",".join(result for result in results if result is not None)
    return Response(b'{"results":[' + joined + b"]}", media_type="application/json")


def _parse_batch(state: State, raw: bytes) -> tuple[list[bytes | None], list[Told]]:
    """For each item the JSON of its error, or None and its event in the second list."""
    try:
        items = OutcomesIn.model_validate_json(raw).outcomes
    except ValidationError as error:
        raise from_validation(error) from None
    if len(items) > MOST_OUTCOMES:
        raise TooLarge(f"At most {MOST_OUTCOMES} outcomes in a batch.", code="too_many_outcomes", field="outcomes")
    results: list[bytes | None] = []
    told = []
    for item in items:
        try:
            sent = service.parse_item(item)
            told.append(service.as_told(sent.ticket_id, sent, keep_reason=service.is_reason_kept(state, sent)))
            results.append(None)
        except ServiceError as error:
            results.append(orjson.dumps(error.as_dict()))
    return results, told


@_reading.get(
    "/tickets/{ticket_id}",
    operation_id="story_of_ticket",
    response_model=TicketStory,
    responses=documented(NotFound, InvalidField),
    openapi_extra={"parameters": [TICKET_ID]},
)
async def story_of_ticket(request: Request) -> Response:
    """The whole story of a ticket: what was decided and why, what happened afterwards, and whether it was misrouted."""
    state: State = request.app.state.service
    ticket_id = _ticket_id(request)
    try:
        story = await run_in_threadpool(service.find, state.engine, ticket_id)
    except SQLAlchemyError:
        raise StorageUnavailable from None
    if story is None:
        raise NotFound("Nothing is known of this ticket.")
    return Response(story.model_dump_json(by_alias=True), media_type="application/json")


router.routes.extend([*_telling.routes, *_reading.routes])
