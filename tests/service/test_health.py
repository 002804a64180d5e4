"""`/livez`, `/readyz` and `/metrics`: for machines, open to every one of them."""

import asyncio
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.settings import Settings
from tests.serving import INCIDENT, QUESTION, Service, error_of, serving

pytestmark = pytest.mark.anyio


async def sample(client: httpx.AsyncClient, name: str, **labels: str) -> float:
    """The sum of the samples `name` whose labels include `labels`."""
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found = [one for family in text_string_to_metric_families(answer.text) for one in family.samples if one.name == name]
    return sum(one.value for one in found if labels.items() <= one.labels.items())


async def test_the_process_is_alive(client: httpx.AsyncClient) -> None:
    answer = await client.get("/livez")
    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})


async def test_it_is_ready_with_the_model_that_serves(client: httpx.AsyncClient, home: Path) -> None:
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ready", "model_version": home.name, "reload_error": None})


async def test_it_is_alive_but_not_ready_while_decisions_cannot_be_stored(service: Service) -> None:
    with service.locked():
        assert (await service.classify(body=INCIDENT)).status_code == 503
        answer = await service.client.get("/readyz")
        assert answer.status_code == 503
        assert error_of(answer) == "not_ready"
        assert (await service.client.get("/livez")).status_code == 200
        assert await sample(service.client, "pointsman_ready") == 0
    assert (await service.classify(body=INCIDENT)).status_code == 200
    assert (await service.client.get("/readyz")).status_code == 200
    assert await sample(service.client, "pointsman_ready") == 1


async def test_it_is_ready_again_without_a_request_that_tries(service: Service) -> None:
    """A load balancer sends no tickets to a service that is not ready: waiting for one would be waiting for ever."""
    with service.locked():
        assert (await service.classify(body=INCIDENT)).status_code == 503
    for _ in range(30):
        answer = await service.client.get("/readyz")
        if answer.status_code == 200:
            break
        await asyncio.sleep(0.1)
    assert answer.status_code == 200


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
async def test_every_machine_may_ask(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path, headers={"Host": "pointsman.internal:9090", "X-Forwarded-For": "192.0.2.1"})
    assert answer.status_code == 200


async def test_decisions_are_counted_by_what_they_say(service: Service) -> None:
    decision = (await service.classify(body=QUESTION)).json()
    told = {"action": decision["action"], "path": "fast", "language": "pt", "model_version": decision["model_version"]}
    assert await sample(service.client, "pointsman_decisions_total", **told) == 1
    await service.batch({"body": QUESTION}, {"body": " "}, {"body": QUESTION})
    assert await sample(service.client, "pointsman_decisions_total", **told) == 3
    assert await sample(service.client, "pointsman_decisions_total") == 3
    for target in ("kind", "department"):
        assert await sample(service.client, "pointsman_labels_total", target=target, label=decision["labels"][target]["label"]) == 3
        assert await sample(service.client, "pointsman_confidence_count", target=target) == 3
    assert await sample(service.client, "pointsman_written_together_sum") == 3
    assert await sample(service.client, "pointsman_stage_seconds_count", stage="write") == 2
    for stage in ("clean", "classify", "queue"):
        assert await sample(service.client, "pointsman_stage_seconds_count", stage=stage) == 2
    assert await sample(service.client, "pointsman_in_flight") == 1  # the one that asks


async def test_requests_are_counted_by_route_and_status(service: Service) -> None:
    await service.classify(body=QUESTION)
    await service.classify(body="")
    await service.client.get("/classify")
    for method, status in (("POST", "200"), ("POST", "422"), ("GET", "405")):
        assert await sample(service.client, "pointsman_requests_total", route="/classify", method=method, status=status) == 1
    assert await sample(service.client, "pointsman_request_seconds_count", route="/classify") == 3


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "bad_json"),
        (b'{"body": ""}', "no_text"),
        (b'{"body": "x", "chanel": "web"}', "unknown_field"),
        (b'{"body": "x", "channel": "fax"}', "invalid_field"),
        (b'{"body": "x", "ticket_id": "T-1"}', "ticket_conflict"),
        (b" " * 2_000_000, "too_large"),
    ],
)
async def test_what_is_refused_is_counted_by_its_code(service: Service, body: bytes, code: str) -> None:
    await service.classify(ticket_id="T-1", body=INCIDENT)
    assert error_of(await service.client.post("/classify", content=body)) == code
    assert await sample(service.client, "pointsman_refused_total", code=code) == 1


async def test_decisions_that_could_not_be_stored_are_counted_as_refused(service: Service) -> None:
    with service.locked():
        assert (await service.classify(body=INCIDENT)).status_code == 503
    assert await sample(service.client, "pointsman_refused_total", code="storage_unavailable") == 1


async def test_what_a_client_makes_up_is_no_label(client: httpx.AsyncClient) -> None:
    """Anyone could fill the memory with series that are counted once."""
    await client.get("/made-up-path")
    await client.request("MADEUP", "/classify")
    await client.request("MADEUP", "/livez")
    exposed = (await client.get("/metrics")).text.lower()
    assert "made-up-path" not in exposed
    assert "madeup" not in exposed


async def test_metrics_tell_nothing_of_tickets(service: Service) -> None:
    canary = "xyzzy-canary"
    ticket = dict.fromkeys(("ticket_id", "subject", "body", "declared_kind", "customer_tier", "customer_ref"), canary)
    assert (await service.classify(**ticket)).status_code == 200
    assert canary not in (await service.client.get("/metrics")).text


async def test_two_applications_count_apart(service: Service, settings: Settings) -> None:
    async with serving(settings) as other:
        await other.classify(body=INCIDENT)
        assert await sample(other.client, "pointsman_decisions_total") == 1
        assert await sample(service.client, "pointsman_decisions_total") == 0


async def test_the_model_that_serves_is_named(client: httpx.AsyncClient) -> None:
    version = (await client.get("/model")).json()["version"]
    assert await sample(client, "pointsman_model_info", version=version) == 1
    assert await sample(client, "pointsman_model_info") == 1
