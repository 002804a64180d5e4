"""Who may: scopes on API keys, and the loopback rule for a machine of one's own.

While no key exists and the service is bound to a loopback address, a request that names this machine as its host and came
through no proxy acts as administrator, so that the two commands of the README just work.
"""

from enum import StrEnum
from ipaddress import ip_address

from fastapi import Request

from service.errors import Unauthorised


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


class Needs:
    """A dependency of routes: the caller must hold `scope`."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope

    async def __call__(self, request: Request) -> None:
        settings = request.app.state.service.settings
        if not (is_loopback(settings.host) and is_local(request)):
            raise Unauthorised(headers={"WWW-Authenticate": "Bearer"})
