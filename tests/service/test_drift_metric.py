"""What last week brought, as meters: a change beyond chance is seen at /metrics, and several workers do not multiply it."""

import asyncio
import math
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, get_args

import pytest

from service import database, drift
from service.classify.repository import Record, store
from service.database import microseconds
from service.errors import ReportTooSlow
from service.metrics import DRIFTING, EVENTS, Metrics
from service.outcomes import repository
from service.outcomes.repository import Told
from service.outcomes.story import Event, Kind
from service.reports.drift import changes_of_last_week
from service.settings import Settings
from tests.serving import INCIDENT, ROOT, Service, environment, serving

pytestmark = pytest.mark.anyio

NUMBERS = count()


def decided(at: datetime, **other: Any) -> Record:
    moment = microseconds(at)
    columns: dict[str, Any] = dict.fromkeys(Record._fields) | {
        "decision_id": f"01{next(NUMBERS):024}", "ticket_id": f"T-{next(NUMBERS)}", "text_digest": "0" * 64, "decided_at": moment, "created_at": moment,
        "model_version": "v1", "path": "fast", "language": "fr", "kind": "advisory", "department": "hosting", "kind_confidence": 0.9,
        "department_confidence": 0.9, "action": "auto", "reasons": "", "decision": b"{}",
    }  # fmt: skip
    return Record(**columns | other)


def keep(url: str, records: list[Record], moved: int) -> None:
    """Store decisions; each is closed an hour later, the first `moved` of them after they went to sales."""
    told = []
    for i, record in enumerate(records):
        assert record.ticket_id
        if i < moved:
            told.append(Told(record.ticket_id, Event(record.decided_at + 1, "1", "moved", "sales", None, "person"), "digest"))
        told.append(Told(record.ticket_id, Event(record.decided_at + 3_600_000_000, "2", "closed", None, None, "person"), "digest"))
    engine = database.connect(url)
    database.migrate(engine)
    with engine.begin() as connection:
        store(connection, records)
        repository.add(connection, told, datetime.now(UTC))
        repository.retell(connection, {each.ticket_id for each in told})
    engine.dispose()


def shown(exposition: str, name: str) -> dict[str, float]:
    """The values of a meter with one label, by that label's value."""
    lines = [line for line in exposition.splitlines() if line.startswith(f"{name}{{")]
    return {line.split('"')[1]: float(line.split()[-1]) for line in lines}


@pytest.fixture
def monday() -> datetime:
    """On which last week began."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return today - timedelta(days=today.weekday() + 7)


@pytest.fixture
def changed(sqlite: str, monday: datetime) -> str:
    """A database of five weeks: in the last one Polish came in, the router was unsure, and a quarter of what it had decided was moved."""
    before = [decided(monday - timedelta(days=1 + i % 28, hours=1)) for i in range(400)]
    strange: dict[str, Any] = {"language": "pl", "action": "review", "reasons": "unfamiliar unknown_language", "department_confidence": 0.4}
    last = [decided(monday + timedelta(days=i % 7, hours=1), **(strange if i % 2 else {})) for i in range(200)]
    keep(sqlite, last, moved=50)
    keep(sqlite, before, moved=0)
    return sqlite


async def test_what_changed_last_week_is_seen_at_metrics(settings: Settings, changed: str) -> None:
    async with serving(settings.model_copy(update={"database_url": changed})) as service:
        before = (await service.client.get("/metrics")).text
        assert shown(before, "pointsman_drift") == dict.fromkeys(DRIFTING, 0)
        assert shown(before, "pointsman_misrouted_share") == {}
        await drift.look(service.app.state.service)
        after = (await service.client.get("/metrics")).text
    # The languages that came and that went; a share that changed; nothing of kinds and departments as they were decided.
    assert shown(after, "pointsman_drift") == {
        "language": 2, "kind": 0, "department": 0, "confidence": 1, "unfamiliar": 1, "review": 1, "overridden": 1,
    }  # fmt: skip
    assert shown(after, "pointsman_misrouted_share") == {"department": 0.25, "kind": 0.0}


async def test_a_quiet_service_shows_no_drift_and_no_share(service: Service) -> None:
    await service.classify(ticket_id="T-1", body=INCIDENT)  # of this week
    await drift.look(service.app.state.service)
    found = (await service.client.get("/metrics")).text
    assert shown(found, "pointsman_drift") == dict.fromkeys(DRIFTING, 0)
    shares = shown(found, "pointsman_misrouted_share")
    assert set(shares) == {"department", "kind"}
    assert all(math.isnan(share) for share in shares.values())


async def test_what_was_seen_stays_while_nothing_can_be_seen(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    state = service.app.state.service
    state.metrics.show_week(["kind"], {"kind": 0.5})

    async def too_slow(today: date) -> None:  # noqa: ARG001
        raise ReportTooSlow

    monkeypatch.setattr(state.reports, "last_week", too_slow)
    await drift.look(state)
    found = (await service.client.get("/metrics")).text
    assert shown(found, "pointsman_drift")["kind"] == 1
    assert shown(found, "pointsman_misrouted_share") == {"kind": 0.5}


async def test_a_running_service_looks_by_itself(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[object] = []

    async def look(state: object) -> None:
        looks.append(state)

    monkeypatch.setattr(drift, "FIRST_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(drift, "EVERY_SECONDS", 0.05)
    monkeypatch.setattr(drift, "look", look)
    async with serving(settings) as service:
        async with asyncio.timeout(30):
            while len(looks) < 3:
                await asyncio.sleep(0.01)
        assert looks[-1] is service.app.state.service
    seen = len(looks)
    await asyncio.sleep(0.2)
    assert len(looks) == seen  # it ended with the service


async def test_outcomes_are_counted_once_by_their_event(service: Service) -> None:
    async def tell(event_id: str, event: str, **other: str) -> int:
        told = {"event_id": event_id, "at": "2026-11-22T10:00:00Z", "event": event, "by": "person", **other}
        return (await service.client.post("/tickets/T-1/outcomes", json=told)).status_code

    assert await tell("1", "moved", to="domains") == 201
    assert await tell("1", "moved", to="domains") == 200
    assert await tell("1", "moved", to="sales") == 409
    assert await tell("2", "closed") == 201
    found = shown((await service.client.get("/metrics")).text, "pointsman_outcomes_total")
    assert found == dict.fromkeys(EVENTS, 0) | {"moved": 1, "closed": 1}


def test_the_meters_know_every_event() -> None:
    assert set(EVENTS) == set(get_args(Kind))


def test_the_meters_know_all_that_can_change(changed: str, monday: datetime) -> None:
    """A change of a kind that has no meter would be counted nowhere."""
    incidents = [decided(monday + timedelta(days=i % 7, hours=2), kind="incident", department="network") for i in range(200)]
    keep(changed, incidents, moved=0)
    engine = database.connect(changed)
    with engine.connect() as connection:
        found = {change.what for change in changes_of_last_week(connection, datetime.now(UTC).date())}
    engine.dispose()
    assert found == set(DRIFTING)


WORKERS = """
import os
from service.metrics import Metrics
for looks in (True, True, False):  # the last has just started
    if not os.fork():
        metrics = Metrics()
        if looks:
            metrics.show_week(["language", "language", "review"], {"department": 0.25})
            metrics.count_outcomes(["closed"])
        os._exit(0)
    assert os.wait()[1] == 0
"""


def test_workers_do_not_multiply_what_each_of_them_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-c", WORKERS], check=True, cwd=ROOT, env=environment(PROMETHEUS_MULTIPROC_DIR=str(tmp_path)))
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    found = Metrics().exposition().decode()
    assert shown(found, "pointsman_drift") == dict.fromkeys(DRIFTING, 0) | {"language": 2, "review": 1}
    assert shown(found, "pointsman_misrouted_share") == {"department": 0.25}
    assert shown(found, "pointsman_outcomes_total")["closed"] == 2
