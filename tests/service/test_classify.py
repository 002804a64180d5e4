"""One ticket: the contract of the answer, and what the same ticket_id gives the second time."""

import asyncio
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest
import sqlalchemy as sa

from model import bundle
from model.decision import Decider, Ticket
from model.policy import load_policy
from model.router import Router
from model.taxonomy import load_taxonomy
from service.classify import service as rules
from service.classify.schemas import TicketIn
from service.database import decisions, stories
from tests.service.test_health import sample
from tests.serving import DATABASES, INCIDENT, QUESTION, Service, error_of

pytestmark = pytest.mark.anyio

FIELDS = {
    "decision_id", "ticket_id", "model_version", "path", "language", "labels", "action", "reasons", "also_involve", "route",
    "misdirected", "advice", "explanation",
}  # fmt: skip


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


async def test_the_answer_has_the_fields_of_a_decision_and_no_others(service: Service, home: Path) -> None:
    answer = await service.classify(body=INCIDENT, ticket_id="T-1")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    decision = answer.json()
    assert set(decision) == FIELDS
    assert set(decision["language"]) == {"code", "confidence"}
    assert set(decision["route"]) == {"queue", "priority", "respond_within_minutes"}
    assert decision["ticket_id"] == "T-1"
    assert decision["model_version"] == home.name
    assert decision["path"] == "fast"


async def test_every_target_is_answered_with_its_most_probable_label(service: Service) -> None:
    decision = (await service.classify(body=QUESTION)).json()
    taxonomy = load_taxonomy()
    assert set(decision["labels"]) == set(taxonomy.targets) == {"kind", "department"}
    for name, answer in decision["labels"].items():
        assert set(answer) == {"label", "confidence", "alternatives"}
        guesses = [answer, *answer["alternatives"]]
        assert {guess["label"] for guess in guesses} <= set(taxonomy.targets[name].labels)
        assert len({guess["label"] for guess in guesses}) == len(guesses)
        shares = [guess["confidence"] for guess in guesses]
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) < 1.0005  # each is rounded to four digits
    assert decision["labels"]["kind"]["label"] == "advisory"
    assert decision["labels"]["department"]["label"] == "domains"


@pytest.mark.parametrize(
    "ticket",
    [
        {"body": INCIDENT},
        {"subject": "URGENTE!!!", "body": QUESTION, "declared_kind": "incident", "channel": "web"},
        {"subject": "facture", "body": "", "customer_tier": "premium", "country": "FR"},
        {"subject": "<b>Zażółć</b>", "body": "gęślą &amp; jaźń\r\n-- \r\nJan", "language": "pl-PL"},
        {"body": "サーバーが落ちています"},
    ],
)
async def test_the_answer_is_what_the_model_decides(service: Service, home: Path, ticket: dict[str, str]) -> None:
    answer = (await service.classify(**ticket)).json()
    alone = Ticket(**{"subject": "", "body": "", **ticket})
    (expected,) = Decider(bundle.load(home), load_policy()).decide([alone], explain=True, advise=True)
    assert {name: answer[name] for name in expected} == orjson.loads(orjson.dumps(expected))


async def test_advice_filed_as_an_incident_is_told_so_in_the_customers_language(service: Service) -> None:
    decision = (await service.classify(subject="URGENTE!!!", body=QUESTION, declared_kind="incident")).json()
    assert decision["labels"]["kind"]["label"] == "advisory"
    assert decision["language"]["code"] == "pt"
    assert decision["misdirected"] is True
    assert decision["advice"]["message"] == load_policy().advice.messages["pt"]


@pytest.mark.parametrize(("declared", "misdirected"), [("advisory", False), ("incident", True), ("something else", True), (None, None)])
async def test_misdirected_compares_with_what_was_declared(service: Service, declared: str | None, misdirected: bool | None) -> None:
    decision = (await service.classify(body=QUESTION, declared_kind=declared)).json()
    assert decision["misdirected"] is misdirected
    assert (decision["advice"] is not None) is (declared == "incident")


async def test_a_language_that_was_told_is_believed(service: Service) -> None:
    assert (await service.classify(body=QUESTION, language="it-CH")).json()["language"] == {"code": "it", "confidence": 1.0}


@pytest.mark.parametrize("body", ["\u200b", "<p></p>", "\x00", "\ufeff"])
async def test_text_that_cleans_to_nothing_is_for_a_person(service: Service, router: Router, body: str) -> None:
    answer = await service.classify(body=body)
    assert answer.status_code == 200
    assert answer.json()["action"] == "review"
    assert answer.json()["reasons"] == ["empty"]
    assert {target.name for target in router.targets} == set(answer.json()["labels"])


async def test_an_explanation_says_where_its_phrases_stand(service: Service) -> None:
    explanation = (await service.classify(body=INCIDENT)).json()["explanation"]
    assert set(explanation) == {"kind", "department"}
    for phrases in explanation.values():
        assert phrases
        for phrase in phrases:
            assert INCIDENT[phrase["start"] : phrase["end"]] == phrase["text"]
            assert phrase["weight"] != 0


SAME: list[dict[str, Any]] = [{}, {"channel": "phone", "declared_kind": "advisory", "language": "fr"}, {"subject": ""}, {"subject": None}]


@pytest.mark.parametrize("more", SAME)
async def test_the_same_ticket_with_the_same_text_gives_the_stored_decision(service: Service, more: dict[str, Any]) -> None:
    first = await service.classify(ticket_id="T-1", body=INCIDENT)
    again = await service.classify(ticket_id="T-1", body=INCIDENT, **more)
    assert again.status_code == 200
    assert again.json() == first.json()
    assert len(service.rows()) == 1


@pytest.mark.parametrize("other", [{"body": INCIDENT + " "}, {"subject": INCIDENT}, {"subject": "x", "body": INCIDENT}, {"body": QUESTION}])
async def test_the_same_ticket_with_other_text_is_a_conflict(service: Service, other: dict[str, str]) -> None:
    first = await service.classify(ticket_id="T-1", body=INCIDENT)
    conflict = await service.classify(ticket_id="T-1", **other)
    assert conflict.status_code == 409
    assert error_of(conflict) == "ticket_conflict"
    assert (await service.classify(ticket_id="T-1", body=INCIDENT)).json() == first.json()
    assert len(service.rows()) == 1


async def test_text_moved_between_subject_and_body_is_other_text(service: Service) -> None:
    assert (await service.classify(ticket_id="T-1", subject="server", body="down")).status_code == 200
    assert (await service.classify(ticket_id="T-1", subject="serverd", body="own")).status_code == 409


async def test_a_ticket_without_a_time_of_its_own_is_of_the_time_it_was_decided(service: Service) -> None:
    await service.classify(body=INCIDENT)
    (row,) = service.rows()
    assert row["created_at"] == row["decided_at"]


async def test_without_a_ticket_id_each_request_is_its_own_decision(service: Service) -> None:
    answers = [(await service.classify(body=INCIDENT)).json() for _ in range(2)]
    assert answers[0]["decision_id"] != answers[1]["decision_id"]
    assert [answer["ticket_id"] for answer in answers] == [None, None]
    assert len(service.rows()) == 2


async def test_what_is_known_of_a_ticket_is_stored_with_its_decision(service: Service) -> None:
    ticket = {
        "ticket_id": "T-1", "subject": "URGENTE!!!", "body": QUESTION, "declared_kind": "incident", "channel": "web",
        "customer_tier": "premium", "customer_ref": "C-7", "country": "PT",
    }  # fmt: skip
    decision = (await service.classify(**ticket, created_at="2026-11-01T23:30:00-02:00")).json()
    (row,) = service.rows()
    assert {name: row[name] for name in ticket} == ticket
    assert row["decision_id"] == decision["decision_id"]
    assert row["model_version"] == decision["model_version"]
    assert (row["kind"], row["department"]) == (decision["labels"]["kind"]["label"], decision["labels"]["department"]["label"])
    assert (row["action"], row["language"], row["path"]) == (decision["action"], "pt", "fast")
    assert row["created_at"] == datetime(2026, 11, 2, 1, 30, tzinfo=UTC)
    assert abs(row["decided_at"] - datetime.now(UTC)) < timedelta(seconds=60)
    assert orjson.loads(row["explanation"]) == decision.pop("explanation")
    assert orjson.loads(row["decision"]) == decision


async def test_a_decision_is_given_again_from_the_database(service: Service) -> None:
    """Not from a memory of this process: another may have written it."""
    first = (await service.classify(ticket_id="T-1", body=INCIDENT)).json()
    service.write(sa.update(decisions).values(ticket_id="T-2"))
    service.write(sa.update(stories).values(ticket_id="T-2"))
    again = (await service.classify(ticket_id="T-2", body=INCIDENT)).json()
    assert again["decision_id"] == first["decision_id"]
    assert (await service.classify(ticket_id="T-1", body=INCIDENT)).json()["decision_id"] != first["decision_id"]


async def test_those_that_arrive_together_are_decided_and_stored_together(service: Service) -> None:
    texts = [INCIDENT, QUESTION] * 8
    answers = await asyncio.gather(*(service.classify(ticket_id=f"T-{i}", body=text) for i, text in enumerate(texts)))
    for i, (answer, text) in enumerate(zip(answers, texts, strict=True)):
        decision = answer.json()
        assert decision["ticket_id"] == f"T-{i}"
        assert decision["labels"]["kind"]["label"] == ("incident" if text == INCIDENT else "advisory")
    assert await sample(service.client, "pointsman_stage_seconds_count", stage="classify") < len(texts)
    assert await sample(service.client, "pointsman_written_together_sum") == len(texts) == len(service.rows())


async def test_a_ticket_that_breaks_its_reader_leaves_its_neighbours_alone(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Decider.clean

    def breaks(tickets: Sequence[Ticket]) -> list[str]:
        assert all(ticket.body != "breaks" for ticket in tickets)
        return whole(tickets)

    monkeypatch.setattr(Decider, "clean", staticmethod(breaks))
    answers = await asyncio.gather(*(service.classify(body=body) for body in (INCIDENT, "breaks", QUESTION)))
    assert [answer.status_code for answer in answers] == [200, 500, 200]
    assert error_of(answers[1]) == "internal"
    assert len(service.rows()) == 2


async def test_while_a_long_ticket_is_read_others_are_answered(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, reads, goes_on = Decider.clean, threading.Event(), threading.Event()

    def waits(tickets: Sequence[Ticket]) -> list[str]:
        if len(tickets[0].body) > len(INCIDENT):
            reads.set()
            assert goes_on.wait(10)
        return whole(tickets)

    monkeypatch.setattr(Decider, "clean", staticmethod(waits))
    asked = asyncio.create_task(service.classify(body=INCIDENT * 400))
    assert await asyncio.to_thread(reads.wait, 10)
    assert (await service.classify(body=INCIDENT)).status_code == 200
    assert not asked.done()
    goes_on.set()
    assert (await asked).status_code == 200


@pytest.mark.parametrize(("turns", "usual"), [(rules._TURNS, {8}), (0, {1, 7})])
async def test_clients_that_come_back_after_a_commit_share_the_next_one(monkeypatch: pytest.MonkeyPatch, turns: int, usual: set[int]) -> None:
    """Seven came while a commit was under way: without the turns they and the one before stay apart for good."""
    commits: list[int] = []

    async def store(_: Any, decided: list[Any], __: float) -> list[bytes]:
        commits.append(len(decided))
        await asyncio.sleep(0.002)
        return [b"{}"] * len(decided)

    monkeypatch.setattr(rules, "_TURNS", turns)
    monkeypatch.setattr(rules, "classify", lambda _, tickets: [SimpleNamespace(doubt=None) for _ in tickets])
    monkeypatch.setattr(rules, "store", store)
    desk, state = rules.Desk(), SimpleNamespace(settings=SimpleNamespace(write_seconds=5.0))

    async def client(number: int) -> None:
        await asyncio.sleep(0.001 if number else 0)
        for _ in range(20):
            await desk.answer(cast(Any, state), TicketIn(body="x"), cast(Any, None))
            await asyncio.sleep(0)  # the way there and back

    await asyncio.gather(*map(client, range(8)))
    assert sum(commits) == 160
    assert set(commits[4:-4]) <= usual, commits
