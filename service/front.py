"""What stands in front of every route: a bound on the requests at work, the request's id, its measurement, security headers.

One plain ASGI layer: Starlette's BaseHTTPMiddleware would cost more than a classification. For the same reason the plain routes
(`service.access`) are called from here, past the layers and the router in between, which do nothing for them.
"""

import os
import time
from collections.abc import Sequence
from itertools import count

import structlog
from fastapi import FastAPI, Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access import GuardedRoute
from service.errors import ServiceError, TooMany
from service.metrics import Metrics

log = structlog.get_logger()

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_ALWAYS_ANSWERED = ("/livez", "/readyz", "/metrics")
_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_STRICT = b"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
# Swagger UI starts itself from a script in its page and styles itself.
_DOCS = b"default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"


class Front:
    """The layer itself."""

    def __init__(self, app: ASGIApp, routes: Sequence[BaseRoute], metrics: Metrics, max_in_flight: int) -> None:
        self.app = app
        self.plain = {
            (method, route.path): (route, route.get_route_handler())
            for route in routes
            if isinstance(route, GuardedRoute) and route.plain and "{" not in route.path
            for method in route.methods or ()
        }
        self.metrics = metrics
        self.max_in_flight = max_in_flight
        self.in_flight = 0
        self.process = os.urandom(4).hex().encode()  # request ids differ between processes, and are counted within one
        self.count = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = b"%s%08x" % (self.process, next(self.count))
        policy = _DOCS if scope["path"] == "/docs" else _STRICT
        status = 500
        begun = False
        if scope["path"].startswith("/static"):
            # Small files, given whole: parts of them are errors that Starlette words in its own way.
            scope["headers"] = [(name, value) for name, value in scope["headers"] if name not in (b"range", b"if-range")]

        async def with_headers(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                begun = True
                status = message["status"]
                message["headers"] = [*message["headers"], *_ALWAYS, (b"content-security-policy", policy), (b"x-request-id", request_id)]
            await send(message)

        full = self.in_flight >= self.max_in_flight and scope["path"] not in _ALWAYS_ANSWERED
        self.in_flight += 1
        self.metrics.in_flight.inc()
        try:
            if full:
                raise TooMany
            if plain := self.plain.get((scope["method"], scope["path"])):
                scope["route"], handle = plain
                response = await handle(Request(scope, receive))
                await response(scope, receive, with_headers)
            else:
                await self.app(scope, receive, with_headers)
        except ServiceError as error:
            self.metrics.refused.labels(error.code).inc()
            await error.response()(scope, receive, with_headers)
        except Exception as error:
            # Answered and logged here: further out, the server would print the error's own text, which may be a ticket's.
            log.error("unforeseen", request_id=request_id.decode(), error=type(error).__name__, where=_where(error))
            self.metrics.refused.labels(ServiceError.code).inc()
            if not begun:
                await ServiceError().response()(scope, receive, with_headers)
        finally:
            self.in_flight -= 1
            self.metrics.in_flight.dec()
            # A path that no route has is the client's own text, and there may be any number of them.
            route = getattr(scope.get("route"), "path", "unknown")
            method = scope["method"] if route != "unknown" and scope["method"] in _METHODS else "any"
            self.metrics.count_request(route, method, status, time.perf_counter() - started)


def _where(error: Exception) -> str:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else "?"


def install(app: FastAPI, metrics: Metrics, max_in_flight: int) -> None:
    """Put the layer in front of `app`, whose routes and error handlers are complete by now; as a middleware it would stand behind three
    layers of FastAPI's own, which do nothing for the plain routes."""
    app.middleware_stack = Front(app.build_middleware_stack(), app.routes, metrics, max_in_flight)
