"""What was answered is on the disk; what could not be stored was not decided; text is forgotten in time."""

import asyncio
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from service.database import decisions
from service.settings import Settings
from tests.serving import DATABASES, INCIDENT, PROMPT, QUESTION, Service, error_of, serving

pytestmark = pytest.mark.anyio


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


@contextmanager
def without_tables(service: Service) -> Iterator[None]:
    service.write(sa.text("ALTER TABLE decisions RENAME TO away"))
    yield
    service.write(sa.text("ALTER TABLE away RENAME TO decisions"))


FAILURES = [Service.locked, without_tables]


async def timed(asked: Awaitable[httpx.Response]) -> tuple[httpx.Response, float]:
    since = time.perf_counter()
    answer = await asked
    return answer, time.perf_counter() - since


async def test_what_was_answered_can_be_read_by_everyone(service: Service) -> None:
    async def ask(i: int) -> None:
        answer = (await service.classify(ticket_id=f"T-{i}", subject=f"number {i}", body=INCIDENT)).json()
        # At once, before the event loop does anything else.
        (row,) = [row for row in service.rows() if row["ticket_id"] == f"T-{i}"]
        assert row["decision_id"] == answer["decision_id"]
        assert (row["subject"], row["body"]) == (f"number {i}", INCIDENT)

    await asyncio.gather(*map(ask, range(40)))
    assert len(service.rows()) == 40


async def test_the_same_ticket_asked_many_times_at_once_is_decided_once(service: Service) -> None:
    answers = await asyncio.gather(*(service.classify(ticket_id="T-1", body=INCIDENT) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len(service.rows()) == 1


async def test_of_two_texts_asked_at_once_one_is_decided_and_one_conflicts(service: Service) -> None:
    answers = await asyncio.gather(*(service.classify(ticket_id="T-1", body=body) for body in (INCIDENT, QUESTION)))
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    (row,) = service.rows()
    decided = next(answer.json() for answer in answers if answer.status_code == 200)
    assert row["decision_id"] == decided["decision_id"]


async def test_two_processes_decide_a_ticket_once(settings: Settings) -> None:
    patient = settings.model_copy(update={"write_seconds": 20.0})  # as long as a busy machine's disk may need
    async with serving(patient) as one, serving(patient) as other:
        for i in range(10):
            answers = await asyncio.gather(*(each.classify(ticket_id=f"T-{i}", body=INCIDENT) for each in (one, other)))
            assert [answer.status_code for answer in answers] == [200, 200]
            assert answers[0].json() == answers[1].json()
        assert len(one.rows()) == 10


@pytest.mark.parametrize("failing", FAILURES)
async def test_a_database_that_fails_is_answered_within_a_second_and_recovers(
    service: Service, failing: Callable[[Service], AbstractContextManager[None]]
) -> None:
    assert (await service.classify(ticket_id="before", body=INCIDENT)).status_code == 200
    with failing(service):
        asked = [service.classify(ticket_id=f"T-{i}", body=INCIDENT) for i in range(10)]
        asked.append(service.batch({"ticket_id": "T-11", "body": INCIDENT}))
        for answer, seconds in await asyncio.gather(*map(timed, asked)):
            assert answer.status_code == 503
            assert error_of(answer) == "storage_unavailable"
            assert answer.headers["retry-after"] == "1"
            assert seconds < PROMPT
    assert (await service.classify(ticket_id="T-1", body=INCIDENT)).status_code == 200
    assert [row["ticket_id"] for row in service.rows()] == ["before", "T-1"]


async def test_a_short_lock_is_waited_for(service: Service) -> None:
    with service.locked():
        asked = asyncio.ensure_future(service.classify(body=INCIDENT))
        await asyncio.sleep(0.1)
        assert not asked.done()
    assert (await asked).status_code == 200


async def test_a_request_that_was_told_no_is_not_stored_afterwards(service: Service) -> None:
    """Its answer says that the decision was not made, and the client may have sent the ticket elsewhere."""
    with service.locked():
        first = asyncio.ensure_future(service.classify(ticket_id="first", body=INCIDENT))
        await asyncio.sleep(0.05)  # the writer tries to store it, and the others gather behind it
        others = [asyncio.ensure_future(service.classify(ticket_id=f"T-{i}", body=INCIDENT)) for i in range(5)]
        answers = [await asked for asked in (first, *others)]
    assert {answer.status_code for answer in answers} == {503}
    # The writer takes things in order: once this is answered it has done with those before.
    assert (await service.classify(ticket_id="last", body=INCIDENT)).status_code == 200
    assert [row["ticket_id"] for row in service.rows()] == ["last"]


async def test_a_request_that_was_told_no_behind_work_of_the_services_own_is_not_stored_afterwards(service: Service) -> None:
    """While storing fails the service tries the database by itself, and requests wait behind that too."""
    with service.locked():
        assert (await service.classify(ticket_id="first", body=INCIDENT)).status_code == 503
        trying = asyncio.ensure_future(service.app.state.service.writer.tend())
        await asyncio.sleep(0.01)
        assert (await service.classify(ticket_id="T-1", body=INCIDENT)).status_code == 503
    await trying
    assert (await service.classify(ticket_id="last", body=INCIDENT)).status_code == 200
    assert [row["ticket_id"] for row in service.rows()] == ["last"]


async def test_what_was_accepted_is_stored_before_the_service_stops(settings: Settings) -> None:
    async with serving(settings) as service:
        with service.locked():
            asked = asyncio.ensure_future(service.classify(ticket_id="T-1", body=INCIDENT))
            await asyncio.sleep(0.1)
    assert (await asked).status_code == 200
    assert [row["ticket_id"] for row in service.rows()] == ["T-1"]


@pytest.mark.parametrize(("level", "said"), [("info", ["storage_unavailable", "storage_recovered"]), ("error", ["storage_unavailable"])])
async def test_the_log_tells_of_a_failure_and_of_its_end(settings: Settings, capfd: pytest.CaptureFixture[str], level: str, said: list[str]) -> None:
    async with serving(settings.model_copy(update={"log_level": level})) as service:
        with service.locked():
            for _ in range(2):
                assert (await service.classify(body=INCIDENT)).status_code == 503
        assert (await service.classify(body=INCIDENT)).status_code == 200
    assert re.findall(r"\bstorage_\w+", "".join(capfd.readouterr())) == said  # once, however many requests it met


# Forgetting


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[timedelta], None]:
    """Moves the clock that the service reads."""

    def move(by: timedelta) -> None:
        class Later(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return datetime.now(tz) + by

        readers = [module for name, module in sys.modules.items() if name.startswith("service.") and hasattr(module, "datetime")]
        assert readers
        for module in readers:
            monkeypatch.setattr(module, "datetime", Later)

    return move


async def texts(service: Service) -> dict[str, tuple[bool, ...]]:
    """By ticket, whether subject, body and explanation are kept; after what the service does now and then was done."""
    await service.app.state.service.writer.tend()
    return {row["ticket_id"]: tuple(row[name] is not None for name in ("subject", "body", "explanation")) for row in service.rows()}


@pytest.mark.parametrize("days", [1, 30])
async def test_text_is_forgotten_after_the_days_that_were_set(settings: Settings, later: Callable[[timedelta], None], days: int) -> None:
    async with serving(settings.model_copy(update={"keep_text_days": days})) as service:
        first = (await service.classify(ticket_id="old", subject="hello", body=INCIDENT)).json()
        later(timedelta(days=days, hours=-2))
        await service.classify(ticket_id="young", subject="hello", body=INCIDENT)
        assert await texts(service) == {"old": (True, True, True), "young": (True, True, True)}
        later(timedelta(days=days, minutes=1))
        assert await texts(service) == {"old": (False, False, False), "young": (True, True, True)}

        again = await service.classify(ticket_id="old", subject="hello", body=INCIDENT)
        assert again.status_code == 200
        assert again.json() == first | {"explanation": None}
        assert (await service.classify(ticket_id="old", subject="hello", body=QUESTION)).status_code == 409


async def test_text_is_forgotten_of_decisions_that_an_earlier_run_made(settings: Settings) -> None:
    async with serving(settings) as earlier:
        await earlier.classify(ticket_id="old", subject="hello", body=INCIDENT)
        await earlier.classify(ticket_id="young", subject="hello", body=INCIDENT)
        past = datetime.now(UTC) - timedelta(days=31)
        earlier.write(sa.update(decisions).where(decisions.c.ticket_id == "old").values(decided_at=past))
    async with serving(settings) as service:
        assert await texts(service) == {"old": (False, False, False), "young": (True, True, True)}


async def test_a_ticket_that_says_it_is_old_is_kept_as_long_as_any(service: Service, later: Callable[[timedelta], None]) -> None:
    await service.classify(ticket_id="T-1", subject="hello", body=INCIDENT, created_at="2001-01-01T00:00:00Z")
    later(timedelta(days=1))
    assert await texts(service) == {"T-1": (True, True, True)}


async def test_no_days_keep_no_text(settings: Settings) -> None:
    async with serving(settings.model_copy(update={"keep_text_days": 0})) as service:
        first = (await service.classify(ticket_id="T-1", subject="hello", body=INCIDENT)).json()
        assert await texts(service) == {"T-1": (False, False, False)}
        again = (await service.classify(ticket_id="T-1", subject="hello", body=INCIDENT)).json()
        assert again == first | {"explanation": None}
        assert (await service.classify(ticket_id="T-1", subject="hello", body=QUESTION)).status_code == 409


async def test_no_file_holds_what_is_not_kept(sqlite: str, settings: Settings, tmp_path: Path) -> None:
    """Nor does the log that SQLite writes before the database itself."""
    async with serving(settings.model_copy(update={"keep_text_days": 0, "database_url": sqlite})) as service:
        assert (await service.classify(ticket_id="T-1", subject="hello", body=INCIDENT)).status_code == 200
        files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert b"T-1" in b"".join(files.values())
    assert [name for name, written in files.items() if INCIDENT.encode() in written] == []


@pytest.mark.parametrize("days", [0, 30])
async def test_the_first_answer_is_explained_however_long_the_words_are_kept(settings: Settings, days: int) -> None:
    async with serving(settings.model_copy(update={"keep_text_days": days})) as service:
        assert set((await service.classify(ticket_id="T-1", body=INCIDENT)).json()["explanation"]) == {"kind", "department"}
        (in_batch,) = (await service.batch({"ticket_id": "T-2", "body": INCIDENT})).json()["results"]
        assert set(in_batch["explanation"]) == {"kind", "department"}
