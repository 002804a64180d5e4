"""Events in any order, repeated, contradicting, split into any requests, before and after the decision: the same story, or a conflict."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from sqlalchemy.engine import Engine

from service import database
from service.classify.repository import Record, store
from service.database import decisions, outcomes, stories
from service.outcomes import repository, service
from service.outcomes.repository import Told
from service.outcomes.story import UNDECIDED, Event, tell
from tests.serving import DATABASES

TICKETS = ["T-1", "T-2", "T/3 ü"]
LABELS = ["hosting", "domains", "network"]
MINUTE = 60 * 1_000_000
START = 27_000_000 * MINUTE  # in 2021
DECIDED = START + 30 * MINUTE
FIXTURE = [HealthCheck.function_scoped_fixture]

on_sqlite = effort(max_examples=40, deadline=None, suppress_health_check=FIXTURE)
on_postgresql = effort(max_examples=15, deadline=None, suppress_health_check=FIXTURE)


class Sent(NamedTuple):
    """What is stored one after the other: for each transaction events, or the ticket whose decision comes."""

    requests: list[list[Told] | str]
    truth: dict[str, list[Event]]
    actions: dict[str, str]


def told(ticket: str, event: Event) -> Told:
    return Told(ticket, event, service.digest(event))


def decision(ticket: str, action: str = "auto") -> Record:
    return Record(
        f"{TICKETS.index(ticket) if ticket in TICKETS else ticket:0>26}", ticket, "0" * 64, DECIDED, START, "v", "fast", "en", "advisory", "hosting",
        0.9, 0.9, action, "", None, None, None, None, None, b"{}", None, None, None,
    )  # fmt: skip


@st.composite
def events(draw: st.DrawFn, name: str) -> Event:
    # Few moments, so that some are the same, and some before the decision.
    at = START + draw(st.sampled_from([0, 20, 30, 31, 45, 600])) * MINUTE
    kind = draw(st.sampled_from(["assigned", "moved", "moved", "kind_corrected", "answered", "closed"]))
    to = {"kind_corrected": st.sampled_from(["incident", "advisory"]), "answered": st.none(), "closed": st.none()}.get(kind, st.sampled_from(LABELS))
    origin = draw(st.sampled_from([None, *LABELS])) if kind == "moved" else None
    by = draw(st.sampled_from(["person", "rule", "router"]))
    return Event(at, name, kind, draw(to), origin, by, draw(st.sampled_from([None, "said so"])))  # type: ignore[arg-type]


@st.composite
def sendings(draw: st.DrawFn) -> Sent:
    truth: dict[str, list[Event]] = {}
    all_told: list[Told] = []
    for ticket in TICKETS:
        names = draw(st.lists(st.sampled_from("abcdef"), unique=True))
        truth[ticket] = [draw(events(name)) for name in names]
        all_told += [told(ticket, event) for event in truth[ticket]]
    repeats = draw(st.lists(st.sampled_from(all_told), max_size=8)) if all_told else []
    order = draw(st.permutations(all_told + repeats))
    cuts = sorted(draw(st.sets(st.integers(0, len(order)), max_size=6)) | {0, len(order)})
    requests: list[list[Told] | str] = [order[a:b] for a, b in pairwise(cuts)]
    actions = {ticket: draw(st.sampled_from(["auto", "suggest", "review"])) for ticket in TICKETS[:2]}  # the third is never decided
    for ticket in actions:
        requests.insert(draw(st.integers(0, len(requests))), ticket)
    return Sent(requests, truth, actions)


@pytest.fixture
def sqlite_engine(sqlite: str) -> Iterator[Engine]:
    with opened(sqlite) as engine:
        yield engine


@pytest.fixture
def postgresql_engine(postgresql: str) -> Iterator[Engine]:
    with opened(postgresql) as engine:
        yield engine


@contextmanager
def opened(url: str) -> Iterator[Engine]:
    engine = database.connect(url)
    with engine.connect() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA synchronous=OFF")  # what is tried here is not the disk
    database.migrate(engine)
    yield engine
    engine.dispose()


def emptied(engine: Engine) -> Engine:
    with engine.begin() as connection:
        for table in (outcomes, stories, decisions):
            connection.execute(sa.delete(table))
    return engine


def kept(engine: Engine, table: sa.Table = stories) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key)).mappings()]


def send(engine: Engine, sent: Sent) -> None:
    for request in sent.requests:
        with engine.begin() as connection:
            if isinstance(request, str):
                store(connection, [decision(request, sent.actions[request])])
            else:
                service.keep(connection, request)


def check_stories(engine: Engine, sent: Sent) -> None:
    """Each is the one that its events tell, as if they had come in one piece after the decision; and rebuilt it is the same."""
    send(emptied(engine), sent)
    found = kept(engine)
    assert {row["ticket_id"] for row in found} == set(sent.actions)
    with engine.connect() as connection:
        for ticket, known in repository.find_known(connection, TICKETS).items():
            truth = tell(known.decided or UNDECIDED, sent.truth[ticket])
            assert known.story == truth
            for row in found:
                if row["ticket_id"] == ticket and truth.events:
                    moments = {name: value and database.microseconds(value) for name, value in row.items() if name.endswith("_at")}
                    assert {name: (row | moments)[name] for name in truth._fields} == truth._asdict()
    with engine.begin() as connection:
        assert repository.rebuild(connection) == len(sent.actions)
    assert kept(engine) == found


@given(sendings())
@on_sqlite
def test_the_same_events_tell_the_same_story_however_they_come(sqlite_engine: Engine, sent: Sent) -> None:
    check_stories(sqlite_engine, sent)


@given(sendings())
@on_postgresql
def test_they_do_so_in_postgresql(postgresql_engine: Engine, sent: Sent) -> None:
    check_stories(postgresql_engine, sent)


@given(sendings(), st.data())
@on_sqlite
def test_a_contradiction_is_a_conflict_and_changes_nothing(sqlite_engine: Engine, sent: Sent, data: st.DataObject) -> None:
    engine = emptied(sqlite_engine)
    send(engine, sent)
    known = [told(ticket, event) for ticket, some in sent.truth.items() for event in some]
    others = [told(each.ticket_id, data.draw(events(each.event.event_id))) for each in known]
    before = kept(engine), kept(engine, outcomes)
    with engine.begin() as connection:
        added, answers = service.keep(connection, others)
        assert {ticket: answer.story.events for ticket, answer in answers.items()} == {t: len(e) for t, e in sent.truth.items() if e}
    assert added == ["repeat" if other.event == each.event else "conflict" for other, each in zip(others, known, strict=True)]
    assert (kept(engine), kept(engine, outcomes)) == before


@given(st.lists(events("a"), min_size=2, max_size=4))
@on_sqlite
def test_of_contradictions_that_come_together_the_first_counts(sqlite_engine: Engine, some: list[Event]) -> None:
    engine = emptied(sqlite_engine)
    with engine.begin() as connection:
        added, answers = service.keep(connection, [told("T-1", event) for event in some])
    assert added == ["new", *("repeat" if event == some[0] else "conflict" for event in some[1:])]
    assert answers["T-1"].story == tell(UNDECIDED, some[:1])


# At the same time


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def test_a_decision_and_an_event_that_come_at_the_same_time_end_joined(database_url: str) -> None:
    """Each by a connection of its own, as two workers have; each ticket at once."""
    names = [f"T-{i}" for i in range(60)]
    gate = threading.Barrier(2, timeout=60)
    failed: list[BaseException] = []

    def work(of: Any) -> None:
        engine = database.connect(database_url)
        try:
            for name in names:
                gate.wait()
                while True:
                    try:
                        with engine.begin() as connection:
                            of(connection, name)
                        break
                    except sa.exc.OperationalError:  # locked for long, on a machine that has other work
                        continue
        except BaseException as error:
            failed.append(error)
            gate.abort()
        finally:
            engine.dispose()

    def decide(connection: sa.Connection, name: str) -> None:
        store(connection, [decision(name)])

    def tell_of(connection: sa.Connection, name: str) -> None:
        service.keep(connection, [told(name, Event(DECIDED, "e", "closed", None, None, "person"))])

    threads = [threading.Thread(target=work, args=(of,)) for of in (decide, tell_of)]
    with opened(database_url) as engine:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        found = {row["ticket_id"]: (row["events"], row["closed_at"] is not None) for row in kept(engine)}
    assert found == dict.fromkeys(names, (1, True))
