"""What becomes of tickets is told by HTTP, kept once, and joined with what was decided."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import sqlalchemy as sa

from service.access import Scope
from service.database import outcomes, stories
from service.outcomes.schemas import LONGEST_REASON, MOST_OUTCOMES
from service.outcomes.service import find
from service.settings import Settings
from tests.serving import DATABASES, INCIDENT, PROMPT, QUESTION, Service, error_of, serving

pytestmark = pytest.mark.anyio

AT = "2026-11-02T10:00:00Z"
PRIVATE = "my colleague Jane Doe knows"


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Whoever else is using the machine, an event is not refused because of that."""
    return settings.model_copy(update={"write_seconds": 20})


def event(event: str = "closed", /, name: str = "e1", at: str = AT, **more: Any) -> dict[str, Any]:
    return {"event_id": name, "at": at, "event": event, "by": "person", **more}


async def tell(service: Service, ticket: str, told: Any, **request: Any) -> httpx.Response:
    return await service.client.post(f"/tickets/{quote(ticket, safe='')}/outcomes", json=told, **request)


async def story(service: Service, ticket: str) -> httpx.Response:
    return await service.client.get(f"/tickets/{quote(ticket, safe='')}")


async def batch(service: Service, *told: Any) -> httpx.Response:
    return await service.client.post("/outcomes/batch", json={"outcomes": told})


def kept(service: Service, table: sa.Table = outcomes) -> list[dict[str, Any]]:
    with service.connect() as connection:
        return [dict(row) for row in connection.execute(sa.select(table)).mappings()]


async def test_an_event_is_told_repeated_and_contradicted(service: Service) -> None:
    decision = (await service.classify(ticket_id="T-1", body=QUESTION)).json()
    labels = {target: answer["label"] for target, answer in decision["labels"].items()}
    moved = event("moved", to="systems", **{"from": labels["department"]}, reason=PRIVATE)
    answers = [await tell(service, "T-1", moved), await tell(service, "T-1", moved)]
    assert [answer.status_code for answer in answers] == [201, 200]
    assert answers[0].json() == answers[1].json()
    assert answers[0].json() == {
        "ticket_id": "T-1", "events": 1, "final": {"kind": labels["kind"], "department": "systems"}, "moves": 1, "closed": False, "misrouted": None,
    }  # fmt: skip
    before = kept(service), kept(service, stories)
    for other in ({"to": "domains"}, {"by": "rule"}, {"reason": None}, {"from": None}, {"at": "2026-11-02T10:00:00.000001Z"}, {"event": "assigned"}):
        refused = await tell(service, "T-1", moved | other)
        assert (refused.status_code, error_of(refused)) == (409, "event_conflict")
        assert PRIVATE not in refused.text
    assert (kept(service), kept(service, stories)) == before

    closed = await tell(service, "T-1", event("closed", "e2", at="2026-11-02T11:00:00Z"))
    assert closed.status_code == 201
    assert (closed.json()["closed"], closed.json()["misrouted"]) == (True, {"kind": False, "department": True})


@pytest.mark.parametrize(
    "spelling", ["2026-11-02T11:00:00+01:00", "2026-11-02T10:00:00.000Z", "2026-11-02 10:00+00:00", "20261102T100000Z", "2026-W45-1T07:30:00-02:30"]
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_same_moment_in_other_letters_is_the_same_event(service: Service, spelling: str) -> None:
    assert (await tell(service, "T-1", event())).status_code == 201
    again = await tell(service, "T-1", event(at=spelling, to=None, reason=None))
    assert (again.status_code, again.json()["events"]) == (200, 1)


async def test_events_of_a_ticket_that_is_not_decided_wait_for_its_decision(service: Service) -> None:
    waiting = await tell(service, "T-1", event("kind_corrected", to="incident"))
    assert waiting.status_code == 201
    assert waiting.json() == {
        "ticket_id": "T-1", "events": 1, "final": {"kind": "incident", "department": None}, "moves": 0, "closed": False, "misrouted": None,
    }  # fmt: skip
    closed = (await tell(service, "T-1", event("closed", "e2", at="2026-11-03T10:00:00Z"))).json()
    assert (closed["closed"], closed["misrouted"]) == (True, None)
    assert (await story(service, "T-1")).json()["decision"] is None
    decided = (await service.classify(ticket_id="T-1", body=QUESTION)).json()
    assert decided["labels"]["kind"]["label"] == "advisory"
    joined = (await tell(service, "T-1", event("closed", "e2", at="2026-11-03T10:00:00Z"))).json()
    assert joined["misrouted"] == {"kind": True, "department": False}
    (row,) = kept(service, stories)
    assert (row["ticket_id"], row["events"], row["kind"], row["final_kind"], row["kind_by"]) == ("T-1", 2, "advisory", "incident", "person")


async def test_the_whole_story_of_a_ticket(service: Service) -> None:
    ticket = {"ticket_id": "T-1", "subject": "<b>", "body": QUESTION, "channel": "web", "created_at": "2026-11-02T08:00:00+01:00"}
    decision = (await service.classify(**ticket)).json()
    department = decision["labels"]["department"]["label"]
    await tell(service, "T-1", event("moved", "e2", at="2026-11-02T12:00:00Z", to="systems", reason=PRIVATE))
    await tell(service, "T-1", event("assigned", "e1", to=department, by="router"))
    found = (await story(service, "T-1")).json()
    assert found["decision"] == decision
    assert (found["subject"], found["body"], found["channel"], found["created_at"]) == ("<b>", QUESTION, "web", "2026-11-02T07:00:00+00:00")
    assert found["events"] == [
        {"event_id": "e1", "at": "2026-11-02T10:00:00+00:00", "event": "assigned", "to": department, "from": None, "by": "router", "reason": None},
        {"event_id": "e2", "at": "2026-11-02T12:00:00+00:00", "event": "moved", "to": "systems", "from": None, "by": "person", "reason": PRIVATE},
    ]
    assert (found["final_department"], found["department_by"], found["moves"], found["course"]) == ("systems", "person", 1, "moved")
    assert (found["wrong_at"], found["right_at"], found["closed_at"]) == ("2026-11-02T10:00:00+00:00", "2026-11-02T12:00:00+00:00", None)
    assert found["misrouted"] is None
    (row,) = kept(service, stories)
    assert {name: row[name] for name in ("placed_in", "placed_by", "course", "wrong_stays")} == {
        name: found[name] for name in ("placed_in", "placed_by", "course", "wrong_stays")
    }
    with service.app.state.service.engine.connect() as connection:
        assert find(connection, "T-1") == find(service.app.state.service.engine, "T-1")

    unknown = await story(service, "T-2")
    assert (unknown.status_code, error_of(unknown)) == (404, "not_found")


async def test_a_batch_is_answered_in_order_and_one_wrong_event_fails_no_other(service: Service) -> None:
    await service.classify(ticket_id="T-1", body=QUESTION)
    moved = {"ticket_id": "T-1"} | event("moved", to="systems")
    answer = await batch(
        service, moved, {"ticket_id": "T-2"} | event(), {"ticket_id": "T-1"} | event("moved", "e2"), moved, moved | {"to": "sales"}, 5
    )
    assert answer.status_code == 200
    first, second, unplaced, again, contradicted, number = answer.json()["results"]
    assert first == again
    assert (first["ticket_id"], first["moves"], second["ticket_id"], second["closed"]) == ("T-1", 1, "T-2", True)
    assert [error_of(wrong) for wrong in (unplaced, contradicted, number)] == ["invalid_field", "event_conflict", "invalid_field"]
    assert unplaced["error"]["field"] == "to"
    assert [row["to_label"] for row in kept(service) if row["ticket_id"] == "T-1"] == ["systems"]


async def test_the_largest_batch_is_taken_and_one_more_is_not(service: Service) -> None:
    told = [{"ticket_id": f"T-{i % 100}"} | event("moved", f"e{i}", to="sales") for i in range(MOST_OUTCOMES)]
    assert len((await batch(service, *told)).json()["results"]) == 256
    more = await batch(service, *told, told[0])
    assert (more.status_code, error_of(more)) == (413, "too_many_outcomes")
    assert (await batch(service)).json() == {"results": []}
    assert len(kept(service)) == 256


AHEAD = (datetime.now(UTC) + timedelta(days=1, minutes=10)).isoformat()
NEARLY = (datetime.now(UTC) + timedelta(hours=23)).isoformat()
WRONG: dict[str, tuple[Any, str, str | None]] = {
    "no object": ([PRIVATE], "invalid_field", None),
    "unknown": (event() | {PRIVATE: 1}, "unknown_field", None),
    "a ticket's id": (event() | {"ticket_id": "T-1"}, "unknown_field", None),
    "its name in Python": (event("moved", to="sales") | {"origin": "hosting"}, "unknown_field", None),
    "no id": ({k: v for k, v in event().items() if k != "event_id"}, "invalid_field", "event_id"),
    "an empty id": (event(name=""), "invalid_field", "event_id"),
    "a number": (event() | {"event_id": 5}, "invalid_field", "event_id"),
    "a long id": (event(name="x" * 201), "event_id_too_long", "event_id"),
    "a control character": (event(name="a\nb"), "invalid_field", "event_id"),
    "no moment": (event(at=PRIVATE), "invalid_field", "at"),
    "a number of seconds": (event() | {"at": 1764000000}, "invalid_field", "at"),
    "no offset": (event(at="2026-11-02T10:00:00"), "invalid_field", "at"),
    "before all": (event(at="0001-01-01T00:00:00+14:00"), "invalid_field", "at"),
    "after all": (event(at="9999-12-31T23:59:59-14:00"), "invalid_field", "at"),
    "more than a day ahead": (event(at=AHEAD), "invalid_field", "at"),
    "no such event": (event(PRIVATE), "invalid_field", "event"),
    "nobody": (event() | {"by": "robot"}, "invalid_field", "by"),
    "assigned nowhere": (event("assigned"), "invalid_field", "to"),
    "moved nowhere": (event("moved", to=None), "invalid_field", "to"),
    "corrected to nothing": (event("kind_corrected"), "invalid_field", "to"),
    "answered somewhere": (event("answered", to="sales"), "invalid_field", "to"),
    "closed somewhere": (event("closed", to="sales"), "invalid_field", "to"),
    "a label with a space": (event("moved", to="sales "), "invalid_field", "to"),
    "an empty label": (event("moved", to=""), "invalid_field", "to"),
    "a long label": (event("moved", to="x" * 201), "to_too_long", "to"),
    "a label with a NUL": (event("moved", to="a\0b"), "invalid_field", "to"),
    "a list": (event("moved", to=["sales"]), "invalid_field", "to"),
    "from a control character": (event("moved", to="sales") | {"from": "a\x7f"}, "invalid_field", "from"),
    "a long reason": (event(reason="x" * (LONGEST_REASON + 1)), "reason_too_long", "reason"),
    "a reason with a NUL": (event(reason="a\0b"), "invalid_field", "reason"),
}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_is_no_event_is_refused_alone_and_in_a_batch(service: Service) -> None:
    for case, (told, code, field) in WRONG.items():
        alone = await tell(service, "T-1", told)
        assert (alone.status_code, error_of(alone), alone.json()["error"].get("field")) == (422, code, field), case
        assert PRIVATE not in alone.text, case
        item = {"ticket_id": "T-1"} | told if isinstance(told, dict) and case != "a ticket's id" else told
        (result,) = (await batch(service, item)).json()["results"]
        if case == "a ticket's id":
            assert "error" not in result
        else:
            assert (error_of(result), result["error"].get("field")) == (code, field), case
            assert PRIVATE not in json.dumps(result), case
    for raw in (b"{", b"\xff", b"[" * 100_000):
        broken = await service.client.post("/tickets/T-1/outcomes", content=raw)
        assert (broken.status_code, error_of(broken)) == (400, "bad_json")
    assert [row["event"] for row in kept(service)] == ["closed"]
    assert (await tell(service, "T-1", event(name="e2", at=NEARLY, reason="in\ntwo lines"))).status_code == 201


HARD = [
    "a/b",
    "a%2Fb",
    "/",
    "//",
    "outcomes",
    "T-1/outcomes",
    "?x=1&y",
    "#",
    "ü 渋谷 💥",
    "..%2f",
    "a\\b",
    "{ticket_id}",
    "%",
    "x" * 200,
    "' OR 1=1 --",
]


async def test_a_tickets_id_may_hold_what_paths_are_made_of(service: Service) -> None:
    for ticket in HARD:
        answer = await tell(service, ticket, event())
        assert (answer.status_code, answer.json().get("ticket_id")) == (201, ticket)
        assert (await story(service, ticket)).json()["ticket_id"] == ticket
    assert sorted(row["ticket_id"] for row in kept(service)) == sorted(HARD)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_is_no_tickets_id_is_refused(service: Service) -> None:
    for path, status, code in (
        ("%0A", 422, "invalid_field"), ("%00", 422, "invalid_field"), ("%FF", 422, "invalid_field"), ("x" * 201, 422, "ticket_id_too_long"),
        ("", 404, "not_found"), ("a/b", 404, "not_found"),
    ):  # fmt: skip
        for answer in (await service.client.post(f"/tickets/{path}/outcomes", json=event()), await service.client.get(f"/tickets/{path}")):
            assert (answer.status_code, error_of(answer)) == (status, code), path
    assert kept(service) == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_who_may_tell_and_who_may_read(service: Service) -> None:
    may: dict[Scope, list[tuple[str, str, Any]]] = {
        Scope.OUTCOMES: [("POST", "/tickets/T-1/outcomes", event()), ("POST", "/outcomes/batch", {"outcomes": [{"ticket_id": "T-1"} | event()]})],
        Scope.REPORTS: [("GET", "/tickets/T-1", None)],
    }
    for scope, ways in may.items():
        good, bad = service.key(scope), service.key(*(set(Scope) - {scope, Scope.ADMIN}))
        for method, path, told in ways:
            statuses = [(await service.client.request(method, path, json=told, headers=headers)).status_code for headers in ({}, bad, good)]
            assert statuses[:2] == [401, 403]
            assert statuses[2] in (200, 201)


async def test_a_database_that_is_held_is_answered_within_a_second_and_nothing_is_stored_afterwards(settings: Settings) -> None:
    async with serving(settings.model_copy(update={"write_seconds": Settings().write_seconds})) as service:
        with held(service):
            since = time.monotonic()
            asked = [tell(service, f"T-{i}", event()) for i in range(5)]
            for answer in await asyncio.gather(*asked, batch(service, {"ticket_id": "T-6"} | event())):
                assert (answer.status_code, error_of(answer), answer.headers["retry-after"]) == (503, "storage_unavailable", "1")
            assert time.monotonic() - since < PROMPT
            assert (await service.client.get("/readyz")).status_code == 503
    async with serving(settings) as service:
        assert (await tell(service, "T-7", event())).status_code == 201
        assert [row["ticket_id"] for row in kept(service)] == ["T-7"]


async def test_after_a_failure_an_outcome_that_is_stored_makes_the_service_ready(service: Service) -> None:
    service.app.state.service.writer.failed("Test")
    assert (await service.client.get("/readyz")).status_code == 503
    assert (await tell(service, "T-1", event())).status_code == 201
    assert (await service.client.get("/readyz")).status_code == 200


@contextmanager
def held(service: Service) -> Iterator[None]:
    """While it lasts, another session writes."""
    with service.connect() as connection:
        postgresql = connection.dialect.name == "postgresql"
        connection.exec_driver_sql("BEGIN" if postgresql else "BEGIN IMMEDIATE")
        if postgresql:
            connection.exec_driver_sql("LOCK TABLE outcomes IN EXCLUSIVE MODE")
        yield
        connection.exec_driver_sql("ROLLBACK")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_decisions_and_outcomes_of_many_requests_take_turns(service: Service) -> None:
    asked = [one for i in range(40) for one in (service.classify(ticket_id=f"T-{i}", body=INCIDENT), tell(service, f"T-{i}", event()))]
    answers = await asyncio.gather(*asked)
    assert [answer.status_code for answer in answers] == [200, 201] * 40
    assert {(row["events"], row["closed_at"] is None) for row in kept(service, stories)} == {(1, False)}


# What people wrote


@pytest.fixture
async def keeping(settings: Settings) -> AsyncIterator[Service]:
    async with serving(settings.model_copy(update={"keep_text_days": 2})) as service:
        yield service


def ago(days: float) -> str:
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()


async def test_reasons_are_forgotten_with_the_text_and_repeats_are_known_all_the_same(keeping: Service) -> None:
    told = event("moved", at=ago(1.9), to="sales", reason=PRIVATE)
    assert (await tell(keeping, "T-1", told)).status_code == 201
    assert (await tell(keeping, "T-2", event("moved", at=ago(1), to="sales", reason=PRIVATE))).status_code == 201
    assert (await tell(keeping, "T-3", event("moved", at=ago(3), to="sales", reason=PRIVATE))).status_code == 201
    reasons = {row["ticket_id"]: row["reason"] for row in kept(keeping)}
    assert reasons == {"T-1": PRIVATE, "T-2": PRIVATE, "T-3": None}  # what is as old as that is not kept to begin with
    past = datetime.now(UTC) - timedelta(days=2, minutes=1)
    keeping.write(sa.update(outcomes).where(outcomes.c.ticket_id == "T-1").values(happened_at=past))
    await keeping.app.state.service.writer.tend()
    assert {row["ticket_id"]: row["reason"] for row in kept(keeping)} == {"T-1": None, "T-2": PRIVATE, "T-3": None}
    assert (await tell(keeping, "T-1", told)).status_code == 200
    assert error_of(await tell(keeping, "T-1", told | {"reason": "another"})) == "event_conflict"
