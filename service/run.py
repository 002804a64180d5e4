"""`pointsman serve`: the application under uvicorn."""

import ctypes
import os
import signal
import socket
import sys
import tempfile
import threading
from contextlib import suppress
from multiprocessing import parent_process
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from prometheus_client import multiprocess
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from model import bundle
from model.errors import PolicyError
from model.policy import load_policy
from service import database
from service.app import create_app
from service.keys.service import KeyRing
from service.metrics import SHARED
from service.protocol import BoundedProtocol
from service.settings import Settings

_M_MMAP_THRESHOLD = -3  # of malloc.h
KEEP_ALIVE_SECONDS = 30
WORKER_SECONDS = 30  # without a sign of life, starting included, before a worker is replaced
DRAIN_SECONDS = 20  # for the requests at work when the service is told to stop


class CannotServeError(Exception):
    """The service would not be safe, or not able, to run as it was asked to."""


def run(model: Path, host: str, port: int, workers: int) -> None:
    """Serve until told to stop.

    Raises ModelError or CannotServeError before anything is answered.
    """
    # Being told to stop is not a failure, not even while it starts as the first process of a container, which ignores a signal that
    # it has no handler for. uvicorn drains on SIGTERM and then sends it to itself once more.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    # Worker processes build their application from the environment.
    os.environ["POINTSMAN_MODEL"] = str(model.resolve())
    os.environ["POINTSMAN_HOST"] = host
    settings = _settings()
    bundle.load(bundle.find(settings.model))
    try:
        load_policy(settings.policy)
    except PolicyError as error:
        raise CannotServeError(f"POINTSMAN_POLICY: {error}") from error
    _open_database(settings)
    config = uvicorn.Config(
        "service.run:application", factory=True, host=host, port=port, workers=workers, log_level="error", access_log=False,
        server_header=False, proxy_headers=False, http=BoundedProtocol, ws="none", timeout_graceful_shutdown=DRAIN_SECONDS, timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_worker_healthcheck=WORKER_SECONDS,
    )  # fmt: skip
    bound = _bind(host, port)
    shown = f"[{host}]" if ":" in host else host
    print(f"Pointsman serves on http://{shown}:{bound.getsockname()[1]} (stop it with Ctrl-C)", flush=True)  # noqa: T201
    if workers > 1:
        with tempfile.TemporaryDirectory(prefix="pointsman-metrics-") as shared:
            os.environ.setdefault(SHARED, shared)
            supervisor = Multiprocess(config, sockets=[bound])
            supervisor.run()
        if any(worker.exitcode == STARTUP_FAILURE for worker in supervisor.processes):
            raise CannotServeError("a worker could not start, see above; all have been stopped")
    else:
        uvicorn.Server(config).run(sockets=[bound])


def application() -> FastAPI:
    """The application that the environment asks for; each worker calls it."""
    _end_with_the_parent()
    _forget_dead_workers()
    _give_memory_back()
    # Between two products its threads wait by spinning: they took more of a processor than all else that the deep path's sums do.
    threadpool_limits(1, user_api="blas")
    return create_app(Settings(), alone=True)


def _end_with_the_parent() -> None:
    """A worker whose supervisor was killed would keep the port, and nobody would replace or stop it."""
    parent = parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent-watch", daemon=True).start()


def _forget_dead_workers() -> None:
    """What a worker that was killed last said of itself is no longer so."""
    for file in Path(os.environ[SHARED]).glob("gauge_live*.db") if SHARED in os.environ else ():
        pid = int(file.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def _give_memory_back() -> None:
    """Have each large block of memory mapped for itself, so that a replaced router's is free again: else glibc raises its threshold
    after the first and keeps the pieces, some 100 MB after a day of new champions. Other C libraries have no such call."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise CannotServeError(f"POINTSMAN_{str(first['loc'][0]).upper()}: {first['msg']}") from error


def _open_database(settings: Settings) -> None:
    """Bring the database up to date, before any worker needs it. Where a key is needed and there is none, nothing is made."""
    needs_key = not settings.loopback
    refusal = CannotServeError(
        f"--host {settings.host}: an address that others can reach needs an API key first; `pointsman keys add NAME` makes one, and without --host only this machine can ask"
    )
    try:
        engine = database.connect(settings.database_url)
        file = database.sqlite_file(engine)
        if needs_key and file and not file.exists():
            raise refusal
        database.migrate(engine)
        ring = KeyRing(engine, 0)
        ring.refresh()
        engine.dispose()
    except (SQLAlchemyError, ValueError, ImportError) as error:
        raise CannotServeError(f"POINTSMAN_DATABASE_URL: the database cannot be opened ({type(error).__name__})") from error
    if needs_key and ring.empty:
        raise refusal


def _bind(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        bound = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise CannotServeError(f"--host {host} --port {port}: cannot be bound: {error.strerror}") from error
    bound.set_inheritable(True)
    return bound
