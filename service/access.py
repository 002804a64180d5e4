"""Who may: scopes on API keys, and the loopback rule for a machine of one's own.

While no key exists and the service is bound to a loopback address, a request that names this machine as its host and came
through no proxy acts as administrator, so that the two commands of the README just work.
"""

import inspect
from collections.abc import Callable, Coroutine
from enum import StrEnum
from ipaddress import ip_address
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from service.errors import Unauthorised

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Scope(StrEnum):
    """What a caller may do."""

    CLASSIFY = "classify"
    OUTCOMES = "outcomes"
    REPORTS = "reports"
    REVIEW = "review"
    ADMIN = "admin"


_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


def is_loopback(host: str) -> bool:
    """Whether a service bound to `host` is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_local(request: Request) -> bool:
    """Whether a request names this machine and shows no sign of a proxy (another site's page could name itself anything, but
    not this host: that stops DNS rebinding)."""
    headers = request.scope["headers"]
    host = ""
    for name, value in headers:
        if name == b"host":
            host = value.decode("latin-1").lower()
        elif name == b"forwarded" or name.startswith(b"x-forwarded-"):
            return False
    name, colon, port = host.rpartition(":")
    if colon and port.isdecimal():
        host = name
    return host in _LOCAL_NAMES


def check(request: Request, scope: Scope) -> None:
    """Raises Unauthorised where the caller does not hold `scope`."""
    settings = request.app.state.service.settings
    if not (is_loopback(settings.host) and is_local(request)):
        raise Unauthorised(headers={"WWW-Authenticate": "Bearer"})


class GuardedRoute(APIRoute):
    """A route whose caller must hold `scope`, asked before anything of the request is read."""

    scope: Scope

    def get_route_handler(self) -> Handler:
        """The endpoint behind its guard. One that takes the request and gives a response is called as it is: FastAPI documents it,
        but has nothing to parse or to serialise, and its way of doing nothing costs as much as a classification."""
        signature = inspect.signature(self.endpoint)
        plain = list(signature.parameters) == ["request"] and signature.return_annotation is Response
        handle: Handler = self.endpoint if plain else super().get_route_handler()

        async def guarded(request: Request) -> Response:
            check(request, self.scope)
            return await handle(request)

        return guarded


def needs(scope: Scope) -> type[GuardedRoute]:
    """The route class of a feature all of whose routes need `scope`."""
    return type(f"{scope.value.title()}Route", (GuardedRoute,), {"scope": scope})
