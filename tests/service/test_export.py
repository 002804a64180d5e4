"""The ticket table that outcomes make: which tickets stand in it, with which labels, and who saw what before them."""

import random
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from service import database
from service.classify.repository import Record, store
from service.database import SIMULATED, microseconds, stories
from service.outcomes import repository
from service.outcomes.export import Export, Labelled
from service.outcomes.repository import Told
from service.outcomes.story import Event
from tests.serving import DATABASES, apart

START = datetime(2026, 11, 2, 9, tzinfo=UTC)
HOUR = 3_600_000_000
NUMBERS = count()


@pytest.fixture(params=DATABASES)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    engine = database.connect(str(request.getfixturevalue(request.param)))
    database.migrate(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite_engine(sqlite: str) -> Iterator[Engine]:
    engine = database.connect(sqlite)
    database.migrate(engine)
    yield engine
    engine.dispose()


def record(ticket_id: str | None, **other: Any) -> Record:
    """A decision made an hour after `START`: advice for hosting, routed."""
    at = microseconds(START)
    columns: dict[str, Any] = dict.fromkeys(Record._fields) | {
        "decision_id": f"01{next(NUMBERS):024}", "ticket_id": ticket_id, "text_digest": "0" * 64, "decided_at": at + HOUR, "created_at": at,
        "model_version": "v1", "path": "fast", "language": "pt", "kind": "advisory", "department": "hosting", "action": "auto", "reasons": "",
        "decision": b"{}", "explanation": b"{}", "subject": "", "body": f"body of {ticket_id}",
    }  # fmt: skip
    return Record(**columns | other)


def event(hours: float, event: Any, to: str | None = None, by: Any = "person") -> Event:
    """Something that happened `hours` after `START`."""
    return Event(microseconds(START) + int(hours * HOUR), f"e{next(NUMBERS)}", event, to, None, by)


def keep(engine: Engine, records: list[Record], events: dict[str, list[Event]]) -> None:
    told = [Told(ticket, each, "digest") for ticket, all_of_it in events.items() for each in all_of_it]
    with engine.begin() as connection:
        store(connection, records)
        repository.add(connection, told, START)
        repository.retell(connection, events)


def exported(engine: Engine, **asked: Any) -> dict[str, Labelled]:
    return {ticket.id: ticket for ticket in Export(engine, **asked)}


def test_a_ticket_stands_with_all_that_is_known_of_it(engine: Engine) -> None:
    told = {"channel": "email", "customer_tier": "premium", "customer_ref": "C-7", "country": "PT", "declared_kind": "incident"}
    keep(
        engine,
        [record("T-1", subject="Ajuda", body="Olá\u2028=1+1", kind_confidence=0.9, explanation=b"words", **told)],
        {"T-1": [event(2, "moved", "domains"), event(3, "kind_corrected", "incident", "rule"), event(4, "closed")]},
    )
    (ticket,) = Export(engine)
    assert ticket._asdict() == told | {
        "id": "T-1", "subject": "Ajuda", "body": "Olá\u2028=1+1", "kind": "incident", "department": "domains", "language": "pt",
        "created_at": "2026-11-02T09:00:00Z", "kind_by": "rule", "department_by": "person", "answer_shown": True,
        "decided_kind": "advisory", "decided_department": "hosting", "model_version": "v1",
    }  # fmt: skip


def test_what_is_left_out_is_counted_with_its_reason(engine: Engine) -> None:
    keep(
        engine,
        [record("judged"), record("open"), record("silent"), record(None), record("forgotten", subject=None, body=None, explanation=None)],
        {
            "judged": [event(2, "closed")],
            "open": [event(2, "closed"), event(3, "moved", "domains")],  # it was opened again
            "forgotten": [event(2, "closed")],
            "not decided": [event(2, "closed")],
        },
    )
    export = Export(engine)
    assert [ticket.id for ticket in export] == ["judged"]
    assert export.summary() == "1 tickets written; left out: 2 of which nothing was told, 1 still open, 1 whose text is no longer kept"

    every = Export(engine, judged=False)
    found = {ticket.id: ticket for ticket in every}
    assert {"judged", "open", "silent"} < set(found)
    assert len(found) == 4  # one has no id of its own, and goes by its decision's
    assert found["open"].department == "domains"
    assert every.summary() == "4 tickets written; left out: 1 whose text is no longer kept"


def test_the_routers_own_echo_is_left_out_where_that_is_asked(engine: Engine) -> None:
    keep(
        engine,
        [record(name) for name in ("nobody", "router", "confirmed", "kind only", "ruled")],
        {
            "nobody": [event(2, "closed")],
            "router": [event(1, "assigned", "hosting", "router"), event(2, "kind_corrected", "advisory", "router"), event(3, "closed")],
            "confirmed": [event(2, "assigned", "hosting"), event(3, "closed")],
            "kind only": [event(2, "kind_corrected", "incident"), event(3, "closed")],
            "ruled": [event(2, "moved", "sales", "rule"), event(3, "closed")],
        },
    )
    assert {name: (t.kind_by, t.department_by) for name, t in exported(engine).items()} == {
        "nobody": (None, "router"), "router": ("router", "router"), "confirmed": (None, "person"), "kind only": ("person", "router"),
        "ruled": (None, "rule"),
    }  # fmt: skip
    assert {name: (t.kind, t.department) for name, t in exported(engine, independent=True).items()} == {
        "confirmed": (None, "hosting"), "kind only": ("incident", None), "ruled": (None, "sales"),
    }  # fmt: skip
    export = Export(engine, independent=True)
    assert len(list(export)) == 3
    assert export.summary() == "3 tickets written; left out: 2 with no label but the router's own"


@pytest.mark.parametrize(
    ("action", "events", "shown"),
    [
        ("auto", [event(2, "assigned", "hosting"), event(3, "closed")], True),
        ("suggest", [event(2, "assigned", "hosting"), event(3, "closed")], True),
        ("review", [event(2, "assigned", "hosting"), event(3, "closed")], False),  # nothing was shown
        ("auto", [event(0.5, "assigned", "hosting"), event(3, "closed")], False),  # decided an hour after it came in
        ("auto", [event(0.5, "assigned", "hosting"), event(2, "kind_corrected", "incident"), event(3, "closed")], True),
        ("auto", [event(2, "assigned", "sales"), event(0.5, "moved", "hosting"), event(3, "closed")], True),  # told in another order
        ("auto", [event(0.5, "assigned", "domains"), event(2, "moved", "hosting", "router"), event(3, "closed")], True),
        ("auto", [event(0.5, "closed")], False),  # history: closed before the router ever saw it
    ],
)
def test_who_saw_the_answer_before_the_label_was_given(sqlite_engine: Engine, action: str, events: list[Event], shown: bool) -> None:
    keep(sqlite_engine, [record("T-1", action=action)], {"T-1": events})
    assert [ticket.answer_shown for ticket in Export(sqlite_engine)] == [shown]


def test_a_period_is_of_the_days_that_tickets_were_created_on(engine: Engine) -> None:
    day = timedelta(days=1)
    places = {"before": START - timedelta(microseconds=1), "first": START, "last": START + day - timedelta(microseconds=1), "after": START + day}
    keep(engine, [record(name, created_at=microseconds(at)) for name, at in places.items()], {name: [event(99, "closed")] for name in places})
    assert list(exported(engine)) == list(places)
    assert list(exported(engine, since=START)) == ["first", "last", "after"]
    assert list(exported(engine, until=START + day)) == ["before", "first", "last"]
    export = Export(engine, START, START + day)
    assert [ticket.id for ticket in export] == ["first", "last"]
    assert export.summary() == "2 tickets written"


def test_every_ticket_comes_once_and_in_order_over_many_pages(engine: Engine) -> None:
    """Some hundreds were created at the same moment: the pages part them."""
    at = microseconds(START)
    records = [record(f"T-{i}", created_at=at + max(i - 450, 0)) for i in range(901)]
    random.Random(0).shuffle(records)
    keep(engine, records, {each.ticket_id or "": [event(2, "closed")] for each in records})
    assert [ticket.id for ticket in Export(engine)] == [f"T-{i}" for i in range(901)]


def test_simulated_tickets_are_named(engine: Engine) -> None:
    keep(engine, [record("T-1"), record("T-2", model_version=f"{SIMULATED}v2")], {"T-1": [event(2, "closed")], "T-2": [event(2, "closed")]})
    export = Export(engine)
    assert [ticket.model_version for ticket in export] == ["v1", "simulated-v2"]
    assert export.summary() == "2 tickets written, 1 of them made up by `pointsman demo`: nothing to learn from"
    keep(engine, [], {"T-1": [event(3, "assigned", "sales")]})  # it is open again
    every = Export(engine)
    assert [ticket.id for ticket in every] == ["T-2"]
    assert every.summary() == "1 tickets written, all of them made up by `pointsman demo`: nothing to learn from; left out: 1 still open"


def test_a_language_that_nobody_knows_is_none(engine: Engine) -> None:
    keep(engine, [record("T-1", language="und")], {"T-1": [event(2, "closed")]})
    assert [ticket.language for ticket in Export(engine)] == [None]


def test_memory_is_bounded_by_a_page_and_not_by_the_table(sqlite_engine: Engine) -> None:
    tickets = [record(f"T-{i}", body="x" * 10_000) for i in range(2_000)]
    keep(sqlite_engine, tickets, {})
    tracemalloc.start()
    assert sum(len(ticket.body) for ticket in Export(sqlite_engine, judged=False)) == 20_000_000
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 12_000_000


def test_no_transaction_is_held_over_a_page_that_waits_for_its_reader(engine: Engine) -> None:
    """SQLite could not shorten its log, PostgreSQL not tidy up; and nobody could change the tables."""
    keep(engine, [record(f"T-{i}") for i in range(300)], {})
    reading = iter(Export(engine, judged=False))
    assert len(list(islice(reading, 10))) == 10
    with engine.begin() as connection:
        connection.execute(sa.delete(stories).where(stories.c.ticket_id.in_([f"T-{i}" for i in range(200, 299)])))
    with apart(engine.url.render_as_string(hide_password=False)).connect() as connection:
        if connection.dialect.name == "sqlite":
            assert connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0] == 0  # 1: somebody reads what stands there
        else:
            asked = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%%'"
            assert connection.exec_driver_sql(asked).scalar() == 0
    assert [ticket.id for ticket in reading][-2:] == ["T-199", "T-299"]
