"""Who may ask: over a loopback address only who names this machine and came through no proxy; and the headers of every answer.

The tests walk over the routes that the application has, so that a new one is guarded or fails here.
"""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from selectolax.lexbor import LexborHTMLParser
from starlette.routing import BaseRoute, Mount, Route

from model.router import Router
from service.app import create_app
from service.settings import Settings
from tests.serving import INCIDENT, Service, error_of, serving

pytestmark = pytest.mark.anyio

# What tells nothing of tickets: for the machines that watch the service, and what the pages are made of.
OPEN = {"/livez", "/readyz", "/metrics", "/docs", "/docs/oauth2-redirect", "/openapi.json"}
OPEN_FOLDERS = {"/static", "/static-offline-docs"}

LOCAL = ["localhost", "localhost:8000", "127.0.0.1", "127.0.0.1:8000", "[::1]", "[::1]:8000", "LocalHost:80"]
STRANGERS = [
    {"Host": "evil.example"},
    {"Host": "evil.example:8000"},
    {"Host": "localhost.evil.example"},
    {"Host": "evil.example@localhost"},
    {"Host": "127.0.0.1.evil.example:8000"},
    {"Host": "127.0.0.2"},
    {"Host": "0.0.0.0:8000"},
    {"Host": "192.168.1.7:8000"},
    {"Host": "[::1"},
    {"Host": "::1"},
    {"Host": ""},
    {"X-Forwarded-For": "127.0.0.1"},
    {"X-Forwarded-Host": "localhost"},
    {"X-Forwarded-Proto": "http"},
    {"x-forwarded-anything": ""},
    {"Forwarded": "for=127.0.0.1;host=localhost"},
    {"Forwarded": ""},
    {"Host": "localhost", "forwarded": "for=127.0.0.1"},
]


def every_route() -> Iterator[tuple[str, str]]:
    """Method and path of all that the application answers, parameters filled in; mounted folders by themselves."""
    for context in iter_route_contexts(create_app(Settings()).routes):
        route: BaseRoute = context.original_route
        assert isinstance(route, APIRoute | Route | Mount), f"a kind of route that is not known here: {route}"
        if isinstance(route, Mount):
            assert route.path in OPEN_FOLDERS
            continue
        for method in sorted(context.methods or ()):
            yield method, re.sub(r"\{[^}]*\}", "1", str(context.path))


GUARDED = [(method, path) for method, path in every_route() if path not in OPEN]


def body_for(method: str, path: str) -> bytes | None:
    if method != "POST":
        return None
    if "outcomes" in path:
        return b'{"outcomes": []}' if path.endswith("batch") else b'{"event_id": "e", "at": "2025-11-22T10:00:00Z", "event": "closed", "by": "rule"}'
    return b'{"tickets": []}' if path.endswith("batch") else b'{"body": "server down", "ticket_id": "T-1"}'


def status_for(method: str, path: str) -> int:
    """Of the first answer: nothing is known of any ticket."""
    return {("POST", "/tickets/1/outcomes"): 201, ("GET", "/tickets/1"): 404, ("GET", "/app/tickets/1"): 404, ("GET", "/app"): 303}.get(
        (method, path), 200
    )


def test_there_are_routes_to_guard() -> None:
    assert {("POST", "/classify"), ("POST", "/classify/batch"), ("GET", "/model"), ("GET", "/"), ("POST", "/")} <= set(GUARDED)
    assert {path for _, path in every_route()} >= OPEN


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_a_stranger_is_refused_at_every_route(service: Service, method: str, path: str) -> None:
    for headers in STRANGERS:
        answer = await service.client.request(method, path, content=body_for(method, path), headers=headers)
        assert answer.status_code == 401, headers
        assert error_of(answer) == "unauthorised"
        assert answer.headers["www-authenticate"] == "Bearer"
    assert service.rows() == []


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_this_machine_is_answered_at_every_route(client: httpx.AsyncClient, method: str, path: str) -> None:
    for host in LOCAL:
        answer = await client.request(method, path, content=body_for(method, path), headers={"Host": host})
        assert answer.status_code in (200, status_for(method, path)), host


@pytest.mark.parametrize(("method", "path"), GUARDED)
async def test_without_a_key_an_address_that_others_reach_answers_nobody(settings: Settings, method: str, path: str) -> None:
    async with serving(settings.model_copy(update={"host": "0.0.0.0"})) as service:  # noqa: S104
        answer = await service.client.request(method, path, content=body_for(method, path))
        assert answer.status_code == 401
        assert error_of(answer) == "unauthorised"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "::1", "[::1]", "localhost"])
async def test_every_loopback_address_is_one(settings: Settings, host: str) -> None:
    async with serving(settings.model_copy(update={"host": host})) as service:
        assert (await service.classify(body=INCIDENT)).status_code == 200


@pytest.mark.parametrize("path", ["/classify", "/classify/batch", "/"])
async def test_a_stranger_learns_nothing_from_what_is_wrong_with_the_body(client: httpx.AsyncClient, path: str) -> None:
    answers = [await client.post(path, content=body, headers={"Host": "evil.example"}) for body in (b"{", b"{}", b" " * 2_000_000)]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.content for answer in answers}) == 1


@pytest.mark.parametrize("path", sorted(OPEN))
async def test_what_watches_the_service_may_be_anywhere(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path, headers={"Host": "evil.example", "X-Forwarded-For": "192.0.2.1"})).status_code == 200


# Headers

ANSWERS = [
    *((status_for(method, path), method, path, body_for(method, path)) for method, path in every_route() if method in ("GET", "POST")),
    (200, "GET", "/static/style.css", None),
    (200, "GET", "/static-offline-docs/swagger-ui.css", None),
    (307, "POST", "/classify/", b"{}"),
    (400, "POST", "/classify", b"{"),
    (404, "GET", "/nothing/here", None),
    (404, "GET", "/static/nothing.css", None),
    (405, "GET", "/classify", None),
    (405, "POST", "/static/style.css", b""),
    (413, "POST", "/classify", b" " * 2_000_000),
    (422, "POST", "/classify", b"{}"),
    (500, "POST", "/classify", b'{"body": "make it fail"}'),
]


@pytest.mark.parametrize(("status", "method", "path", "body"), ANSWERS, ids=lambda value: None if isinstance(value, bytes) else str(value))
async def test_every_answer_has_the_security_headers(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, status: int, method: str, path: str, body: bytes | None
) -> None:
    if status == 500:
        monkeypatch.setattr(Router, "answer", None)
    answer = await client.request(method, path, content=body)
    assert answer.status_code == status
    for name, value in (("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer"), ("cross-origin-resource-policy", "same-origin")):
        assert answer.headers.get_list(name) == [value]
    (policy,) = answer.headers.get_list("content-security-policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == "'none'"
    assert "http" not in policy
    assert ("unsafe-inline" in policy) is (path == "/docs")
    assert "unsafe-eval" not in policy
    assert answer.headers.get_list("x-request-id")[0]
    assert "server" not in answer.headers


async def test_a_stranger_gets_the_security_headers_too(client: httpx.AsyncClient) -> None:
    answer = await client.post("/classify", json={"body": INCIDENT}, headers={"Host": "evil.example"})
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-request-id"]


async def test_every_request_has_an_id_of_its_own(client: httpx.AsyncClient) -> None:
    ids = [(await client.get("/livez", headers={"X-Request-Id": "mine"})).headers["x-request-id"] for _ in range(5)]
    assert len(set(ids)) == 5
    assert "mine" not in ids


async def test_what_is_decided_is_in_no_cache(service: Service) -> None:
    assert (await service.classify(body=INCIDENT)).headers["cache-control"] == "no-store"


async def test_no_other_site_may_read_the_answers(client: httpx.AsyncClient) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    for answer in (await client.options("/classify", headers=asked), await client.post("/classify", json={"body": INCIDENT}, headers=asked)):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_the_docs_are_loaded_from_nowhere_else(client: httpx.AsyncClient) -> None:
    answer = await client.get("/docs")
    assert not re.search(r"https?:|['\"(]//", answer.text)
    page = LexborHTMLParser(answer.text)
    loaded = [str(node.attributes[name]) for name in ("src", "href") for node in page.css(f"[{name}]")]
    assert len(loaded) >= 3
    for link in [*loaded, "/openapi.json"]:
        parts = urlsplit(link)
        assert (parts.scheme, parts.netloc) == ("", "")
        found = await client.get(link)
        assert found.status_code == 200, link
        if link.endswith(".css"):
            assert not re.search(r"@import|url\((?!['\"]?data:)", found.text)
