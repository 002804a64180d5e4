"""The searches of test_owasp_api_2023 find what they search for: each is tried on an application with routes that nobody should write."""

import asyncio
import re
import socket
from contextlib import suppress
from typing import Any
from urllib.parse import unquote_plus

import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict
from starlette.endpoints import HTTPEndpoint
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute

from service.access import Scope, needs
from service.app import create_app
from service.settings import Settings
from tests.security import test_owasp_api_2023 as owasp
from tests.security.ways import walk
from tests.serving import serving

pytestmark = pytest.mark.anyio


class LooseIn(BaseModel):
    """It forbids no field, and sets no end to its list."""

    model_config = ConfigDict(json_schema_extra={"example": {"notes": ["a"]}})
    notes: list[str]


class LooseOut(BaseModel):
    done: bool


async def open_(item: str) -> dict[str, str]:
    """Without a guard, and another answer for each item."""
    return {"item": item}


async def greedy(request: Request) -> Response:
    """Reads without an end, follows addresses, tells what failed, opens itself to other sites."""
    said = unquote_plus((await request.body()).decode(errors="replace"))
    for port in set(re.findall(r"http://127\.0\.0\.1:(\d+)/", said)):
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", int(port)), timeout=1).close()
    try:
        version = request.app.state.service.router.version
    except RuntimeError as error:
        return JSONResponse({"detail": str(error)}, 500)
    return JSONResponse({"version": version}, headers={"Access-Control-Allow-Origin": "*", "Server": "mine", "Referrer-Policy": "origin"})


async def loose(sent: LooseIn) -> JSONResponse:
    """With a guard, but with more in its answer than it says."""
    return JSONResponse({"done": bool(sent), "digest": "0"})


async def stubborn() -> Response:
    """Refuses what it says that it takes."""
    return JSONResponse({"detail": "no"}, 405)


def spoil(app: FastAPI) -> None:
    app.add_api_route("/open/{item}", open_)
    app.add_api_route("/greedy", greedy, methods=["POST"], include_in_schema=False)
    app.add_api_route("/TAXONOMY", open_, include_in_schema=False)
    app.add_api_route("/stubborn", stubborn)
    features = APIRouter(route_class=needs(Scope.CLASSIFY))
    features.add_api_route("/loose", loose, methods=["POST"], response_model=LooseOut)
    features.add_api_route("/model", stubborn)
    app.include_router(features)
    below = FastAPI()
    below.add_api_route("/open/{item}", open_)
    app.mount("/below", below)


FAULTS: dict[owasp.Search, set[str]] = {
    owasp.told_apart: {"GET /open/{item}", "GET /below/open/{item}"},
    owasp.let_in: {"GET /open/{item}: a revoked key", "POST /greedy: a proxy", "GET /below/open/{item}: no key"},
    owasp.assigned: {"POST /loose: {'notes': ['a'], 'action': 'auto'}"},
    owasp.overexposed: {"POST /loose: .digest"},
    owasp.swallowed: {"POST /greedy", "POST /loose"},
    owasp.waited_for: {"POST /greedy", "POST /loose"},
    owasp.unlimited: {"POST /greedy", "GET /open/{item}"},
    owasp.unbounded: {"POST /loose: .notes", "POST /loose: .notes.*"},
    owasp.open_to_others: {"POST /greedy", "GET /open/{item}"},
    owasp.disguised: {"GET /taxonomy: capitals"},
    owasp.fetched: {"POST /greedy"},
    owasp.badly_headed: {f"POST /greedy: 200, {name}" for name in ("access-control-allow-origin", "server", "referrer-policy")},
    owasp.talkative: {"POST /greedy"},
    owasp.out_of_the_inventory: {"POST /greedy", "GET /below/open/{item}", "GET /model"},
    owasp.taken_beside: {"GET /stubborn: 405, Allow: None"},
    owasp.silent_about_keys: {"POST /loose", "GET /open/{item}"},
}


@pytest.mark.parametrize("look", FAULTS, ids=lambda look: look.__name__)
async def test_a_search_finds_its_faults(settings: Settings, look: owasp.Search) -> None:
    async with serving(settings.model_copy(update=owasp.NEEDED.get(look, {}))) as service:
        spoil(service.app)
        assert FAULTS[look] <= set(await look(service))


async def test_a_service_without_a_bound_is_found(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound on requests at work stands in front of all routes, so no route can spoil it."""
    monkeypatch.setattr("service.front._ALWAYS_ANSWERED", ("/livez", "/readyz", "/metrics", "/model"))
    assert await owasp.search(settings, owasp.overfilled) == ["GET /model"]


async def anything(*_: Any) -> None:
    await asyncio.sleep(0)


UNKNOWN: list[BaseRoute] = [WebSocketRoute("/ws", anything), Mount("/apart", anything), Route("/every/method", HTTPEndpoint)]


@pytest.mark.parametrize("route", UNKNOWN, ids=lambda route: type(route).__name__)
def test_a_route_that_cannot_be_searched_is_not_passed_over(route: BaseRoute) -> None:
    app = create_app(Settings())
    app.routes.append(route)
    with pytest.raises(AssertionError):
        walk(app)


def test_imports_that_are_not_safe_are_found() -> None:
    source = "import pickle, json\nfrom http import client\nimport urllib.request\nfrom urllib.parse import quote\nfrom httpx import get"
    assert owasp.unsafe(source) == ["pickle", "http.client", "urllib.request", "httpx.get"]
