"""Many tickets at once: each is answered as if it had come alone, in its place."""

from typing import Any

import pytest

from service.classify.schemas import MOST_TICKETS
from tests.serving import DATABASES, INCIDENT, QUESTION, Service, error_of

pytestmark = pytest.mark.anyio


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def _but_ids(decision: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in decision.items() if name != "decision_id"}


async def test_each_ticket_is_decided_as_if_it_had_come_alone(service: Service) -> None:
    tickets = [
        {"body": INCIDENT},
        {"subject": "URGENTE!!!", "body": QUESTION, "declared_kind": "incident"},
        {"subject": "-", "body": "\x00"},
        {"body": QUESTION, "language": "it", "customer_tier": "premium", "created_at": "2026-11-01T10:00:00Z"},
    ]
    together = await service.batch(*tickets)
    assert together.status_code == 200
    assert set(together.json()) == {"results"}
    alone = [(await service.classify(**ticket)).json() for ticket in tickets]
    assert list(map(_but_ids, together.json()["results"])) == list(map(_but_ids, alone))


async def test_results_keep_the_order_of_the_tickets(service: Service) -> None:
    names = [f"T-{i}" for i in range(60)]
    results = (await service.batch(*({"ticket_id": name, "body": QUESTION if i % 2 else INCIDENT} for i, name in enumerate(names)))).json()["results"]
    assert [result["ticket_id"] for result in results] == names
    assert [result["labels"]["kind"]["label"] for result in results] == ["incident", "advisory"] * 30
    assert [row["ticket_id"] for row in service.rows()] == names


async def test_a_wrong_ticket_gets_its_error_in_its_place_and_fails_no_other(service: Service) -> None:
    results = (await service.batch({"body": INCIDENT}, {"body": " "}, {"body": 5}, {"body": QUESTION})).json()["results"]
    assert [error_of(result) for result in results[1:3]] == ["no_text", "invalid_field"]
    assert [result["labels"]["kind"]["label"] for result in (results[0], results[3])] == ["incident", "advisory"]
    assert len(service.rows()) == 2


async def test_a_batch_of_wrong_tickets_is_answered_with_their_errors(service: Service) -> None:
    answer = await service.batch({}, {"body": ""})
    assert answer.status_code == 200
    assert [error_of(result) for result in answer.json()["results"]] == ["no_text", "no_text"]


async def test_no_tickets_no_results(service: Service) -> None:
    answer = await service.batch()
    assert answer.status_code == 200
    assert answer.json() == {"results": []}


async def test_the_largest_batch_is_taken_and_one_more_is_not(service: Service) -> None:
    assert MOST_TICKETS == 256
    tickets = [{"body": f"{INCIDENT} Server number {i}."} for i in range(MOST_TICKETS)]
    answer = await service.batch(*tickets)
    assert answer.status_code == 200
    assert len(answer.json()["results"]) == MOST_TICKETS
    more = await service.batch(*tickets, {"body": INCIDENT})
    assert more.status_code == 413
    assert error_of(more) == "too_many_tickets"
    assert len(service.rows()) == MOST_TICKETS


async def test_the_same_ticket_twice_in_a_batch_is_decided_once(service: Service) -> None:
    ticket = {"ticket_id": "T-1", "body": INCIDENT}
    results = (await service.batch(ticket, {"body": QUESTION}, ticket)).json()["results"]
    assert results[0] == results[2]
    assert [row["ticket_id"] for row in service.rows()] == ["T-1", None]


async def test_the_same_ticket_with_other_text_in_a_batch_is_a_conflict_in_its_place(service: Service) -> None:
    results = (await service.batch({"ticket_id": "T-1", "body": INCIDENT}, {"ticket_id": "T-1", "body": QUESTION}, {"body": QUESTION})).json()[
        "results"
    ]
    assert results[0]["ticket_id"] == "T-1"
    assert error_of(results[1]) == "ticket_conflict"
    assert results[2]["labels"]["kind"]["label"] == "advisory"
    assert [row["body"] for row in service.rows()] == [INCIDENT, QUESTION]


async def test_a_ticket_is_the_same_alone_and_in_a_batch(service: Service) -> None:
    alone = (await service.classify(ticket_id="T-1", body=INCIDENT)).json()
    again, other = (await service.batch({"ticket_id": "T-1", "body": INCIDENT}, {"ticket_id": "T-2", "body": QUESTION})).json()["results"]
    assert again == alone
    assert (await service.classify(ticket_id="T-2", body=QUESTION)).json() == other
    assert len(service.rows()) == 2
