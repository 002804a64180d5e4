"""One tree of errors: a class fixes the status and the code, one handler gives them all the same shape.

``{"error": {"code": "...", "message": "...", "field"?: "..."}}``. No message repeats what the client sent.
"""

import math
from typing import Any, ClassVar

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route


class ServiceError(Exception):
    """The root: an answer other than the one that was asked for."""

    status: ClassVar[int] = 500
    code: str = "internal"
    message: str = "Something failed inside; the log has it under this request's id."

    def __init__(
        self, message: str | None = None, *, code: str | None = None, field: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message or self.message)
        self.message = message or self.message
        self.code = code or self.code
        self.field = field
        self.headers = headers or {}

    def as_dict(self) -> dict[str, Any]:
        """The body of the answer."""
        error = {"code": self.code, "message": self.message}
        return {"error": error | {"field": self.field} if self.field else error}

    def response(self) -> Response:
        """The answer itself."""
        return Response(orjson.dumps(self.as_dict()), self.status, self.headers, "application/json")


class BadJson(ServiceError):
    """The body is not JSON in UTF-8."""

    status = 400
    code = "bad_json"
    message = "The body must be JSON in UTF-8, nested no deeper than the schema asks for."


class Unauthorised(ServiceError):
    """Nobody that this service knows is asking."""

    status = 401
    code = "unauthorised"
    message = "Send an API key as `Authorization: Bearer <key>`. Without keys the service answers only local requests to localhost."

    def __init__(self) -> None:
        super().__init__(headers={"WWW-Authenticate": "Bearer"})


class Forbidden(ServiceError):
    """The key is valid, but not for this."""

    status = 403
    code = "forbidden"
    message = "This key does not hold the scope that this route needs; `pointsman keys add` makes one that does."


class NotFound(ServiceError):
    """There is nothing at this path."""

    status = 404
    code = "not_found"
    message = "There is nothing at this path."


class MethodNotAllowed(ServiceError):
    """The path is right, the method is not."""

    status = 405
    code = "method_not_allowed"
    message = "This path does not take this method; the Allow header names what it takes."


class TicketConflict(ServiceError):
    """The ticket was decided with other text."""

    status = 409
    code = "ticket_conflict"
    message = "This ticket_id was decided before with another subject or body; send a new ticket_id, or the same text."


class EventConflict(ServiceError):
    """The event was told with other content."""

    status = 409
    code = "event_conflict"
    message = "This event_id of the ticket was told before with other content; send a new event_id, or the same content."


class TooLarge(ServiceError):
    """The body is over the limit."""

    status = 413
    code = "too_large"
    message = "The body is larger than this service takes."


class InvalidField(ServiceError):
    """A field is missing, unknown, of the wrong type or out of range."""

    status = 422
    code = "invalid_field"
    message = "A field is not valid."


class NoText(InvalidField):
    """Neither subject nor body has any text."""

    code = "no_text"
    message = "subject and body are both missing or blank; at least one must have text."


class TooSlow(ServiceError):
    """The body did not arrive in time."""

    status = 408
    code = "too_slow"
    message = "The body did not arrive in time."


class TooMany(ServiceError):
    """More than this caller, or this service, may do at once."""

    status = 429
    code = "too_many"
    message = "The service is doing as much as it can; try again shortly."

    def __init__(self, message: str | None = None, *, retry_after: float = 1.0) -> None:
        super().__init__(message, headers={"Retry-After": str(math.ceil(retry_after))})


class StorageUnavailable(ServiceError):
    """The database cannot be written right now."""

    status = 503
    code = "storage_unavailable"
    message = "What was sent could not be stored in time; send it again, with the same ids, shortly."

    def __init__(self) -> None:
        super().__init__(headers={"Retry-After": "1"})


class ReportTooSlow(ServiceError):
    """The report was not made in time."""

    status = 503
    code = "report_too_slow"
    message = "The report could not be made in time; ask for a shorter period, or again later."


class HeadTooLarge(ServiceError):
    """The request's head is too large."""

    status = 431
    code = "head_too_large"
    message = "The request's head is larger than 64 KiB."


class NotReady(ServiceError):
    """Decisions cannot be made or stored right now."""

    status = 503
    code = "not_ready"
    message = "The last decision could not be stored; the database is away, full or locked."


class ErrorDetail(BaseModel):
    """What went wrong: a stable code to branch on, and a sentence for people."""

    code: str
    message: str
    field: str | None = None


class ErrorBody(BaseModel):
    """The one shape of every error."""

    error: ErrorDetail


def documented(*errors: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer with `errors`."""
    by_status: dict[int | str, list[type[ServiceError]]] = {}
    kinds: tuple[type[ServiceError], ...] = (*errors, Unauthorised, Forbidden, TooMany, StorageUnavailable)
    for error in kinds:
        by_status.setdefault(error.status, []).append(error)
    return {
        status: {"model": ErrorBody, "description": "; ".join(f"`{error.code}`: {error.__doc__}" for error in group)}
        for status, group in by_status.items()
    }


def from_validation(error: ValidationError) -> ServiceError:
    """The first fault that pydantic found, in our words: pydantic's may repeat what was sent."""
    first = error.errors(include_url=False, include_context=True, include_input=False)[0]
    kind, context = first["type"], first.get("ctx", {})
    field = ".".join(str(part) for part in first["loc"]) or None
    if kind.startswith("json_"):
        return BadJson()
    if kind == "extra_forbidden":
        # The name of an unknown field is the client's text, so it is not repeated.
        inside = ".".join(str(part) for part in first["loc"][:-1]) or None
        return InvalidField(
            "There is a field that this request does not have; the API's description lists its fields.", code="unknown_field", field=inside
        )
    if kind == "string_too_long":
        return InvalidField(f"At most {context['max_length']} characters.", code=f"{first['loc'][-1]}_too_long", field=field)
    if kind == "missing":
        return InvalidField("This field is required.", field=field)
    if kind == "value_error":
        return InvalidField(str(context["error"]), field=field)
    return InvalidField(f"{first['msg']}.", field=field)


# What Starlette raises by itself.
_BY_STATUS: dict[int, type[ServiceError]] = {
    400: BadJson, 401: Unauthorised, 404: NotFound, 405: MethodNotAllowed, 413: TooLarge
}  # fmt: skip


def install(app: FastAPI) -> None:
    """Give every error that can be born in `app` the one shape, 404 and 405 included; `service.front` sees to the 500."""

    def answer(request: Request, error: ServiceError) -> Response:
        request.app.state.service.metrics.refused.labels(error.code).inc()
        return error.response()

    async def known(request: Request, error: Exception) -> Response:
        return answer(request, error if isinstance(error, ServiceError) else ServiceError())

    async def invalid(request: Request, error: Exception) -> Response:
        first: Any = error.errors()[0] if isinstance(error, RequestValidationError) else {"loc": (), "msg": InvalidField.message}
        if first.get("type") == "extra_forbidden":  # its name is the client's text
            return answer(
                request,
                InvalidField("There is a parameter that this path does not have; the API's description lists its parameters.", code="unknown_field"),
            )
        field = ".".join(str(part) for part in first["loc"][1:]) or None
        return answer(request, InvalidField(f"{first.get('ctx', {}).get('error', first['msg'])}".rstrip(".") + ".", field=field))

    async def of_starlette(request: Request, error: Exception) -> Response:
        status, headers = (error.status_code, dict(error.headers or {})) if isinstance(error, HTTPException) else (500, {})
        own = _BY_STATUS.get(status, ServiceError)()
        own.headers |= headers
        if status == 405:  # Starlette names the methods of the first route of that path only
            routes = [route for route in app.routes if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE]
            allowed = sorted({method for route in routes for method in route.methods or ()})
            own.headers |= {"Allow": ", ".join(allowed)} if allowed else {}
        return answer(request, own)

    async def unforeseen(_: Request, __: Exception) -> Response:
        return ServiceError().response()  # counted and logged by `service.front`, to which the error is raised again

    app.add_exception_handler(Exception, unforeseen)
    app.add_exception_handler(ServiceError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, of_starlette)


def catalogue() -> str:
    """Every error, for the API's description."""
    kinds: list[type[ServiceError]] = [ServiceError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    lines = [f"- {kind.status} `{kind.code}`: {kind.__doc__ if kind is not ServiceError else 'Something failed inside.'}" for kind in kinds]
    shape = '`{"error": {"code", "message", "field"?}}`'
    return f"Errors have one shape, {shape}, and none repeats ticket text:\n\n" + "\n".join(sorted(set(lines)))
