"""Who may: scopes on API keys, and the loopback rule for a machine of one's own.

While no key exists and the service is bound to a loopback address, a request that names this machine as its host and came
through no proxy acts as administrator, so that the two commands of the README just work.
"""

import inspect
from collections.abc import Callable, Coroutine
from enum import StrEnum
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from service.errors import Forbidden, StorageUnavailable, TooMany, Unauthorised
from service.state import State

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Scope(StrEnum):
    """What a caller may do."""

    CLASSIFY = "classify"
    OUTCOMES = "outcomes"
    REPORTS = "reports"
    REVIEW = "review"
    ADMIN = "admin"


_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


def is_local(request: Request) -> bool:
    """Whether a request names this machine, shows no sign of a proxy, and was not made by another site's page: that page could
    send a form to localhost, or have its own name lead here (DNS rebinding)."""
    hosts = []
    for name, value in request.scope["headers"]:
        if name == b"host":
            hosts.append(value.decode("latin-1").lower())
        elif (
            name == b"forwarded"
            or name.startswith(b"x-forwarded-")
            or (name == b"sec-fetch-site" and value not in (b"same-origin", b"none") and request.method != "GET")
        ):
            return False
    if len(hosts) != 1:
        return False
    name, colon, port = hosts[0].rpartition(":")
    return (name if colon and port.isdecimal() else hosts[0]) in _LOCAL_NAMES


def check(request: Request, scope: Scope) -> None:
    """Raises Unauthorised, Forbidden, TooMany or StorageUnavailable where the caller may not do what needs `scope`, now."""
    state: State = request.app.state.service
    ring = state.keys
    if not ring.known:
        raise StorageUnavailable
    sent = request.headers.get("authorization")
    if sent is None:
        if ring.empty and state.settings.loopback and is_local(request):
            return  # acts as administrator
        raise Unauthorised
    address = request.client.host if request.client else "?"
    if ring.held_back(address):
        raise TooMany("Too many wrong keys came from your address; wait a minute.", retry_after=60)
    kind, _, secret = sent.partition(" ")
    key = ring.find(secret.strip()) if kind.lower() == "bearer" else None
    if key is None:
        ring.failed(address)
        raise Unauthorised
    if scope not in key.scopes and Scope.ADMIN not in key.scopes:
        raise Forbidden
    if wait := ring.wait(key):
        raise TooMany("This key has used up its requests for now.", retry_after=wait)


class GuardedRoute(APIRoute):
    """A route whose caller must hold `scope`, asked before anything of the request is read."""

    scope: Scope

    @property
    def plain(self) -> bool:
        """Whether the endpoint takes the request and gives a response: FastAPI documents it, but has nothing to parse or to serialise,
        and its way of doing nothing costs as much as a classification."""
        signature = inspect.signature(self.endpoint)
        return list(signature.parameters) == ["request"] and signature.return_annotation is Response

    def get_route_handler(self) -> Handler:
        """The endpoint behind its guard; one that is plain is called as it is."""
        handle: Handler = self.endpoint if self.plain else super().get_route_handler()

        async def guarded(request: Request) -> Response:
            check(request, self.scope)
            return await handle(request)

        return guarded


def needs(scope: Scope) -> type[GuardedRoute]:
    """The route class of a feature all of whose routes need `scope`."""
    return type(f"{scope.value.title()}Route", (GuardedRoute,), {"scope": scope})
