"""What the service refuses so that it goes on: too much at once, and bodies that never end. And documents that are not for all."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from typing import Any

import httpx
import pytest
from selectolax.lexbor import LexborHTMLParser

from model.router import Router
from service.access import Scope
from service.app import create_app
from service.body import READ_SECONDS
from service.settings import Settings
from tests.service.test_health import sample
from tests.serving import INCIDENT, PROMPT, Service, error_of, listening, serving

pytestmark = pytest.mark.anyio

HEALTH = ["/livez", "/readyz", "/metrics"]
BODIES = {"/classify": {"body": INCIDENT}, "/classify/batch": {"tickets": [{"body": INCIDENT}]}, "/": {"body": INCIDENT}}
SLOW = 0.15  # seconds that a body may take, in these tests
MOST = 3


class Held:
    """A body that ends when a test lets it."""

    def __init__(self, path: str) -> None:
        self.whole = json.dumps(BODIES[path]).encode()
        self.begun, self.ended = asyncio.Event(), asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.whole[:5]
        self.begun.set()
        await self.ended.wait()
        yield self.whole[5:]


@asynccontextmanager
async def at_work(service: Service, path: str = "/classify", times: int = MOST) -> AsyncIterator[list[asyncio.Task[httpx.Response]]]:
    """Requests that the service works on, until the end."""
    bodies = [Held(path) for _ in range(times)]
    asked = [asyncio.create_task(service.client.post(path, content=body)) for body in bodies]
    try:
        async with asyncio.timeout(5):
            await asyncio.gather(*(body.begun.wait() for body in bodies))
        yield asked
    finally:
        for body in bodies:
            body.ended.set()


@pytest.fixture
async def narrow(settings: Settings) -> AsyncIterator[Service]:
    """A service that works on few requests at once."""
    async with serving(settings.model_copy(update={"max_in_flight": MOST})) as service:
        yield service


# At once


@pytest.mark.parametrize("path", BODIES)
async def test_over_the_bound_a_request_is_told_at_once_to_come_again(narrow: Service, path: str) -> None:
    async with at_work(narrow, path) as asked:
        since = time.perf_counter()
        for refused in [await narrow.classify(body=INCIDENT), await narrow.batch({"body": INCIDENT}), await narrow.client.get("/model")]:
            assert refused.status_code == 429
            assert error_of(refused) == "too_many"
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.headers["x-content-type-options"] == "nosniff"
            assert refused.headers["x-request-id"]
        assert time.perf_counter() - since < PROMPT
        assert await sample(narrow.client, "pointsman_refused_total", code="too_many") == 3
    assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}
    assert len(narrow.rows()) == (0 if path == "/" else MOST)


async def test_up_to_the_bound_requests_are_answered(narrow: Service) -> None:
    async with at_work(narrow, times=MOST - 1) as asked:
        for _ in range(2):
            assert (await narrow.classify(body=INCIDENT)).status_code == 200
    assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}


async def test_over_the_bound_those_who_watch_are_answered(narrow: Service) -> None:
    async with at_work(narrow) as asked:
        for path in HEALTH:
            assert [(await narrow.client.get(path)).status_code for _ in range(5)] == [200] * 5
    assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}


async def test_those_who_watch_take_nobodys_place(narrow: Service) -> None:
    await asyncio.gather(*(narrow.client.get(path) for path in HEALTH * 20))
    assert (await narrow.classify(body=INCIDENT)).status_code == 200


async def test_a_place_is_free_again_however_its_request_ended(narrow: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.body.READ_SECONDS", SLOW)
    for _ in range(MOST + 1):
        assert (await narrow.client.post("/classify", content=b"{")).status_code == 400
        assert (await narrow.client.get("/nowhere")).status_code == 404
        assert (await narrow.client.post("/classify", content=b" " * 2_000_000)).status_code == 413
    with monkeypatch.context() as patch:
        patch.setattr(Router, "answer", None)
        assert [(await narrow.classify(body=INCIDENT)).status_code for _ in range(MOST + 1)] == [500] * (MOST + 1)
    async with at_work(narrow) as slow:
        assert [answer.status_code for answer in await asyncio.gather(*slow)] == [408] * MOST
    async with at_work(narrow) as asked:
        for task in asked:
            task.cancel()  # the client is gone
        await asyncio.gather(*asked, return_exceptions=True)
    for _ in range(MOST + 1):
        assert (await narrow.client.get("/model")).status_code == 200
    assert len(narrow.rows()) == 0


# Slow bodies


async def drip(whole: bytes, pause: float) -> AsyncIterator[bytes]:
    for place in range(0, len(whole), 20):
        yield whole[place : place + 20]
        await asyncio.sleep(pause)


@pytest.mark.parametrize("path", BODIES)
async def test_a_body_that_trickles_is_given_up(service: Service, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a piece of it arrives."""
    monkeypatch.setattr("service.body.READ_SECONDS", SLOW)
    whole = json.dumps(BODIES[path]).encode().ljust(20_000)
    since = time.perf_counter()
    answer = await service.client.post(path, content=drip(whole, SLOW / 10))
    assert SLOW <= time.perf_counter() - since < SLOW + 1
    assert answer.status_code == 408
    assert error_of(answer) == "too_slow"
    assert service.rows() == []
    assert await sample(service.client, "pointsman_refused_total", code="too_slow") == 1


@pytest.mark.parametrize("path", BODIES)
async def test_a_body_that_takes_its_time_but_arrives_is_read(service: Service, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.body.READ_SECONDS", 5)
    assert (await service.client.post(path, content=drip(json.dumps(BODIES[path]).encode(), SLOW / 5))).status_code == 200


def test_a_body_may_take_some_seconds_and_no_more() -> None:
    """A proxy may be slow; who sends a byte now and then must not hold a place for ever."""
    assert 5 <= READ_SECONDS <= 30


@pytest.mark.parametrize("sent", [b"", b'{"body": "x'])
def test_a_connection_that_says_no_more_is_closed(settings: Settings, sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.protocol.HEAD_SECONDS", SLOW)  # to the first of the body
    monkeypatch.setattr("service.body.READ_SECONDS", SLOW)
    with listening(create_app(settings)) as port, closing(socket.create_connection(("127.0.0.1", port), timeout=5)) as client:
        client.sendall(b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n" + sent)
        answer = b""
        with suppress(ConnectionResetError):
            while piece := client.recv(4096):
                answer += piece
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in answer.lower()
        assert answer.count(b"HTTP/1.1") == 1
        assert httpx.get(f"http://localhost:{port}/livez").status_code == 200


# Documents


DOCUMENTS = ["/docs", "/openapi.json", "/docs/oauth2-redirect", "/static-offline-docs/swagger-ui.css", "/static-offline-docs/swagger-ui-bundle.js"]
HIDDEN: list[dict[str, Any]] = [{"docs": "off"}, {"host": "0.0.0.0"}, {"docs": "off", "host": "192.0.2.1"}, {"host": "::"}]  # noqa: S104
SHOWN: list[dict[str, Any]] = [{}, {"docs": "on"}, {"host": "::1"}, {"docs": "on", "host": "0.0.0.0"}]  # noqa: S104


@pytest.mark.parametrize("changed", SHOWN, ids=str)
async def test_the_documents_are_shown(settings: Settings, changed: dict[str, Any]) -> None:
    async with serving(settings.model_copy(update=changed)) as service:
        for path in DOCUMENTS:
            assert (await service.client.get(path)).status_code == 200, path
        assert "/classify" in (await service.client.get("/openapi.json")).json()["paths"]


@pytest.mark.parametrize("changed", HIDDEN, ids=str)
async def test_hidden_documents_are_nowhere(settings: Settings, changed: dict[str, Any]) -> None:
    async with serving(settings.model_copy(update=changed)) as service:
        for headers in ({}, service.key(Scope.ADMIN)):
            for path in [*DOCUMENTS, "/redoc", "/docs/", "/openapi.yaml"]:
                answer = await service.client.get(path, headers=headers)
                assert answer.status_code == 404, path
                assert error_of(answer) == "not_found"
                assert "/classify" not in answer.text
        assert (await service.client.post("/classify", json={"body": INCIDENT}, headers=headers)).status_code == 200


@pytest.mark.parametrize("docs", ["on", "off"])
async def test_no_page_and_no_error_leads_to_documents_that_are_hidden(settings: Settings, docs: str) -> None:
    async with serving(settings.model_copy(update={"docs": docs})) as service:
        page = LexborHTMLParser((await service.client.get("/")).text)
        links = [str(node.attributes["href"]) for node in page.css("a[href]")]
        for link in {*links, *(["/docs"] if "/docs" in (await service.client.get("/nowhere")).text else [])}:
            assert (await service.client.get(link)).status_code == 200, link
