"""`pointsman serve` is killed while it answers, a worker or all of it: every decision that a client was given is in the database.

    pytest tests/contract/test_durability.py --kills 10 --log-cli-level=info

kills ten times what is killed twice otherwise, and tells what was answered.
"""

import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

import httpx
import pytest
import sqlalchemy as sa

from service.classify.schemas import MOST_TICKETS
from service.database import decisions
from tests.postgresql import Server
from tests.serving import DATABASES, INCIDENT, Process, apart, command, free_port, process, wait_until

CLIENTS = 6
ENOUGH = 100  # decisions answered before the next kill
PAUSE = 0.005  # of a client after each answer: the processor is also needed by what starts
REFUSED_PAUSE = 0.05
ASKED_OVER_ONE_CONNECTION = 20  # then a client opens another, so that both workers get their share

pytestmark = pytest.mark.timeout(1200)  # as many kills as are asked for

log = logging.getLogger(__name__)


class Refused(NamedTuple):
    """An answer other than 200, and the seconds that the client waited for it."""

    status: int
    code: str
    seconds: float


class Load:
    """Clients that ask without end: alone and in batches, with ids and without. Like a ticket intake they ask again where the
    connection broke or the answer was no, and they keep every answer."""

    def __init__(self, port: int, name: str) -> None:
        self.port = port
        self.name = name
        self.answered: list[dict[str, Any]] = []
        self.refused: list[Refused] = []
        self.broken = 0
        self.in_a_row = 0  # answers other than 200 since the last 200
        self._stopped = Event()
        self._asking: list[Future[None]] = []

    @contextmanager
    def going_on(self) -> Iterator["Load"]:
        """While it lasts, the clients ask."""
        with ThreadPoolExecutor(CLIENTS) as threads:
            self._asking = [threads.submit(self._ask, client) for client in range(CLIENTS)]
            try:
                yield self
            finally:
                self._stopped.set()
        for client in self._asking:
            client.result()

    def wait_for_answers(self, seconds: float = 60) -> None:
        """Until ENOUGH more decisions were answered."""
        aim = len(self.answered) + ENOUGH
        wait_until(lambda: len(self.answered) >= aim or any(one.done() for one in self._asking), f"{ENOUGH} more answers", seconds)
        assert [one.exception() for one in self._asking if one.done()] == []

    def _ask(self, client: int) -> None:
        sent = count(1)
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            for number in count():
                asked = ticket(f"{self.name}-{client}-{number}")
                path, body = "/classify", asked
                if number % CLIENTS == client:
                    path, body = "/classify/batch", {"tickets": [asked, {"body": INCIDENT}, asked]}
                decided: list[dict[str, Any]] = []
                while not decided:
                    decided = self._send(connection, path, body)
                    self.answered += decided
                    if next(sent) % ASKED_OVER_ONE_CONNECTION == 0:
                        connection.close()
                    if self._stopped.wait(PAUSE if decided else REFUSED_PAUSE):
                        return

    def _send(self, connection: HTTPConnection, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The decisions of the answer, none where it was no or did not come."""
        since = time.monotonic()
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            found = json.loads(answer.read())
        except (OSError, HTTPException):
            connection.close()
            self.broken += 1
            return []
        if answer.status != 200:
            self.refused.append(Refused(answer.status, found["error"]["code"], time.monotonic() - since))
            self.in_a_row += 1
            return []
        self.in_a_row = 0
        return list(found["results"]) if "results" in found else [found]


def ticket(name: str) -> dict[str, Any]:
    return {"ticket_id": name, "body": f"{INCIDENT} {name}"}


def stored(url: str) -> dict[str, Any]:
    """By their ids, the decisions in the database as they are answered."""
    columns = decisions.c.decision_id, decisions.c.decision, decisions.c.explanation
    with apart(url).connect() as connection:
        return {
            row.decision_id: json.loads(row.decision) | {"explanation": json.loads(row.explanation)}
            for row in connection.execute(sa.select(*columns))
        }


def lost(answered: list[dict[str, Any]], url: str) -> list[dict[str, Any]]:
    """Those that are not in the database, or not as they were answered."""
    answered = answered[:]  # what comes while the database is read may not be in what was read
    found = stored(url)
    return [decision for decision in answered if found.get(decision["decision_id"]) != decision]


@dataclass
class Deployment:
    """`pointsman serve` with two workers, on one port and one database; it can be killed and started again."""

    models: Path
    folder: Path
    database_url: str
    port: int = field(default_factory=free_port)
    _server: Process | None = None
    _end: ExitStack = field(default_factory=ExitStack)

    @property
    def runs(self) -> bool:
        return self._server is not None and self._server.process.poll() is None

    @property
    def pid(self) -> int:
        """Of the process that was started, which starts the workers and replaces them."""
        assert self._server
        assert self.runs, self._server.said
        return self._server.process.pid

    def start(self) -> None:
        # Where processes start again and again, others may wait for the processor: that is no reason to refuse a ticket.
        variables = {"POINTSMAN_DATABASE_URL": self.database_url, "POINTSMAN_WRITE_SECONDS": "20", **compiled_once(self.models)}
        arguments = command("--model", self.models, "--port", str(self.port), "--workers", "2")
        self._end.close()
        self._server = self._end.enter_context(process(arguments, self.port, self.folder, **variables))

    def workers(self) -> list[int]:
        """Their processes, the oldest first."""
        found = []
        for child in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii").split():
            with suppress(OSError):  # it has just ended
                # Python starts a process beside them, to tidy up after them.
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
        return found

    def asked(self) -> list[int]:
        """The workers that clients are connected to."""
        rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
        connections = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{self.port:04X}") and row[3] == "01"}
        return [worker for worker in self.workers() if connections & opened_by(worker)]

    def meter(self, name: str) -> float:
        """What /metrics says of it, of all workers: of a gauge the least."""
        said = httpx.get(f"http://localhost:{self.port}/metrics", timeout=30).text
        return next(float(line.split()[-1]) for line in said.splitlines() if line.startswith(f"{name} "))

    def kill(self) -> None:
        """All its processes, with no time to finish anything."""
        os.kill(self.pid, signal.SIGSTOP)  # it starts no more of them
        for each in (*self.workers(), self.pid):
            os.kill(each, signal.SIGKILL)
        assert self.ended() == -signal.SIGKILL

    def ended(self) -> int:
        """Wait for its end; the exit code."""
        assert self._server
        code = self._server.process.wait(timeout=20)
        self._end.close()
        return code


def compiled_once(models: Path) -> dict[str, str]:
    """The variables with which Python keeps what it compiled, where it is told not to: a start takes half as long."""
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(models.with_name("compiled"))} if sys.dont_write_bytecode else {}


def opened_by(process: int) -> set[str]:
    """Its files and sockets; none once it has ended."""
    found = set()
    with suppress(OSError):  # it has just ended, or closed one of them
        for file in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):
                found.add(str(file.readlink()))
    return found


@pytest.fixture(scope="module", params=DATABASES)
def database_url(request: pytest.FixtureRequest, postgresql_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('database')}/pointsman.db"
    else:
        with postgresql_server.database() as url:
            yield url


@pytest.fixture(scope="module")
def deployment(models: Path, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    deployment = Deployment(models, tmp_path_factory.mktemp("deployment"), database_url)
    yield deployment
    if deployment.runs:
        deployment.kill()


@pytest.fixture
def service(deployment: Deployment) -> Deployment:
    """It runs, for as many tests as it survives: to start it takes longer than most of them."""
    if not deployment.runs:
        deployment.start()
    return deployment


@pytest.fixture
def kills(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.getoption("--kills"))


def test_a_worker_is_killed(service: Deployment, kills: int) -> None:
    """Again and again, the oldest each time: those that answer in the end are replacements."""
    since, first, longest = time.monotonic(), service.workers(), 0.0
    with Load(service.port, "worker").going_on() as load:
        for _ in range(kills):
            wait_until(lambda: len(service.asked()) == 2, "two workers are asked", 60)
            killed = time.monotonic()
            os.kill(service.workers()[0], signal.SIGKILL)
            load.wait_for_answers()
            longest = max(longest, time.monotonic() - killed)
    assert set(first[:kills]).isdisjoint(service.workers())
    assert load.broken >= kills
    assert load.refused == []
    assert lost(load.answered, service.database_url) == []
    log.info(
        "killed a worker %d times: answered %d, lost 0, broken %d, %d more answers after at most %.1f s; %.0f s",
        kills, len(load.answered), load.broken, ENOUGH, longest, time.monotonic() - since,
    )  # fmt: skip


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_worker_is_killed_while_the_database_is_away(service: Deployment, postgresql_server: Server) -> None:
    """It is replaced all the same, and takes the other with it least of all."""
    with Load(service.port, "away").going_on() as load:
        load.wait_for_answers()
        with postgresql_server.stopped():
            killed = service.workers()[0]
            os.kill(killed, signal.SIGKILL)
            wait_until(lambda: len(set(service.asked()) - {killed}) == 2, "the worker is replaced and asked", 60)
        load.wait_for_answers()
        # Each worker finds out for itself, within a second or so, that the database is back: the next test counts refusals.
        wait_until(lambda: service.meter("pointsman_ready") == 1, "every worker is ready", 60)
    assert {(refused.status, refused.code) for refused in load.refused} <= {(503, "storage_unavailable")}
    assert lost(load.answered, service.database_url) == []


def test_the_whole_service_is_killed(service: Deployment, kills: int) -> None:
    """Again and again; started on the same database it remembers what it answered."""
    since = time.monotonic()
    with Load(service.port, "service").going_on() as load:
        for _ in range(kills):
            load.wait_for_answers()
            service.kill()
            service.start()
            named = [decision for decision in load.answered if decision["ticket_id"]][-MOST_TICKETS:]
            tickets = [ticket(decision["ticket_id"]) for decision in named]
            again = httpx.post(f"http://localhost:{service.port}/classify/batch", json={"tickets": tickets}, timeout=30)
            assert again.json()["results"] == named
        load.wait_for_answers()
    assert load.broken >= kills
    assert load.refused == []
    assert lost(load.answered, service.database_url) == []
    log.info("killed the service %d times: answered %d, lost 0, broken %d; %.0f s", kills, len(load.answered), load.broken, time.monotonic() - since)


def test_it_is_told_to_stop(service: Deployment) -> None:
    """What is at work is answered, however slowly it is sent; then the service ends."""
    with Load(service.port, "stop").going_on() as load, ExitStack() as end:
        wait_until(lambda: len(service.asked()) == 2, "two workers are asked", 60)
        connections = [end.enter_context(closing(socket.create_connection(("127.0.0.1", service.port)))) for _ in range(10)]
        slow = [SlowRequest(connection, f"slow-{i}") for i, connection in enumerate(connections)]
        workers = service.workers()
        os.kill(service.pid, signal.SIGTERM)
        time.sleep(1)  # the workers are told within half a second
        answered = [request.finish() for request in slow]
        since = time.monotonic()
        assert service.ended() == 0
        assert time.monotonic() - since < 10
    assert [decision["ticket_id"] for decision in answered] == [f"slow-{i}" for i in range(10)]
    assert not any(map(opened_by, workers))
    assert load.refused == []
    assert lost([*load.answered, *answered], service.database_url) == []


def test_no_worker_outlives_the_process_that_started_it(models: Path, tmp_path: Path, sqlite: str) -> None:
    """Else it keeps the port, and the service cannot be started again."""
    service = Deployment(models, tmp_path, sqlite)
    service.start()
    workers = service.workers()
    os.kill(service.pid, signal.SIGKILL)
    service.ended()
    try:
        wait_until(lambda: not any(map(opened_by, workers)), "the workers have ended", 10)
    finally:
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)


class SlowRequest:
    """It is at work: the service has read its head and begun to read its body."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        self.connection = connection
        self.body = json.dumps(ticket(name)).encode()
        head = [
            "POST /classify HTTP/1.1",
            "Host: localhost",
            "Content-Type: application/json",
            f"Content-Length: {len(self.body)}",
            "Expect: 100-continue",
        ]
        connection.settimeout(30)
        connection.sendall("\r\n".join([*head, "", ""]).encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")

    def finish(self) -> dict[str, Any]:
        """Send the body; the decision."""
        self.connection.sendall(self.body)
        answer = b""
        while part := self.connection.recv(65536):  # until the service closes the connection
            answer += part
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        return dict(json.loads(body))
