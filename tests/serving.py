"""The service as the tests meet it: over HTTP, and its database through a connection of one's own."""

import json
import socket
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from service.app import create_app
from service.settings import Settings

INCIDENT = "Our dedicated server has been down since six this morning, it does not even answer a ping. Nothing was changed on our side."
QUESTION = "Boa tarde, como é que faço para transferir o meu domínio .pt para a vossa empresa?"


@dataclass
class Service:
    """One running application."""

    app: FastAPI
    client: httpx.AsyncClient
    database: Path

    def connect(self) -> sqlite3.Connection:
        """A connection that shares nothing with the application's."""
        return sqlite3.connect(self.database, isolation_level=None, timeout=5)

    def rows(self) -> list[dict[str, Any]]:
        """What is stored, oldest first."""
        with closing(self.connect()) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute("SELECT * FROM decisions ORDER BY rowid")]

    def write(self, statement: str) -> None:
        with closing(self.connect()) as connection:
            connection.execute(statement)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While it lasts, the application cannot write."""
        with closing(self.connect()) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")

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
        yield Service(app, client, Path(settings.database_url.removeprefix("sqlite:///")))


@contextmanager
def listening(app: FastAPI) -> Iterator[int]:
    """The port of a real server for `app`, for what only a socket shows."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        # WebSockets are not spoken here, and the library that would speak them warns of its own deprecation.
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="on", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            wait_until(lambda: server.started or not thread.is_alive(), "the server is up")
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(timeout=10)
    assert not thread.is_alive()


def wait_until(condition: Any, what: str, seconds: float = 10.0) -> None:
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
