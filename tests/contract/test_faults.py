"""The database fails while the service is asked without end: full, locked, read-only, gone, fallen.

Who asks is told no within a second, nothing that was answered is lost, and once the fault is over the service recovers by itself.
Faults that need no load are in `tests/service/test_writer.py` and `test_postgresql.py`.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from subprocess import PIPE

import pytest

from service.app import create_app
from service.settings import Settings
from tests.contract.test_durability import CLIENTS, Load, compiled_once, lost
from tests.postgresql import Server
from tests.serving import INCIDENT, command, free_port, listening, process, serving, wait_until


@contextmanager
def asked(settings: Settings) -> Iterator[Load]:
    """A service that clients ask without end."""
    with listening(create_app(settings)) as port, Load(port, "T").going_on() as load:
        load.wait_for_answers()
        yield load


def says_no(load: Load, seconds: float = 1) -> None:
    """To every ticket, for so long; it lives, and is not ready."""
    wait_until(lambda: load.in_a_row >= 2 * CLIENTS, "tickets are refused")
    answered = len(load.answered)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert [status(load, path) for path in ("/livez", "/readyz")] == [200, 503]
        time.sleep(0.1)
    assert len(load.answered) == answered


def recovers(load: Load, url: str) -> None:
    """Within seconds; all that was refused was refused in the same way and soon, and all that was answered is stored."""
    load.wait_for_answers(seconds=10)
    wait_until(lambda: status(load, "/readyz") == 200, "it is ready again")
    assert load.broken == 0
    assert {(refused.status, refused.code) for refused in load.refused} == {(503, "storage_unavailable")}
    seconds = sorted(refused.seconds for refused in load.refused)
    assert seconds[len(seconds) * 9 // 10] < 1.5  # one is promised; the clients share the processor with the service, and some wait for that
    assert lost(load.answered, url) == []


def status(load: Load, path: str) -> int:
    with closing(HTTPConnection("127.0.0.1", load.port, timeout=10)) as connection:
        connection.request("GET", path)
        return connection.getresponse().status


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """While it lasts, another process has the database to itself."""
    script = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('BEGIN EXCLUSIVE'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script, file], stdin=PIPE, stdout=PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"\n"
        try:
            yield
        finally:
            other.communicate()


@contextmanager
def moved(path: Path) -> Iterator[None]:
    """While it lasts, it is not where it was."""
    away = path.with_name(f"{path.name}-away")
    path.rename(away)
    try:
        yield
    finally:
        away.rename(path)


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """While it lasts, not a byte more can be written."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 20))
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """While it lasts, nobody may write into the files of `folder`."""
    modes = {path: path.stat().st_mode for path in (folder, *folder.iterdir())}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222)
    try:
        yield
    finally:
        for path, mode in modes.items():
            with suppress(FileNotFoundError):  # SQLite's log goes with the last who has the database open
                path.chmod(mode)


@pytest.fixture
def disk() -> Iterator[Callable[[str], Path]]:
    """Mounts an empty disk of the size that is asked for."""
    with tempfile.TemporaryDirectory(prefix="disk-") as folder:  # not in pytest's, which is closed to PostgreSQL's user

        def mount(size: str) -> Path:
            mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True, text=True)
            if mounted.returncode:
                pytest.skip(f"no disk may be mounted here: {mounted.stderr.strip()}")
            return Path(folder)

        yield mount
        if os.path.ismount(folder):
            subprocess.run(["umount", folder], check=True)


def test_sqlite_is_locked_by_another_process(settings: Settings, tmp_path: Path) -> None:
    with asked(settings) as load:
        with locked(tmp_path / "pointsman.db"):
            says_no(load, seconds=3)
        recovers(load, settings.database_url)


def test_sqlites_folder_is_gone(settings: Settings, tmp_path: Path) -> None:
    """Whoever holds a file open can go on writing it, and nobody finds it again."""
    folder = tmp_path / "data"
    folder.mkdir()
    url = f"sqlite:///{folder}/pointsman.db"
    with asked(settings.model_copy(update={"database_url": url})) as load:
        with moved(folder):
            says_no(load)
        recovers(load, url)


def test_sqlite_is_read_only(models: Path, tmp_path: Path) -> None:
    """A file that was opened before can still be written; it matters once it is opened again, as after a lock."""
    folder = tmp_path / "data"
    folder.mkdir()
    port, url = free_port(), f"sqlite:///{folder}/pointsman.db"
    # Root may write whatever the mode says, unless it is told that it may not.
    humble = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
    arguments = [*humble, *command("--model", models, "--port", str(port))]
    with process(arguments, port, tmp_path, POINTSMAN_DATABASE_URL=url, **compiled_once(models)), Load(port, "T").going_on() as load:
        load.wait_for_answers()
        with read_only(folder):
            with locked(folder / "pointsman.db"):
                wait_until(lambda: load.refused != [], "a ticket is refused")
            says_no(load)
        recovers(load, url)


def test_sqlites_disk_is_full(settings: Settings, disk: Callable[[str], Path]) -> None:
    folder = disk("20m")
    url = f"sqlite:///{folder}/pointsman.db"
    with asked(settings.model_copy(update={"database_url": url})) as load:
        with full(folder):
            says_no(load)
        recovers(load, url)


@pytest.mark.anyio
async def test_while_the_disk_is_full_it_is_not_ready_though_nobody_asks(settings: Settings, disk: Callable[[str], Path]) -> None:
    folder = disk("20m")
    async with serving(settings.model_copy(update={"database_url": f"sqlite:///{folder}/pointsman.db"})) as service:
        with full(folder):
            while (await service.classify(body=INCIDENT)).status_code == 200:
                pass  # into what SQLite had taken of the disk before
            for _ in range(25):  # it looks at the database every second
                assert (await service.client.get("/readyz")).status_code == 503
                await asyncio.sleep(0.1)


def test_postgresql_falls(settings: Settings, postgresql: str, postgresql_server: Server) -> None:
    with asked(settings.model_copy(update={"database_url": postgresql})) as load:
        try:
            postgresql_server.fall()
            says_no(load)
        finally:
            postgresql_server.start()
        recovers(load, postgresql)


@pytest.mark.usefixtures("postgresql_server")  # the package keeps a lock beside the first server's data
def test_postgresqls_disk_is_full(settings: Settings, disk: Callable[[str], Path]) -> None:
    """First PostgreSQL refuses what is new, then it finds no room for its log, and ends."""
    folder = disk("160m")
    with Server.running(folder) as server, server.database() as url, asked(settings.model_copy(update={"database_url": url})) as load:
        try:
            with full(folder):
                says_no(load)
                server.run_out_of_room()
                says_no(load)
        finally:
            server.start()
        recovers(load, url)
