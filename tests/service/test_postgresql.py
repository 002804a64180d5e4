"""A PostgreSQL server that fails: nobody waits long, nothing is answered that is not stored, and it mends by itself."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime

import httpx
import pytest
import sqlalchemy as sa

from service import database
from service.classify.repository import forget_text
from service.classify.schemas import LONGEST_BODY, LONGEST_SUBJECT, MOST_TICKETS
from service.settings import Settings
from tests.postgresql import Server
from tests.serving import INCIDENT, PROMPT, QUESTION, Service, apart, error_of, serving, wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture
def database_url(postgresql: str) -> str:
    return postgresql


@asynccontextmanager
async def locked(service: Service, mode: str = "ACCESS EXCLUSIVE") -> AsyncIterator[None]:
    """While it lasts, another session holds the table: for reading too."""
    with service.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql(f"LOCK TABLE decisions IN {mode} MODE")
        yield
        connection.exec_driver_sql("ROLLBACK")


OTHERS = "FROM pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' AND pid != pg_backend_pid()"


@contextmanager
def frozen(service: Service) -> Iterator[None]:
    """While it lasts, the server takes what the application sends and does not say a word."""
    with service.connect() as connection:
        sessions = list(connection.execute(sa.text(f"SELECT pid {OTHERS}")).scalars())
        assert sessions
        for session in sessions:
            os.kill(session, signal.SIGSTOP)
        try:
            yield
        finally:
            for session in sessions:
                os.kill(session, signal.SIGCONT)


async def refused_within_a_second(service: Service) -> None:
    """Ten at once, and a batch; meanwhile the process answers who asks whether it lives."""
    since = time.perf_counter()
    asked = [asyncio.ensure_future(service.classify(ticket_id=f"refused-{i}", body=INCIDENT)) for i in range(10)]
    asked.append(asyncio.ensure_future(service.batch(*({"body": f"{i} {INCIDENT}"} for i in range(MOST_TICKETS)))))
    await asyncio.sleep(0.05)
    assert (await service.client.get("/livez")).status_code == 200
    for answer in await asyncio.gather(*asked):
        assert answer.status_code == 503
        assert error_of(answer) == "storage_unavailable"
        assert answer.headers["retry-after"] == "1"
    assert time.perf_counter() - since < PROMPT


async def readiness(service: Service, status: int, seconds: float) -> httpx.Response:
    """The answer of /readyz once it has `status`; no ticket is sent meanwhile."""
    end = time.monotonic() + seconds
    while (answer := await service.client.get("/readyz")).status_code != status:
        assert time.monotonic() < end, f"waited {seconds} s in vain for {status}, still {answer.status_code}"
        await asyncio.sleep(0.05)
    return answer


async def test_a_table_that_another_session_holds_is_answered_within_a_second_and_mends(service: Service) -> None:
    assert (await service.classify(ticket_id="before", body=INCIDENT)).status_code == 200
    async with locked(service):
        await refused_within_a_second(service)
        assert error_of(await service.client.get("/readyz")) == "not_ready"
    await readiness(service, 200, 3)
    assert (await service.classify(ticket_id="after", body=INCIDENT)).status_code == 200
    assert [row["ticket_id"] for row in service.rows()] == ["before", "after"]


async def test_a_server_that_was_stopped_is_answered_within_a_second_and_mends(service: Service, postgresql_server: Server) -> None:
    assert (await service.classify(ticket_id="before", body=INCIDENT)).status_code == 200
    with postgresql_server.stopped():
        for _ in range(2):
            await refused_within_a_second(service)
        assert error_of(await service.client.get("/readyz")) == "not_ready"
        assert (await service.client.get("/model")).status_code == 200
    await readiness(service, 200, 3)
    assert (await service.classify(ticket_id="after", body=INCIDENT)).status_code == 200
    again = await service.classify(ticket_id="before", body=QUESTION)
    assert error_of(again) == "ticket_conflict"
    assert [row["ticket_id"] for row in service.rows()] == ["before", "after"]


async def test_the_first_ticket_after_a_restart_is_decided(service: Service, postgresql_server: Server) -> None:
    """The server is there. That the connection from before is gone is for the application to find out, not for the customer."""
    assert (await service.classify(body=INCIDENT)).status_code == 200
    with postgresql_server.stopped():
        pass
    assert (await service.classify(body=INCIDENT)).status_code == 200


async def test_a_session_that_was_ended_while_nobody_asked_costs_no_ticket(service: Service) -> None:
    """As firewalls, poolers and `idle_session_timeout` do it with sessions that say nothing for long."""
    assert (await service.classify(body=INCIDENT)).status_code == 200
    with service.connect() as connection:
        ended = list(connection.execute(sa.text(f"SELECT pg_terminate_backend(pid, 1000) {OTHERS}")).scalars())
    assert ended
    assert all(ended)
    answers = [await service.classify(body=INCIDENT), await service.batch({"body": INCIDENT})]
    assert [answer.status_code for answer in answers] == [200, 200]


async def test_a_server_that_hangs_is_answered_within_a_second_and_mends(service: Service) -> None:
    assert (await service.classify(ticket_id="before", body=INCIDENT)).status_code == 200
    with frozen(service):
        await refused_within_a_second(service)
        assert (await service.client.get("/livez")).status_code == 200
    assert (await service.classify(ticket_id="after", body=INCIDENT)).status_code == 200


async def test_while_the_server_hangs_it_is_not_ready(service: Service) -> None:
    assert (await service.classify(ticket_id="before", body=INCIDENT)).status_code == 200
    with frozen(service):
        assert (await service.classify(body=INCIDENT)).status_code == 503
        assert error_of(await readiness(service, 503, 1)) == "not_ready"
    await readiness(service, 200, 3)


async def test_what_was_refused_while_the_server_hung_is_not_stored_afterwards(service: Service) -> None:
    with frozen(service):
        assert (await service.classify(ticket_id="refused", body=INCIDENT)).status_code == 503
    assert (await service.classify(ticket_id="after", body=INCIDENT)).status_code == 200
    assert [row["ticket_id"] for row in service.rows()] == ["after"]


async def test_what_a_slow_server_could_not_store_in_time_is_not_stored_afterwards(service: Service) -> None:
    """No statement of the batch is slow enough to be given up, but all of them together are."""
    service.write(sa.text("CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END'"))
    service.write(sa.text("CREATE TRIGGER slow AFTER INSERT ON decisions FOR EACH STATEMENT EXECUTE FUNCTION slow()"))
    assert (await service.batch(*({"body": f"{i} {INCIDENT}"} for i in range(MOST_TICKETS)))).status_code == 503
    # The writer takes things in order: once this is answered it has done with the batch.
    for _ in range(5):
        if (await service.classify(ticket_id="last", body=INCIDENT)).status_code == 200:
            break
    assert [row["ticket_id"] for row in service.rows()] == ["last"]


LONG = ["x", "é", "\uffff", "\U0001f9ed"]


async def test_whatever_the_service_takes_postgresql_stores(service: Service) -> None:
    tickets = [
        *({"ticket_id": c * 200, "customer_ref": c * 200, "declared_kind": c * 200, "customer_tier": c * 64, "body": INCIDENT} for c in LONG),
        *({"subject": c * LONGEST_SUBJECT, "body": c * LONGEST_BODY} for c in LONG),
        {"subject": "\x00", "body": "\x00\x01\x7f\x80\ufffe %s %(name)s \\ ' \" $1"},
        {"ticket_id": "%s '; DROP TABLE decisions; --", "body": INCIDENT, "language": "zh-Hant-TW", "created_at": "1900-01-01T00:00:00Z"},
        {"body": INCIDENT, "language": "es-419", "created_at": "2199-12-31T23:59:59.999999Z", "channel": "email", "country": "PT"},
    ]
    for ticket in tickets:
        answer = await service.classify(**ticket)
        assert answer.status_code == 200, answer.text
        if "ticket_id" in ticket:
            assert (await service.classify(**ticket)).json() == answer.json()
    rows = service.rows()
    assert [row["ticket_id"] for row in rows] == [ticket.get("ticket_id") for ticket in tickets]
    assert [row["body"] for row in rows] == [ticket["body"].replace("\x00", "\ufffd") for ticket in tickets]


async def test_keys_stay_good_while_the_server_is_away(service: Service, postgresql_server: Server) -> None:
    header = service.key("classify")
    with postgresql_server.stopped():
        await asyncio.sleep(1.2)  # the service tried to read them, and could not
        assert (await service.client.get("/model", headers=header)).status_code == 200
        answer = await service.client.post("/classify", json={"body": INCIDENT}, headers=header)
        assert error_of(answer) == "storage_unavailable"
        assert (await service.client.get("/model")).status_code == 401
        assert (await service.client.get("/model", headers={"Authorization": "Bearer pm_0_0"})).status_code == 401
    await readiness(service, 200, 3)
    assert (await service.client.post("/classify", json={"body": INCIDENT}, headers=header)).status_code == 200


async def test_a_service_that_has_stopped_leaves_no_session_behind(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where it was told to stop while it read the keys."""
    monkeypatch.setattr("service.app.TEND_SECONDS", 0.01)
    with apart(settings.database_url).connect() as connection:

        def left() -> int:
            return int(connection.execute(sa.text(f"SELECT count(*) {OTHERS}")).scalar_one())

        async with serving(settings):
            connection.exec_driver_sql("BEGIN")
            connection.exec_driver_sql("LOCK TABLE api_keys IN ACCESS EXCLUSIVE MODE")
            await asyncio.sleep(0.1)
            assert left() > 0
        connection.exec_driver_sql("ROLLBACK")
        wait_until(lambda: left() == 0, "all sessions have ended", 2)


# Of 1970; five of them still have their text.
OLD = """
INSERT INTO decisions (decision_id, text_digest, decided_at, created_at, model_version, path, language, action, decision, body)
SELECT lpad(i::text, 26, '0'), repeat('0', 64), i, i, 'v', 'fast', 'en', 'auto', '{}', CASE WHEN mod(i, 4000) = 0 THEN 'text' END
FROM generate_series(1, 20000) AS i
"""


def test_what_was_forgotten_is_not_read_again(postgresql: str) -> None:
    """Else forgetting would take longer with every year, and at last longer than a statement may."""
    engine = database.connect(postgresql)
    database.migrate(engine)
    with apart(postgresql).connect() as connection:
        connection.exec_driver_sql(OLD)
        connection.exec_driver_sql("ANALYZE decisions")
    with engine.begin() as connection:
        assert forget_text(connection, datetime.now(UTC)) == 5
        statistics = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'decisions'"
        read = connection.exec_driver_sql(statistics).scalar_one()
    engine.dispose()
    assert read < 1000
