"""`pointsman demo`: what it fills, what it leaves alone, and that what it simulates is what the service itself would have stored."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson
import pytest
import sqlalchemy as sa
from click.testing import CliRunner, Result

import pointsman
from model.cleaning import clean
from service import database
from service.classify.schemas import DecisionOut, TicketIn
from service.classify.service import _digest
from service.database import SIMULATED, decisions, outcomes, stories
from service.demo import service as filling
from service.demo.customers import DRIFTING
from service.demo.router import BAD_DAYS
from service.demo.service import NotEmptyError, fill
from service.demo.simulation import Simulated, first_day, simulate
from service.outcomes.repository import rebuild
from tests.serving import apart

UNTIL = date(2026, 11, 22)
TICKETS = 2_000


@pytest.fixture(scope="module")
def world() -> list[Simulated]:
    return list(simulate(TICKETS, 0, UNTIL))


@pytest.fixture(scope="module")
def filled(world: list[Simulated], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a database with the demonstration; only read here."""
    url = f"sqlite:///{tmp_path_factory.mktemp('demo')}/demo.db"
    engine = database.connect(url)
    database.migrate(engine)
    filling.put(engine, world, 0)
    engine.dispose()
    return url


def rows(url: str, table: sa.Table) -> list[dict[str, Any]]:
    with apart(url).connect() as connection:
        return [dict(row) for row in connection.execute(sa.select(table).order_by(*table.primary_key.columns)).mappings()]


def demo(url: str, *options: str) -> Result:
    return CliRunner().invoke(pointsman.main, ["demo", "--database", url, "--tickets", "100", *options], catch_exceptions=False)


def minutes(since: datetime, until: datetime | None) -> float | None:
    return None if until is None else (until - since) / timedelta(minutes=1)


def test_the_stories_kept_are_the_truth_however_the_events_came(filled: str, world: list[Simulated]) -> None:
    kept = {story["ticket_id"]: story for story in rows(filled, stories)}
    assert kept.keys() == {each.record.ticket_id for each in world}
    for each in world:
        story, truth = kept[each.record.ticket_id], each.truth
        assert (story["final_kind"], story["final_department"], story["moves"]) == (truth.kind, truth.department, truth.moves)
        assert (story["closed_at"] is not None) == truth.judged
        assert story["events"] == len(each.events)
        if truth.judged:
            created = story["created_at"]
            assert story["course"] == truth.course
            assert minutes(created, story["right_at"]) == pytest.approx(truth.to_right_team)
            assert minutes(created, story["answered_at"]) == pytest.approx(truth.to_answer)
            assert (minutes(story["wrong_at"], story["right_at"]) if story["wrong_at"] else None) == pytest.approx(truth.misplaced)


def test_they_are_what_they_come_to_when_they_are_told_anew(filled: str) -> None:
    kept = rows(filled, stories)
    engine = database.connect(filled)
    with engine.connect() as connection, connection.begin() as transaction:
        assert rebuild(connection) == TICKETS
        again = [dict(row) for row in connection.execute(sa.select(stories).order_by(stories.c.decision_id)).mappings()]
        transaction.rollback()
    engine.dispose()
    assert again == kept


def test_all_of_it_is_marked_and_nothing_happens_outside_the_year(filled: str) -> None:
    first, last = (datetime(day.year, day.month, day.day, tzinfo=UTC) for day in (first_day(UNTIL), UNTIL))
    found = rows(filled, decisions)
    assert len(found) == TICKETS
    assert all(row["ticket_id"].startswith("demo-") and row["model_version"].startswith(SIMULATED) for row in found)
    assert all(first <= row["created_at"] < last for row in found)
    assert all(row["created_at"] <= row["decided_at"] for row in found)
    told = rows(filled, outcomes)
    assert all(row["ticket_id"].startswith("demo-") and first <= row["happened_at"] < last for row in told)
    assert {row["ticket_id"] for row in told} < {row["ticket_id"] for row in found}  # of some nobody tells


def test_a_stored_decision_has_the_shape_of_a_real_one(filled: str) -> None:
    for row in rows(filled, decisions)[::10]:
        explanation = orjson.loads(row["explanation"])
        answer = DecisionOut.model_validate(orjson.loads(row["decision"]) | {"explanation": explanation})
        assert answer.decision_id == row["decision_id"]
        assert answer.ticket_id == row["ticket_id"]
        assert (answer.model_version, answer.path, answer.action, " ".join(answer.reasons)) == tuple(
            row[name] for name in ("model_version", "path", "action", "reasons")
        )
        assert {name: (own.label, own.confidence) for name, own in answer.labels.items()} == {
            name: (row[name], row[f"{name}_confidence"]) for name in ("kind", "department")
        }
        for own in answer.labels.values():
            others = [other.confidence for other in own.alternatives]
            assert own.confidence + sum(others) <= 1.0002  # each is rounded
            assert own.confidence >= max(others) >= 0
            assert own.label not in {other.label for other in own.alternatives}
        assert row["text_digest"] == _digest(TicketIn(subject=row["subject"], body=row["body"]))
        text = clean(row["subject"], row["body"])
        assert all(text[word["start"] : word["end"]] == word["text"] for words in explanation.values() for word in words)
        assert any(explanation.values())


def test_the_world_is_as_it_is_told(world: list[Simulated]) -> None:
    judged = [each for each in world if each.truth.judged]
    filed = [each for each in judged if each.record.declared_kind == "incident"]
    assert 0.76 < sum(each.truth.kind == "advisory" for each in filed) / len(filed) < 0.84
    assert 0.08 < sum(each.truth.department != each.record.department for each in judged) / len(judged) < 0.15
    assert 0.85 < len(judged) / len(world) < 0.95
    assert {each.truth.course for each in judged} == {"straight", "overruled", "moved", "bounced"}
    assert {each.record.action for each in world} == {"auto", "suggest", "review"}
    assert any(not each.events for each in world)
    assert any("closed" in (kinds := [event.event for event in each.events]) and kinds[-1] == "assigned" for each in world)  # reopened
    texts = Counter(each.record.text_digest for each in world)
    assert 0.05 < sum(count for count in texts.values() if count > 1) / len(world) < 0.2
    weekend = sum(datetime.fromtimestamp(each.record.created_at / 1e6, UTC).weekday() >= 5 for each in world)
    assert weekend / len(world) < 0.2  # of two days in seven


def test_one_version_sends_hosting_to_domains_and_the_next_does_not(world: list[Simulated]) -> None:
    days = {version: first_day(UNTIL) + timedelta(days=day) for version, day in (("bad", BAD_DAYS[0]), ("next", BAD_DAYS[1]))}

    def lost(version: str) -> float:
        own = [each for each in world if each.record.model_version == f"{SIMULATED}{days[version]}" and each.truth.department == "hosting"]
        assert len(own) >= 30
        return sum(each.record.department == "domains" for each in own) / len(own)

    assert lost("bad") > 0.5
    assert lost("next") < 0.1


def test_a_language_drifts_in(world: list[Simulated]) -> None:
    def share(first: int, last: int) -> float:
        start = datetime(UNTIL.year, UNTIL.month, UNTIL.day, tzinfo=UTC).timestamp() * 1e6
        own = [each.record.language for each in world if first <= (each.record.created_at - start) / 86_400e6 < last]
        return own.count(DRIFTING) / len(own)

    assert share(-365, -60) == 0
    assert share(-40, 0) > 0.05


def test_the_same_seed_and_day_give_the_same() -> None:
    assert list(simulate(200, 5, UNTIL)) == list(simulate(200, 5, UNTIL))
    assert list(simulate(200, 5, UNTIL)) != list(simulate(200, 6, UNTIL))
    assert list(simulate(200, 5, UNTIL)) != list(simulate(200, 5, UNTIL - timedelta(days=1)))


def test_the_command_fills_an_empty_database_and_says_what_to_do_next(sqlite: str) -> None:
    result = demo(sqlite, "--until", "2026-03-01")
    assert result.exit_code == 0
    assert f"POINTSMAN_DATABASE_URL={sqlite} pointsman serve" in result.stdout
    assert "/app/misroutes" in result.stdout
    assert len(rows(sqlite, decisions)) == len(rows(sqlite, stories)) == 100
    assert max(row["created_at"] for row in rows(sqlite, decisions)).date() < date(2026, 3, 1)


def test_a_demonstration_is_not_made_twice_but_anew(sqlite: str) -> None:
    demo(sqlite, "--seed", "1")
    first = rows(sqlite, decisions), rows(sqlite, outcomes), rows(sqlite, stories)
    again = demo(sqlite, "--seed", "2")
    assert again.exit_code == 2
    assert "--replace" in again.stderr
    assert (rows(sqlite, decisions), rows(sqlite, outcomes), rows(sqlite, stories)) == first
    assert demo(sqlite, "--seed", "2", "--replace").exit_code == 0
    assert {row["decision_id"] for row in rows(sqlite, decisions)}.isdisjoint(row["decision_id"] for row in first[0])
    assert demo(sqlite, "--seed", "1", "--replace").exit_code == 0
    assert (rows(sqlite, decisions), rows(sqlite, outcomes), rows(sqlite, stories)) == first


def make_real(url: str, **changed: Any) -> None:
    """As if one of the simulated decisions had been made by a router."""
    with apart(url).connect() as connection:
        one = connection.execute(sa.select(decisions.c.decision_id).limit(1)).scalar_one()
        for table in (decisions, stories):
            connection.execute(sa.update(table).where(table.c.decision_id == one).values(model_version="2026-01-01T00-00-00Z-3f2a", **changed))


def test_a_database_with_real_tickets_is_refused_and_left_as_it_is(sqlite: str) -> None:
    demo(sqlite)
    make_real(sqlite, ticket_id="T-1")
    with apart(sqlite).connect() as connection:
        connection.execute(sa.delete(decisions).where(decisions.c.model_version.startswith(SIMULATED)))
        connection.execute(sa.delete(outcomes))
        connection.execute(sa.delete(stories).where(stories.c.model_version.startswith(SIMULATED)))
    before = rows(sqlite, decisions)
    assert len(before) == 1
    for options in ([], ["--replace"]):
        result = demo(sqlite, *options)
        assert result.exit_code == 2
        assert "not simulated" in result.stderr
    assert rows(sqlite, decisions) == before
    assert rows(sqlite, outcomes) == []


def test_an_older_database_with_real_tickets_is_not_even_brought_up_to_date(sqlite: str) -> None:
    engine = database.connect(sqlite)
    database.migrate(engine, "0004")
    columns = "decision_id, text_digest, decided_at, created_at, model_version, path, language, action, decision"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO decisions ({columns}) VALUES ('1', '', 0, 0, '2026', 'fast', 'en', 'auto', '')")  # noqa: S608
    with pytest.raises(NotEmptyError):
        fill(engine, 100, 0, UNTIL)
    assert database.revision(engine) == "0004"
    engine.dispose()


def test_events_that_wait_for_real_tickets_are_not_mixed_with_simulated_ones(sqlite: str) -> None:
    engine = database.connect(sqlite)
    database.migrate(engine)
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    event = {
        "ticket_id": "demo-000001",
        "event_id": "e1",
        "happened_at": moment,
        "event": "closed",
        "by_whom": "person",
        "digest": "",
        "received_at": moment,
    }
    with engine.begin() as connection:
        connection.execute(sa.insert(outcomes), [event])
    with pytest.raises(NotEmptyError):
        fill(engine, 100, 0, UNTIL)
    assert len(rows(sqlite, outcomes)) == 1
    engine.dispose()


def test_replacing_takes_away_what_is_simulated_only(sqlite: str) -> None:
    demo(sqlite)
    make_real(sqlite, ticket_id="T-1")
    with apart(sqlite).connect() as connection:
        connection.execute(sa.update(outcomes).where(outcomes.c.ticket_id.not_in(sa.select(decisions.c.ticket_id))).values(ticket_id="T-1"))
    (real,) = [row for row in rows(sqlite, decisions) if row["ticket_id"] == "T-1"]
    events = [row for row in rows(sqlite, outcomes) if row["ticket_id"] == "T-1"]
    assert demo(sqlite).exit_code == 2
    assert demo(sqlite, "--replace", "--seed", "3").exit_code == 0
    assert [row for row in rows(sqlite, decisions) if row["ticket_id"] == "T-1"] == [real]
    assert [row for row in rows(sqlite, outcomes) if row["ticket_id"] == "T-1"] == events
    assert len(rows(sqlite, decisions)) == len(rows(sqlite, stories)) == 101


def test_one_that_was_cut_off_is_made_anew(sqlite: str) -> None:
    class KilledError(Exception):
        pass

    def killed(_: int) -> None:
        raise KilledError

    engine = database.connect(sqlite)
    database.migrate(engine)
    with pytest.raises(KilledError):
        filling.put(engine, simulate(400, 0, UNTIL), 0, killed)
    engine.dispose()
    assert 0 < len(rows(sqlite, decisions)) < 400
    assert demo(sqlite).exit_code == 2
    assert demo(sqlite, "--replace").exit_code == 0
    assert len(rows(sqlite, decisions)) == len(rows(sqlite, stories)) == 100
    ours = {row["ticket_id"] for row in rows(sqlite, decisions)}
    assert {row["ticket_id"] for row in rows(sqlite, outcomes)} <= ours


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--until", "tomorrow"], "tomorrow"),
        (["--until", f"{datetime.now(UTC).date() + timedelta(days=2)}"], "nothing is simulated ahead"),
        (["--tickets", "10"], "100"),
        (["--tickets", "2000000"], "1000000"),
    ],
)
def test_what_cannot_be_simulated_is_refused(options: list[str], says: str, sqlite: str) -> None:
    result = demo(sqlite, *options)
    assert result.exit_code == 2
    assert says in result.stderr


def test_a_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "fill", lambda *args, **kwargs: None)
    result = demo("postgresql://pointsman:secret@localhost/demo")
    assert result.exit_code == 0
    assert "secret" not in result.stdout
