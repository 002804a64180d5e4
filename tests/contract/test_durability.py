"""`pointsman serve` is killed while it answers: every decision that a client was given is in the database."""

import json
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from service import database
from service.database import decisions
from tests.serving import DATABASES, INCIDENT, Process, apart, command, free_port, process, wait_until

CLIENTS = 3  # of each service
ENOUGH = 100  # decisions answered before a service is killed


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


class Load:
    """Clients of one service, which ask without a pause: alone and in batches, with ids and without. They keep the answers."""

    def __init__(self, server: Process, threads: ThreadPoolExecutor) -> None:
        self.server = server
        self.answered: list[dict[str, Any]] = []
        self.asking: list[Future[None]] = [threads.submit(self._ask, client) for client in range(CLIENTS)]

    def _ask(self, client: int) -> None:
        with suppress(httpx.TransportError), httpx.Client(base_url=self.server.url) as asking:  # until the service is gone
            number = 0
            while True:
                ticket = {"ticket_id": f"{self.server.port}-{client}-{number}", "body": f"{INCIDENT} Number {number}."}
                if number % CLIENTS == client:
                    answer = asking.post("/classify/batch", json={"tickets": [ticket, {"body": INCIDENT}, ticket]})
                    self.answered += answer.raise_for_status().json()["results"]
                else:
                    answer = asking.post("/classify", json=ticket)
                    self.answered.append(answer.raise_for_status().json())
                number += 1

    def wait_for(self, answers: int) -> None:
        wait_until(lambda: len(self.answered) >= answers or any(one.done() for one in self.asking), f"{answers} answers", 30)
        assert [one.exception() for one in self.asking if one.done()] == []

    def kill(self) -> None:
        self.server.process.kill()
        assert [one.exception(timeout=10) for one in self.asking] == [None] * CLIENTS


def stored(url: str) -> dict[str, Any]:
    with apart(url).connect() as connection:
        found = connection.execute(sa.select(decisions.c.decision_id, decisions.c.decision)).all()
    return {row.decision_id: json.loads(row.decision) for row in found}


def test_what_was_answered_is_stored_though_the_services_are_killed(models: Path, tmp_path: Path, database_url: str) -> None:
    """Two services share the database; one is killed, the other goes on, and then that is killed too."""
    engine = database.connect(database_url)
    database.migrate(engine)
    engine.dispose()
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(2 * CLIENTS))
        servers = list(threads.map(lambda name: stack.enter_context(serve(models, tmp_path / name, database_url)), ("first", "second")))
        first, second = (Load(server, threads) for server in servers)
        first.wait_for(ENOUGH)
        first.kill()
        found = stored(database_url)
        assert [decision for decision in first.answered if found.get(decision["decision_id"]) != without_explanation(decision)] == []
        second.wait_for(len(second.answered) + ENOUGH)
        second.kill()
    found = stored(database_url)
    answered = first.answered + second.answered
    assert [decision for decision in answered if found.get(decision["decision_id"]) != without_explanation(decision)] == []
    tickets = [decision["ticket_id"] for decision in found.values() if decision["ticket_id"]]
    assert len(set(tickets)) == len(tickets)


def serve(models: Path, folder: Path, database_url: str) -> AbstractContextManager[Process]:
    folder.mkdir()
    port = free_port()
    return process(command("--model", models, "--port", str(port)), port, folder, POINTSMAN_DATABASE_URL=database_url)


def without_explanation(decision: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in decision.items() if name != "explanation"}
