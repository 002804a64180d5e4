"""Every place where an error can be born gives the one shape, and none repeats what the customer wrote: not in the answer,
not in the log."""

import asyncio
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from model.router import Router
from service.app import create_app
from service.errors import HeadTooLarge, ServiceError
from service.keys.service import FAILURES, make
from service.settings import Settings
from tests.serving import Service, error_of, listening, wait_until

pytestmark = pytest.mark.anyio

CANARY = "xyzzy-canary-4711"
TICKET = {"ticket_id": CANARY, "subject": CANARY, "body": CANARY, "customer_ref": CANARY, "declared_kind": CANARY, "customer_tier": CANARY}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def ask(method: str, path: str, content: Any = None, **headers: str) -> Callable[[Service], Awaitable[httpx.Response]]:
    """A request; `content` as it is where it is bytes, else as JSON."""
    sent = content if content is None or isinstance(content, bytes) else json.dumps(content).encode()
    return lambda service: service.client.request(method, path, content=sent, headers=headers)


async def conflict(service: Service) -> httpx.Response:
    assert (await service.classify(**TICKET)).status_code == 200
    return await service.classify(**TICKET | {"body": CANARY + CANARY})


EVENT = {"event_id": CANARY, "at": "2025-11-22T10:00:00Z", "event": "moved", "to": CANARY, "by": "person", "reason": CANARY}


async def event_conflict(service: Service) -> httpx.Response:
    assert (await service.client.post("/tickets/T-1/outcomes", json=EVENT)).status_code == 201
    return await service.client.post("/tickets/T-1/outcomes", json=EVENT | {"reason": CANARY + CANARY})


async def outcome_stored_nowhere(service: Service) -> httpx.Response:
    with service.locked():
        return await service.client.post(f"/tickets/{CANARY}/outcomes", json=EVENT)


async def stored_nowhere(service: Service) -> httpx.Response:
    with service.locked():
        return await service.classify(**TICKET)


async def batch_stored_nowhere(service: Service) -> httpx.Response:
    with service.locked():
        return await service.batch(TICKET)


async def table_gone(service: Service) -> httpx.Response:
    service.write(sa.text("DROP TABLE decisions"))
    return await service.classify(**TICKET)


async def not_ready(service: Service) -> httpx.Response:
    with service.locked():
        await service.classify(**TICKET)
        return await service.client.get("/readyz")


def broken(_: Router, texts: list[str], *__: Any, **___: Any) -> None:
    raise RuntimeError(f"cannot read {texts}")


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """All that went through the standard logging, but for what the client of the tests says itself."""
    return "".join(caplog.handler.format(record) for record in caplog.records if not record.name.startswith("httpx"))


def failing(method: str, path: str, content: Any) -> Callable[[Service], Awaitable[httpx.Response]]:
    """A request during which the model raises an exception that repeats the text."""

    async def fail(service: Service) -> httpx.Response:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Router, "answer", broken)
            return await ask(method, path, content)(service)

    return fail


async def story_fails(service: Service) -> httpx.Response:
    """On a route with a part of the path in it, which goes past more of FastAPI's own layers."""

    def unforeseen(*_: Any) -> None:
        raise RuntimeError(f"cannot read {CANARY}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.outcomes.repository.find_ticket", unforeseen)
        return await service.client.get(f"/tickets/{CANARY}")


def one(**fields: Any) -> Callable[[Service], Awaitable[httpx.Response]]:
    return ask("POST", "/classify", TICKET | fields)


async def without_the_scope(service: Service) -> httpx.Response:
    state = service.app.state.service
    _, secret = make(state.engine, CANARY, frozenset({"reports"}))
    state.keys.refresh()
    return await service.client.post("/classify", json=TICKET, headers={"authorization": f"Bearer {secret}"})


async def after_many_wrong_keys(service: Service) -> httpx.Response:
    for _ in range(FAILURES):
        assert (await service.client.post("/classify", json=TICKET, headers={"authorization": f"Bearer {CANARY}"})).status_code == 401
    return await service.client.post("/classify", json=TICKET, headers={"authorization": f"Bearer {CANARY}"})


async def too_slow(service: Service) -> httpx.Response:
    async def drip() -> AsyncIterator[bytes]:
        yield f'{{"body": "{CANARY}'.encode()
        await asyncio.sleep(0.5)
        yield b'"}'

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.body.READ_SECONDS", 0.05)
        return await service.client.post("/classify", content=drip())


async def report_too_slow(service: Service) -> httpx.Response:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service.app.state.service.reports, "_deadline", 0.0)
        return await service.client.get(f"/reports/misroutes?language={CANARY}")


CASES: dict[str, tuple[int, str, Callable[[Service], Awaitable[httpx.Response]]]] = {
    "no JSON": (400, "bad_json", ask("POST", "/classify", CANARY.encode())),
    "JSON that ends early": (400, "bad_json", ask("POST", "/classify", f'{{"body": "{CANARY}'.encode())),
    "JSON not in UTF-8": (400, "bad_json", ask("POST", "/classify", f'{{"body": "{CANARY}ÿ"}}'.encode("latin-1"))),
    "half a surrogate pair": (400, "bad_json", ask("POST", "/classify", f'{{"body": "{CANARY}\\ud800"}}'.encode())),
    "a batch that is no JSON": (400, "bad_json", ask("POST", "/classify/batch", f'{{"tickets": [{CANARY}]}}'.encode())),
    "a stranger": (401, "unauthorised", ask("POST", "/classify", TICKET, host=f"{CANARY}.example")),
    "a stranger's batch": (401, "unauthorised", ask("POST", "/classify/batch", {"tickets": [TICKET]}, forwarded=f"for={CANARY}")),
    "a stranger at the page": (401, "unauthorised", ask("POST", "/", f"body={CANARY}".encode(), host=CANARY, **FORM)),
    "no such path": (404, "not_found", ask("GET", f"/{CANARY}?{CANARY}={CANARY}")),
    "no such file": (404, "not_found", ask("GET", f"/static/{CANARY}.css")),
    "outside of the folder": (404, "not_found", ask("GET", f"/static/%2e%2e/{CANARY}")),
    "NUL in a path": (404, "not_found", ask("GET", f"/static/{CANARY}%00")),
    "not by this method": (405, "method_not_allowed", ask("PUT", "/classify", TICKET)),
    "not by a method that nobody knows": (405, "method_not_allowed", ask("XYZZY", "/model")),
    "a file is not written": (405, "method_not_allowed", ask("POST", "/static/style.css", TICKET)),
    "a key that may not": (403, "forbidden", without_the_scope),
    "many wrong keys": (429, "too_many", after_many_wrong_keys),
    "a body that trickles": (408, "too_slow", too_slow),
    "another text": (409, "ticket_conflict", conflict),
    "another event": (409, "event_conflict", event_conflict),
    "an unknown ticket": (404, "not_found", ask("GET", f"/tickets/{CANARY}")),
    "many outcomes": (413, "too_many_outcomes", ask("POST", "/outcomes/batch", {"outcomes": [EVENT] * 257})),
    "an event to nowhere": (422, "invalid_field", ask("POST", f"/tickets/{CANARY}/outcomes", EVENT | {"to": None})),
    "an event at no time": (422, "invalid_field", ask("POST", f"/tickets/{CANARY}/outcomes", EVENT | {"at": CANARY})),
    "a locked database for an outcome": (503, "storage_unavailable", outcome_stored_nowhere),
    "a report that takes long": (503, "report_too_slow", report_too_slow),
    "a report of no day": (422, "invalid_field", ask("GET", f"/reports/misroutes?from={CANARY}")),
    "a report by nothing": (422, "unknown_field", ask("GET", f"/reports/misroutes?{CANARY}={CANARY}")),
    "a large body": (413, "too_large", ask("POST", "/classify", {"body": CANARY * 100_000})),
    "a large batch": (413, "too_large", ask("POST", "/classify/batch", {"tickets": [{"body": CANARY * 1_000_000}]})),
    "a large form": (413, "too_large", ask("POST", "/", b"body=" + CANARY.encode() * 100_000, **FORM)),
    "many tickets": (413, "too_many_tickets", ask("POST", "/classify/batch", {"tickets": [TICKET] * 257})),
    "no object": (422, "invalid_field", ask("POST", "/classify", [CANARY])),
    "an unknown field": (422, "unknown_field", one(**{CANARY: CANARY})),
    "a wrong type": (422, "invalid_field", one(body={CANARY: CANARY})),
    "not a number": (422, "invalid_field", ask("POST", "/classify", f'{{"subject": "{CANARY}", "body": NaN}}'.encode())),
    "a long subject": (422, "subject_too_long", one(subject=CANARY * 100)),
    "a long body": (422, "body_too_long", one(body=CANARY * 12_000)),
    "a long id": (422, "ticket_id_too_long", one(ticket_id=CANARY * 20)),
    "a control character": (422, "invalid_field", one(ticket_id=CANARY + "\n")),
    "no language": (422, "invalid_field", one(language=CANARY)),
    "no channel": (422, "invalid_field", one(channel=CANARY)),
    "no country": (422, "invalid_field", one(country=CANARY)),
    "no time": (422, "invalid_field", one(created_at=CANARY)),
    "a time without a zone": (422, "invalid_field", one(created_at="2026-11-01T10:00:00")),
    "a time before all times": (422, "invalid_field", one(created_at="0001-01-01T00:00:00+14:00")),
    "a time after all times": (422, "invalid_field", one(created_at="9999-12-31T23:59:59-14:00")),
    "no text": (422, "no_text", one(subject=" ", body="\n")),
    "no tickets": (422, "invalid_field", ask("POST", "/classify/batch", {})),
    "tickets that are no list": (422, "invalid_field", ask("POST", "/classify/batch", {"tickets": {CANARY: TICKET}})),
    "a batch with more than tickets": (422, "unknown_field", ask("POST", "/classify/batch", {"tickets": [], CANARY: CANARY})),
    "a form with many fields": (422, "invalid_field", ask("POST", "/", "&".join(f"{CANARY}{i}=1" for i in range(9)).encode(), **FORM)),
    "a form not in UTF-8": (422, "invalid_field", ask("POST", "/", f"body={CANARY}ÿ".encode("latin-1"), **FORM)),
    "the model fails": (500, "internal", failing("POST", "/classify", TICKET)),
    "the model fails in a batch": (500, "internal", failing("POST", "/classify/batch", {"tickets": [TICKET]})),
    "the model fails at the page": (500, "internal", failing("POST", "/", f"body={CANARY}".encode())),
    "a story that fails": (500, "internal", story_fails),
    "a locked database": (503, "storage_unavailable", stored_nowhere),
    "a locked database in a batch": (503, "storage_unavailable", batch_stored_nowhere),
    "a database without tables": (503, "storage_unavailable", table_gone),
    "after a locked database": (503, "not_ready", not_ready),
}


@pytest.mark.parametrize("case", CASES)
async def test_an_error_has_the_one_shape_and_repeats_nothing(
    service: Service, case: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    status, code, make = CASES[case]
    with caplog.at_level(logging.DEBUG):
        answer = await make(service)
    assert answer.status_code == status
    assert error_of(answer) == code
    said = "".join(capfd.readouterr())
    for place in (answer.text, str(answer.headers), said, logged(caplog)):
        assert CANARY not in place
        assert "Traceback" not in place
    assert "Error" not in answer.text  # no exception's name
    if status == 500:
        assert "RuntimeError" in said
        assert answer.headers["x-request-id"] in said


@pytest.mark.parametrize("wanted", ["bytes=999999-", f"bytes={CANARY}", CANARY, "bytes=5-1"])
@pytest.mark.parametrize("path", ["/static/style.css", "/static-offline-docs/swagger-ui.css"])
async def test_a_part_of_a_file_that_cannot_be_given_is_no_exception(client: httpx.AsyncClient, path: str, wanted: str) -> None:
    """RFC 9110, section 14.2: the whole file may be given instead."""
    answer = await client.get(path, headers={"Range": wanted})
    if answer.status_code != 200:
        assert error_of(answer)
        assert CANARY not in answer.text


def test_every_error_of_the_tree_is_among_the_cases() -> None:
    def codes(error: type[ServiceError]) -> Iterator[str]:
        yield error.code
        for child in error.__subclasses__():
            yield from codes(child)

    only_on_a_socket = {HeadTooLarge.code}  # tests/security/test_connections.py
    assert set(codes(ServiceError)) <= {code for _, code, _ in CASES.values()} | only_on_a_socket


async def test_errors_in_a_batch_have_the_one_shape_and_repeat_nothing(service: Service) -> None:
    wrong: list[Any] = [
        CANARY, None, [TICKET], {}, {"body": " "}, TICKET | {CANARY: 1}, TICKET | {"body": 5}, TICKET | {"subject": CANARY * 100},
        TICKET | {"language": CANARY}, TICKET | {"channel": CANARY}, TICKET | {"created_at": CANARY}, TICKET, TICKET | {"body": CANARY * 2},
    ]  # fmt: skip
    answer = await service.batch(*wrong)
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert len(results) == len(wrong)
    decided = results.pop(-2)
    assert decided["ticket_id"] == CANARY
    for result in results:
        assert error_of(result)
        assert CANARY not in json.dumps(result)


def test_the_log_of_a_server_repeats_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A server logs the exceptions that reach it, each with its message and all the way that it came."""
    with listening(create_app(settings)) as port:
        monkeypatch.setattr(Router, "answer", broken)
        answer = httpx.post(f"http://localhost:{port}/classify", json=TICKET)
    assert answer.status_code == 500
    assert error_of(answer) == "internal"
    said = "".join(capfd.readouterr())
    assert "RuntimeError" in said
    assert CANARY not in said
    assert CANARY not in logged(caplog)


def test_a_client_that_leaves_while_it_sends_is_no_failure_of_ours(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    with listening(create_app(settings)) as port:
        with closing(socket.create_connection(("127.0.0.1", port))) as client:
            client.sendall(b"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{" + CANARY.encode())
            time.sleep(0.1)
        wait_until(lambda: 'route="/classify"' in httpx.get(f"http://localhost:{port}/metrics").text, "it is counted")
        assert 'status="500"' not in httpx.get(f"http://localhost:{port}/metrics").text
    assert "".join(capfd.readouterr()) == ""
