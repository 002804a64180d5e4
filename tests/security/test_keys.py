"""What a key may: its scopes at every route that needs one, so often and no oftener; and what wrong keys lead to."""

import hashlib
import re
from collections.abc import Iterator
from types import SimpleNamespace

import httpx
import pytest
from fastapi.routing import iter_route_contexts

from service.access import Scope
from service.app import create_app
from service.keys.service import FAILURES
from service.settings import Settings
from tests.serving import INCIDENT, Service, error_of, serving

pytestmark = pytest.mark.anyio


def guarded_routes() -> Iterator[tuple[str, str, Scope]]:
    """Method, path (parameters filled in) and scope of all routes that need one."""
    for context in iter_route_contexts(create_app(Settings()).routes):
        scope = getattr(context.original_route, "scope", None)
        if scope is not None:
            for method in sorted(context.methods or ()):
                yield method, re.sub(r"\{[^}]*\}", "1", str(context.path)), scope


GUARDED = list(guarded_routes())
EVERY_ROUTE = pytest.mark.parametrize(("method", "path", "scope"), GUARDED, ids=[f"{method} {path}" for method, path, _ in GUARDED])
HEALTH = ["/livez", "/readyz", "/metrics"]
LOCAL = ["localhost", "127.0.0.1:8000", "[::1]"]


async def ask(service: Service, method: str, path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    """A request that the route takes, or one that it finds fault with after it let the caller in."""
    body = {"tickets": [{"body": INCIDENT}]} if path.endswith("/batch") else {"body": INCIDENT}
    return await service.client.request(method, path, json=body if method != "GET" else None, headers=headers)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The clock of the key ring: it stands still until a test moves `now`."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("service.keys.service.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_there_are_routes_that_need_a_scope() -> None:
    assert {("POST", "/classify", Scope.CLASSIFY), ("POST", "/classify/batch", Scope.CLASSIFY), ("GET", "/model", Scope.CLASSIFY)} <= set(GUARDED)


# Scopes


@EVERY_ROUTE
async def test_a_route_is_open_to_its_scope_and_to_no_other(service: Service, method: str, path: str, scope: Scope) -> None:
    for held in Scope:
        answer = await ask(service, method, path, service.key(held))
        if held in (scope, Scope.ADMIN):
            assert answer.status_code < 500, held
            assert answer.status_code not in (401, 403, 429), held
        else:
            assert answer.status_code == 403, held
            assert error_of(answer) == "forbidden"


@EVERY_ROUTE
async def test_without_the_scope_nothing_helps(service: Service, method: str, path: str, scope: Scope) -> None:
    others = [other for other in Scope if other not in (scope, Scope.ADMIN)]
    for held in ([], others):
        assert (await ask(service, method, path, service.key(*held))).status_code == 403
    assert (await ask(service, method, path)).status_code == 401
    assert (await ask(service, method, path, {"Authorization": "Bearer pm_00000000_wrong"})).status_code == 401
    assert service.rows() == []


@pytest.mark.parametrize(("method", "path"), [(method, path) for method, path, scope in GUARDED if scope is Scope.CLASSIFY])
async def test_one_of_several_scopes_is_enough(service: Service, method: str, path: str) -> None:
    assert (await ask(service, method, path, service.key(Scope.REPORTS, Scope.CLASSIFY))).status_code == 200


async def test_a_caller_that_may_not_learns_nothing_from_what_is_wrong_with_the_body(service: Service) -> None:
    header = service.key(Scope.REPORTS)
    answers = [await service.client.post("/classify", content=body, headers=header) for body in (b"{", b"{}", b" " * 2_000_000)]
    assert {answer.status_code for answer in answers} == {403}
    assert len({answer.content for answer in answers}) == 1


# Keys, right and wrong


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_scheme_is_of_any_case(service: Service, scheme: str) -> None:
    """RFC 9110, section 11.1."""
    secret = service.key(Scope.CLASSIFY)["Authorization"].removeprefix("Bearer ")
    assert (await service.client.get("/model", headers={"Authorization": f"{scheme} {secret}"})).status_code == 200


async def test_nothing_but_the_key_itself_opens(service: Service) -> None:
    secret = service.key(Scope.ADMIN)["Authorization"].removeprefix("Bearer ")
    _, key_id, chance = secret.split("_", 2)
    stored = hashlib.sha256(secret.encode()).hexdigest()
    wrong = ["", "Bearer", secret, f"Basic {secret}", *(f"Bearer {tried}" for tried in (secret[:-1], secret + "x", stored, key_id, chance))]
    assert len(wrong) < FAILURES
    for header in wrong:
        answer = await service.client.get("/model", headers={"Authorization": header})
        assert answer.status_code == 401, header
        assert error_of(answer) == "unauthorised"
        assert answer.headers["www-authenticate"] == "Bearer"
    assert (await service.client.get("/model", params={"key": secret, "api_key": secret, "access_token": secret})).status_code == 401
    assert (await service.client.get("/model", headers={"X-API-Key": secret, "Cookie": f"key={secret}"})).status_code == 401
    assert (await service.client.get("/model", headers={"Authorization": f"Bearer {secret}"})).status_code == 200


async def test_with_a_key_the_caller_may_be_anywhere(service: Service) -> None:
    header = service.key(Scope.CLASSIFY) | {"Host": "pointsman.example", "X-Forwarded-For": "192.0.2.1"}
    assert (await ask(service, "POST", "/classify", header)).status_code == 200


@EVERY_ROUTE
async def test_an_address_that_others_reach_never_acts_by_the_loopback_rule(
    settings: Settings, method: str, path: str, scope: Scope
) -> None:  # fmt: skip
    async with serving(settings.model_copy(update={"host": "0.0.0.0"})) as service:  # noqa: S104
        for host in LOCAL:
            assert (await ask(service, method, path, {"Host": host})).status_code == 401
        header = service.key(scope)
        for host in LOCAL:
            assert (await ask(service, method, path, {"Host": host})).status_code == 401
            assert (await ask(service, method, path, header | {"Host": host})).status_code not in (401, 403)


# Wrong keys


async def wrong_keys(client: httpx.AsyncClient, times: int) -> None:
    for _ in range(times):
        answer = await client.get("/model", headers={"Authorization": "Bearer pm_00000000_wrong"})
        assert answer.status_code == 401


async def test_ten_wrong_keys_hold_an_address_back(service: Service, clock: SimpleNamespace) -> None:
    header = service.key(Scope.ADMIN)
    elsewhere = httpx.AsyncClient(transport=httpx.ASGITransport(service.app, client=("192.0.2.7", 4711)), base_url="http://localhost")
    assert FAILURES == 10
    await wrong_keys(service.client, 9)
    assert (await service.client.get("/model", headers=header)).status_code == 200
    await wrong_keys(service.client, 1)
    for tried in (header, {"Authorization": "Bearer pm_00000000_wrong"}):
        held_back = await ask(service, "POST", "/classify", tried)
        assert held_back.status_code == 429
        assert error_of(held_back) == "too_many"
        assert 1 <= int(held_back.headers["retry-after"]) <= 60
    for path in HEALTH:
        assert (await service.client.get(path)).status_code == 200
        assert (await service.client.get(path, headers=header)).status_code == 200
    assert service.rows() == []

    async with elsewhere:
        assert (await elsewhere.get("/model", headers=header)).status_code == 200

    clock.now += int(held_back.headers["retry-after"]) + 1
    assert (await ask(service, "POST", "/classify", header)).status_code == 200
    await wrong_keys(service.client, 9)


async def test_wrong_keys_now_and_then_hold_nobody_back(service: Service, clock: SimpleNamespace) -> None:
    header = service.key(Scope.CLASSIFY)
    for _ in range(3 * FAILURES):  # never ten in a minute
        await wrong_keys(service.client, 1)
        clock.now += 7
    assert (await service.client.get("/model", headers=header)).status_code == 200


async def test_a_key_without_the_scope_is_not_a_wrong_one(service: Service) -> None:
    header = service.key(Scope.REPORTS)
    for _ in range(FAILURES + 1):
        assert (await service.client.get("/model", headers=header)).status_code == 403


async def test_no_key_is_not_a_wrong_one(service: Service) -> None:
    header = service.key(Scope.CLASSIFY)
    for _ in range(FAILURES + 1):
        assert (await service.client.get("/model")).status_code == 401
    assert (await service.client.get("/model", headers=header)).status_code == 200


async def test_the_memory_of_wrong_keys_is_bounded(service: Service, clock: SimpleNamespace) -> None:
    ring = service.app.state.service.keys
    for number in range(20_000):
        ring.failed(f"192.0.2.{number}")
        clock.now += 0.001
    assert len(ring._failures) <= 10_000
    for _ in range(FAILURES):
        ring.failed("192.0.2.19999")
    assert ring.held_back("192.0.2.19999")


# Rates


@pytest.mark.parametrize(("rate", "at_once", "wait"), [(3.0, 3, 1), (0.1, 1, 10)])
async def test_a_key_may_ask_so_often(settings: Settings, clock: SimpleNamespace, rate: float, at_once: int, wait: int) -> None:
    async with serving(settings.model_copy(update={"rate_per_key": rate})) as service:
        header, other = service.key(Scope.CLASSIFY), service.key(Scope.CLASSIFY)
        for _ in range(2):
            for _ in range(at_once):
                assert (await ask(service, "POST", "/classify", header)).status_code == 200
            answer = await ask(service, "POST", "/classify", header)
            assert answer.status_code == 429
            assert error_of(answer) == "too_many"
            assert answer.headers["retry-after"] == str(wait)
            for path in HEALTH:
                assert (await service.client.get(path, headers=header)).status_code == 200
            clock.now += at_once / rate  # as many as before may be asked again
        assert (await ask(service, "POST", "/classify", other)).status_code == 200
        assert len(service.rows()) == 2 * at_once + 1


async def test_who_waits_as_long_as_told_is_answered(settings: Settings, clock: SimpleNamespace) -> None:
    async with serving(settings.model_copy(update={"rate_per_key": 0.3})) as service:
        header = service.key(Scope.CLASSIFY)
        assert (await service.client.get("/model", headers=header)).status_code == 200
        for _ in range(3):
            refused = await service.client.get("/model", headers=header)
            assert refused.status_code == 429
            clock.now += int(refused.headers["retry-after"])
            assert (await service.client.get("/model", headers=header)).status_code == 200


async def test_who_asks_all_the_time_gets_the_rate(settings: Settings, clock: SimpleNamespace) -> None:
    async with serving(settings.model_copy(update={"rate_per_key": 5.0})) as service:
        header = service.key(Scope.CLASSIFY)
        answered = 0
        for _ in range(400):
            answered += (await service.client.get("/model", headers=header)).status_code == 200
            clock.now += 0.01
        assert 20 <= answered <= 26  # four seconds of five, and the five at once of the beginning


async def test_without_a_rate_a_key_may_ask_as_often_as_it_likes(service: Service, clock: SimpleNamespace) -> None:
    assert clock.now
    header = service.key(Scope.CLASSIFY)
    answers = [await service.client.get("/model", headers=header) for _ in range(50)]
    assert {answer.status_code for answer in answers} == {200}


async def test_this_machine_without_a_key_has_no_rate(settings: Settings) -> None:
    async with serving(settings.model_copy(update={"rate_per_key": 1.0})) as service:
        answers = [await service.client.get("/model") for _ in range(5)]
        assert {answer.status_code for answer in answers} == {200}
