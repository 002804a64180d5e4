"""The OWASP API Security Top 10 of 2023, <https://owasp.org/API-Security/editions/2023/en/0x11-t10/>.

Most risks are a search that walks over all that the application answers and gives what it found wrong, so that a route that is added
later is searched too. That the searches find what they search for is shown in test_owasp_searches.
"""

import ast
import asyncio
import json
import re
import select
import socket
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import pytest

from service.access import Scope
from service.classify.schemas import DecisionOut
from service.database import decisions
from service.errors import ServiceError, TicketConflict
from service.keys import repository
from service.settings import Settings
from tests.security.ways import WITH_BODY, ask, endless, guarded, refused, undocumented, variants, walk
from tests.service.test_limits import HEALTH, at_work
from tests.serving import DATABASES, INCIDENT, QUESTION, ROOT, Service, serving

pytestmark = pytest.mark.anyio

Search = Callable[[Service], Awaitable[list[str]]]
NEEDED: dict[Search, dict[str, Any]] = {}  # the settings that a search needs


async def search(settings: Settings, look: Search) -> list[str]:
    async with serving(settings.model_copy(update=NEEDED.get(look, {}))) as service:
        return await look(service)


# API1: broken object level authorization
#
# The objects are tickets, and they have no owners: the keys belong to one organisation, and whoever may classify may send any ticket.
# What is left to hold is that an id alone tells nothing: not to those who may not ask whether there is such a ticket, and not the text
# or the decision to those who may.


async def told_apart(service: Service) -> list[str]:
    """Ways that give another answer where the ticket exists, to callers who may not ask."""
    assert (await service.classify(ticket_id="T-1", body=INCIDENT)).status_code == 200
    wrong = []
    for way in guarded(service):
        for header in ({}, service.key(*(set(Scope) - {way.scope, Scope.ADMIN}))):
            known, unknown = [await ask(service, way, header, url=way.path(ticket)) for ticket in ("T-1", "T-2")]
            if (known.status_code, known.content) != (unknown.status_code, unknown.content):
                wrong.append(str(way))
    return wrong


async def test_api1_who_may_not_ask_does_not_learn_which_tickets_there_are(settings: Settings) -> None:
    assert await search(settings, told_apart) == []


async def test_api1_an_id_alone_tells_nothing_of_the_ticket(service: Service) -> None:
    """The decision is for who knows the text. A conflict is the same words whatever was stored."""
    owner, other = service.key(Scope.CLASSIFY), service.key(Scope.CLASSIFY)
    for number, text in enumerate((INCIDENT, QUESTION)):
        ticket = {"ticket_id": f"T-{number}", "subject": "from Jane Doe", "body": text, "customer_ref": "C-4711"}
        assert (await service.client.post("/classify", json=ticket, headers=owner)).status_code == 200
    expected = TicketConflict().as_dict()
    for ticket in ({"ticket_id": "T-0", "body": "x"}, {"ticket_id": "T-1", "body": "x"}, {"ticket_id": "T-0", "body": INCIDENT}):
        alone = await service.client.post("/classify", json=ticket, headers=other)
        assert (alone.status_code, alone.json()) == (409, expected)
        together = await service.client.post("/classify/batch", json={"tickets": [ticket]}, headers=other)
        assert together.json() == {"results": [expected]}


# API2: broken authentication
#
# More of it: test_access (which hosts are local ones), test_keys (what is no key, how many wrong ones there may be).

PROXIED = {"Host": "localhost", "X-Forwarded-For": "127.0.0.1"}


async def let_in(service: Service) -> list[str]:
    """Ways that answer who has no key, or none that is good."""
    state = service.app.state.service
    before = {"a proxy, before there was a key": PROXIED}
    if not state.settings.loopback:
        before["another address"] = {"Host": "localhost"}
    wrong = await _let_in(service, before)
    secret, revoked = service.key(*Scope)["Authorization"].removeprefix("Bearer "), service.key(*Scope)
    with state.engine.begin() as connection:
        assert repository.revoke(connection, revoked["Authorization"].split("_")[1], datetime.now(UTC))
    state.keys.refresh()
    after = {
        "no key": {},
        "a proxy": PROXIED,
        "a wrong key": {"Authorization": f"Bearer {secret[:-1]}"},
        "a revoked key": revoked,
        "a key in another place": {"X-API-Key": secret, "Cookie": f"key={secret}", "Proxy-Authorization": f"Bearer {secret}"},
        "a key of another scheme": {"Authorization": f"Basic {secret}"},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.keys.service.FAILURES", 1_000_000)
        return wrong + await _let_in(service, after)


async def _let_in(service: Service, callers: dict[str, dict[str, str]]) -> list[str]:
    wrong = []
    for way in guarded(service):
        for name, headers in callers.items():
            answer = await ask(service, way, headers)
            if not refused(answer, 401, "unauthorised") or answer.headers.get("www-authenticate") != "Bearer":
                wrong.append(f"{way}: {name}")
    return wrong


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104
async def test_api2_what_is_not_public_is_closed_to_who_has_no_good_key(settings: Settings, host: str) -> None:
    assert await search(settings.model_copy(update={"host": host}), let_in) == []


# API3: broken object property level authorization

# Parts of answers whose fields the document leaves open, and why it may.
OPEN_FIELDS = {
    "GET /model: .trained_on.": "what the manifest says of the training: digests and a count",
    "GET /model: .metrics.": "the figures of the training, target by target",
}


async def assigned(service: Service) -> list[str]:
    """Requests that are taken with a field of the decision, or of its row, which is not the client's to say."""
    document, key = service.app.openapi(), service.key(Scope.ADMIN)
    ours = {*DecisionOut.model_fields, *decisions.c.keys(), "decision_id", "action", "kind", "department", "scope"}
    wrong = []
    for way in walk(service.app):
        for sent in variants(way.example, way.schema, document, lambda known: [{name: "auto"} for name in sorted(ours - known)]):
            answer = await ask(service, way, key, content=json.dumps(sent))
            given = answer.json()
            in_place = [result.get("error", {}).get("code") for result in given.get("results", [])]
            if not refused(answer, 422, "unknown_field") and (answer.status_code, in_place) != (200, ["unknown_field"]):
                wrong.append(f"{way}: {sent}")
    return wrong if service.rows() == [] else [*wrong, "something was stored"]


async def test_api3_what_the_service_decides_cannot_be_sent(settings: Settings) -> None:
    assert await search(settings, assigned) == []


async def overexposed(service: Service) -> list[str]:
    """Fields of answers that the document does not have."""
    document, key = service.app.openapi(), service.key(Scope.ADMIN)
    wrong = []
    for way in walk(service.app):
        if way.operation and (answer := await ask(service, way, key)).headers["content-type"] == "application/json":
            described = way.operation["responses"].get(str(answer.status_code), {}).get("content", {}).get("application/json", {})
            wrong += [f"{way}: {field}" for field in undocumented(answer.json(), described.get("schema", {}), document)]
    return [field for field in wrong if not field.startswith(tuple(OPEN_FIELDS))]


async def test_api3_answers_hold_what_is_documented_and_nothing_else(settings: Settings) -> None:
    assert await search(settings, overexposed) == []


# API4: unrestricted resource consumption
#
# More of it: test_limits (who gets a place when), test_bad_input (lengths that lie, batches), test_keys (how a rate is counted).


class Body:
    """A body that goes on for `pieces`, and how many of them were taken."""

    def __init__(self, pieces: int, pause: float = 0) -> None:
        self.pieces, self.pause, self.taken = pieces, pause, 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.taken < self.pieces:
            self.taken += 1
            yield b" " * 4096
            await asyncio.sleep(self.pause)


async def swallowed(service: Service) -> list[str]:
    """Ways that take a body larger than any may be."""
    key, most = service.key(Scope.ADMIN), service.app.state.service.settings.max_batch_bytes
    wrong = []
    for way in walk(service.app):
        if way.method in WITH_BODY:
            body = Body(4 * most // 4096)
            answer = await ask(service, way, key, content=body)
            wrong += [str(way)] if body.taken * 4096 > most and not refused(answer, 413, "too_large") else []
    return wrong


NEEDED[swallowed] = {"max_request_bytes": 65_536, "max_batch_bytes": 65_536}


async def test_api4_every_body_has_a_bound(settings: Settings) -> None:
    assert await search(settings, swallowed) == []


async def waited_for(service: Service) -> list[str]:
    """Ways that wait for a body as long as it takes."""
    key = service.key(Scope.ADMIN)
    wrong = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.body.READ_SECONDS", 0.1)
        for way in walk(service.app):
            if way.method in WITH_BODY:
                body = Body(40, pause=0.05)
                answer = await ask(service, way, key, content=body)
                wrong += [str(way)] if body.taken == body.pieces or (body.taken and not refused(answer, 408, "too_slow")) else []
    return wrong


async def test_api4_no_body_is_waited_for_for_ever(settings: Settings) -> None:
    assert await search(settings, waited_for) == []


async def unlimited(service: Service) -> list[str]:
    """Ways that a key may go as often as it likes."""
    wrong = []
    for way in guarded(service):
        key = service.key(*Scope)
        first, second = await ask(service, way, key), await ask(service, way, key)
        if first.status_code == 429 or not refused(second, 429, "too_many") or int(second.headers["retry-after"]) < 1:
            wrong.append(str(way))
    return wrong


NEEDED[unlimited] = {"rate_per_key": 0.001}


async def test_api4_every_way_counts_on_the_rate_of_its_key(settings: Settings) -> None:
    assert await search(settings, unlimited) == []


async def overfilled(service: Service) -> list[str]:
    """Ways that are taken while the service does as much as it may; health is not among those that may be refused."""
    wrong = []
    async with at_work(service, times=1) as asked:
        for way in walk(service.app):
            answer = await ask(service, way)
            told = refused(answer, 429, "too_many") and answer.headers["retry-after"] == "1"
            wrong += [] if told is (way.template not in HEALTH) else [str(way)]
    assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200]
    return wrong


NEEDED[overfilled] = {"max_in_flight": 1}


async def test_api4_over_the_bound_every_way_says_when_to_come_again(settings: Settings) -> None:
    assert await search(settings, overfilled) == []


async def unbounded(service: Service) -> list[str]:
    """Lists and texts of requests that the document sets no end to."""
    document = service.app.openapi()
    return [f"{way}: {field}" for way in walk(service.app) for field in endless(way.schema, document)]


async def test_api4_every_list_and_text_of_a_request_has_an_end(settings: Settings) -> None:
    assert await search(settings, unbounded) == []


# API5: broken function level authorization


async def open_to_others(service: Service) -> list[str]:
    """Ways that need no scope, or that a key without it may go. That its own is enough, test_keys shows."""
    wrong = []
    for way in guarded(service):
        others = service.key(*(set(Scope) - {way.scope, Scope.ADMIN}))
        if way.scope is None or not refused(await ask(service, way, others), 403, "forbidden"):
            wrong.append(str(way))
    return wrong


async def test_api5_every_way_needs_a_scope_and_no_other_helps(settings: Settings) -> None:
    assert await search(settings, open_to_others) == []


DISGUISES: dict[str, Callable[[str], tuple[str, dict[str, str]]]] = {
    "a slash more": lambda path: (path + "/", {}),
    "two slashes": lambda path: ("http://localhost/" + path, {}),
    "capitals": lambda path: (path.upper(), {}),
    "a query": lambda path: (path + "?key=admin&admin=true", {}),
    "a suffix": lambda path: (path + ".json", {}),
    "a parameter": lambda path: (path + ";.css", {}),
    "below a folder that is open": lambda path: ("/static/%2e%2e" + path, {}),
    "below a path that is open": lambda path: ("/livez/%2e%2e" + path, {}),
    "percents": lambda path: ("/" + "".join(f"%{byte:02x}" for byte in path[1:].encode()), {}),
    "a header that names the path": lambda path: ("/nothing", {"X-Original-URL": path, "X-Rewrite-URL": path}),
    "a header that names the method": lambda path: (path, {"X-HTTP-Method-Override": "GET", "X-HTTP-Method": "GET"}),
}


async def disguised(service: Service) -> list[str]:
    """Ways that open, without a key, under another name."""
    service.key(Scope.ADMIN)
    wrong = []
    for way in guarded(service):
        for name, disguise in DISGUISES.items():
            url, headers = disguise(way.path())
            if (await ask(service, way, headers, url=url)).status_code not in (307, 401, 404, 405):
                wrong.append(f"{way}: {name}")
    return wrong


async def test_api5_no_other_name_of_a_path_goes_round_its_guard(settings: Settings) -> None:
    assert await search(settings, disguised) == []


# API6: unrestricted access to sensitive business flows
#
# The flow that matters is the decision: made once, and never again by whoever sends the ticket again.


@pytest.fixture(params=DATABASES)
async def on_each_database(request: pytest.FixtureRequest, settings: Settings) -> AsyncIterator[Service]:
    async with serving(settings.model_copy(update={"database_url": request.getfixturevalue(request.param)})) as service:
        yield service


async def test_api6_nothing_that_is_sent_again_changes_a_decision(on_each_database: Service) -> None:
    service = on_each_database
    first = await service.classify(ticket_id="T-1", body=QUESTION, customer_ref="C-1")
    stored = service.rows()
    facts = {"customer_tier": "premium", "declared_kind": "incident", "channel": "phone", "language": "de", "customer_ref": "C-2", "country": "DE"}
    for key in (service.key(Scope.CLASSIFY), service.key(Scope.ADMIN)):
        for sent in ({"body": QUESTION} | facts, {"body": INCIDENT}, {"subject": QUESTION, "body": ""}, {"body": QUESTION + " "} | facts):
            ticket = {"ticket_id": "T-1"} | sent
            alone = await service.client.post("/classify", json=ticket, headers=key)
            together = await service.client.post("/classify/batch", json={"tickets": [ticket, ticket]}, headers=key)
            expected = first.json() if sent["body"] == QUESTION else TicketConflict().as_dict()
            assert alone.json() == expected
            assert together.json()["results"] == [expected, expected]
    assert service.rows() == stored


async def test_api6_of_many_at_once_one_decides(on_each_database: Service) -> None:
    service = on_each_database
    answers = await asyncio.gather(*(service.classify(ticket_id="T-1", body=f"{INCIDENT} {number}") for number in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 19
    (decided,) = [answer.json() for answer in answers if answer.status_code == 200]
    (row,) = service.rows()
    assert row["decision_id"] == decided["decision_id"]


# API7: server side request forgery


async def fetched(service: Service) -> list[str]:
    """Ways that follow an address in a request."""
    document, key = service.app.openapi(), service.key(Scope.ADMIN)
    wrong = []
    with closing(socket.create_server(("127.0.0.1", 0))) as bait:
        url = f"http://127.0.0.1:{bait.getsockname()[1]}/"
        texts = [url, f"see {url} <img src='{url}'>", f"<!DOCTYPE a [<!ENTITY b SYSTEM '{url}'>]><a>&b;</a>"]
        lures = key | {"Referer": url, "Origin": url, "X-Forwarded-Host": url[7:-1], "X-Callback-URL": url, "Link": f"<{url}>"}
        query = urlencode({"url": url, "example": url, "next": url})

        def every_field(known: set[str]) -> list[dict[str, Any]]:
            return [{name: text} for name in sorted(known) for text in texts]

        for way in walk(service.app):
            forms = [urlencode({"subject": text, "body": text, "url": text}) for text in texts]
            sent = [*forms, *map(json.dumps, variants(way.example, way.schema, document, every_field))]
            for content in sent if way.method in WITH_BODY else [None]:
                await ask(service, way, lures, content=content, url=f"{way.path(url)}?{query}")
            if select.select([bait], [], [], 0)[0]:
                wrong.append(str(way))
            while select.select([bait], [], [], 0)[0]:
                bait.accept()[0].close()
    return wrong


async def test_api7_no_address_in_a_request_is_followed(settings: Settings) -> None:
    assert await search(settings, fetched) == []


# API8: security misconfiguration
#
# More of it: test_access (what the policy for pages says), test_limits (documents are hidden outside loopback), test_errors (no error
# repeats a ticket), test_serve (the server does not name itself).

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY", "XYZZY"]
ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": r"default-src 'none'; .*frame-ancestors 'none'",
    "x-request-id": r"[0-9a-f]{16}",
}
NEVER = ("server", "x-powered-by", "access-control-")


async def badly_headed(service: Service) -> list[str]:
    """Answers, good and bad, that lack a header that they must have, or have one that they must not."""
    key = service.key(Scope.ADMIN)
    foreign = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    wrong = []
    for way in walk(service.app):
        asked = [ask(service, way, key | foreign, method=method) for method in METHODS]
        asked += [ask(service, way, foreign), ask(service, way, key, content=b"{"), ask(service, way, key, url=way.path() + "/nothing/here")]
        for answer in await asyncio.gather(*asked):
            must = ALWAYS if way.is_file else ALWAYS | {"cache-control": "no-store"}
            lacking = [name for name, value in must.items() if not re.fullmatch(value, ", ".join(answer.headers.get_list(name)))]
            present = [name for name in answer.headers if name.startswith(NEVER)]
            wrong += [f"{way}: {answer.status_code}, {name}" for name in lacking + present]
    return wrong


async def test_api8_every_answer_has_the_security_headers_and_opens_nothing_to_other_sites(settings: Settings) -> None:
    assert await search(settings, badly_headed) == []


INSIDE = "xyzzy-/etc/passwd-4711"


class Failing:
    """In the place of all that the application holds."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"{name} {INSIDE}")


async def talkative(service: Service) -> list[str]:
    """Ways that tell what failed inside."""
    key, state = service.key(Scope.ADMIN), service.app.state.service
    wrong = []
    service.app.state.service = Failing()
    try:
        for way in walk(service.app):
            answer = await ask(service, way, key)
            if INSIDE in answer.text or (answer.status_code >= 400 and answer.json() != ServiceError().as_dict()):
                wrong.append(str(way))
    finally:
        service.app.state.service = state
    return wrong


async def test_api8_no_error_tells_of_the_inside(settings: Settings) -> None:
    assert await search(settings, talkative) == []


# API9: improper inventory management


async def out_of_the_inventory(service: Service) -> list[str]:
    """Ways that neither the document nor the list of pages has; what the document has and nobody answers; ways that hide behind others."""
    ways = [str(way) for way in walk(service.app)]
    documented = {f"{method.upper()} {path}" for path, methods in service.app.openapi()["paths"].items() for method in methods}
    hidden = [str(way) for way in walk(service.app) if not way.is_page and str(way) not in documented]
    return [*hidden, *sorted(documented - set(ways)), *sorted({way for way in ways if ways.count(way) > 1})]


async def test_api9_every_way_is_in_the_document_or_a_page(settings: Settings) -> None:
    assert await search(settings, out_of_the_inventory) == []


async def taken_beside(service: Service) -> list[str]:
    """Methods that a path takes though it does not say so, or refuses in a way of its own. TRACE is among them."""
    key = service.key(Scope.ADMIN)
    said: dict[str, set[str]] = {}
    for way in walk(service.app):
        said.setdefault(way.template, set()).update({"GET", "HEAD"} if way.is_file else {way.method})
    wrong = []
    for way in {way.template: way for way in walk(service.app)}.values():
        for method in METHODS:
            answer = await ask(service, way, key, method=method)
            if method in said[way.template]:
                as_said = answer.status_code != 405
            else:
                as_said = refused(answer, 405, "method_not_allowed") and set(answer.headers["allow"].split(", ")) == said[way.template]
            wrong += [] if as_said else [f"{method} {way.template}: {answer.status_code}, Allow: {answer.headers.get('allow')}"]
    return wrong


async def test_api9_every_path_takes_the_methods_that_it_says_and_no_other(settings: Settings) -> None:
    assert await search(settings, taken_beside) == []


async def silent_about_keys(service: Service) -> list[str]:
    """Operations that need a key, or none, where the document does not say so."""
    document = service.app.openapi()
    schemes = document["components"].get("securitySchemes", {})
    bearers: list[dict[str, list[str]]] = [
        {name: []} for name, scheme in schemes.items() if (scheme["type"], scheme.get("scheme")) == ("http", "bearer")
    ]
    nothing: list[dict[str, list[str]]] = [{}] if service.app.state.service.settings.loopback else []
    wrong = []
    for way in walk(service.app):
        if way.operation:
            said = way.operation.get("security", document.get("security", []))
            wrong += [] if said == ([] if way.is_public else bearers + nothing) and (said or way.is_public) else [str(way)]
    return wrong


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104
async def test_api9_the_document_says_what_needs_a_key(settings: Settings, host: str) -> None:
    assert await search(settings.model_copy(update={"host": host}), silent_about_keys) == []


async def test_api9_the_version_of_the_document_is_the_one_that_runs(service: Service) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert service.app.openapi()["info"]["version"] == project["version"]


# API10: unsafe consumption of APIs
#
# No other service is asked while this one runs. What it does read is checked before it counts: bundles (test_bundle, test_champion),
# the policy (test_policy), and what other systems say of a ticket, such as its language or its moment (test_bad_input).

CLIENTS = {
    "aiohttp", "ftplib", "grpc", "http.client", "httpx", "imaplib", "poplib", "requests", "smtplib", "urllib.request", "urllib3", "xmlrpc",
}  # fmt: skip
RUN_CODE = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve", "skops"}


def imported(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def unsafe(source: str) -> list[str]:
    """Imports of what asks other services, or reads what can run code."""
    return [name for name in imported(source) if {name.split(".")[0], ".".join(name.split(".")[:2])} & (CLIENTS | RUN_CODE)]


@pytest.mark.parametrize("folder", ["model", "service"])
def test_api10_no_other_service_is_asked_and_nothing_that_runs_code_is_read(folder: str) -> None:
    """But for the embeddings server that the operator names; what that may answer is in tests/model/test_encoder.py."""
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    found = {str(file.relative_to(ROOT)): set(names) for file in files if (names := unsafe(file.read_text(encoding="utf-8")))}
    assert found == ({"model/encoder.py": {"httpx"}} if folder == "model" else {})
