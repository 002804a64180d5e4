"""The one writer of decisions and outcomes in a process: it shares a commit among the requests in flight.

A commit waits for the disk. While one is under way, the decisions of the requests that arrive gather; when it is done,
they are stored together, in one transaction, on a thread of the writer's own. So under load a commit serves many requests,
and alone a request waits for nothing but its own. Nothing waits for a timer.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import NamedTuple, TypeVar

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Connection, Engine

from service import database
from service.classify import repository
from service.classify.repository import Record, Stored
from service.database import BUSY_SECONDS
from service.errors import StorageUnavailable
from service.metrics import Metrics
from service.outcomes.repository import forget_reasons

MOST_TOGETHER = 512  # records in one transaction
MOST_WAITING = 8192  # records; more are refused at once
FORGET_EVERY = timedelta(hours=1)

log = structlog.get_logger()
_T = TypeVar("_T")


class _Job(NamedTuple):
    records: Sequence[Record]
    done: asyncio.Future[list[Stored]]
    since: float
    deadline: float


class Writer:
    """Start it in a running event loop, `write` from any coroutine of it, stop it: what was accepted is stored or refused
    before it stops."""

    def __init__(self, engine: Engine, keep_text_days: int, patience: float, metrics: Metrics) -> None:
        self._engine = engine
        self._keep = timedelta(days=keep_text_days)
        self._patience = patience
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, "decision-writer")
        self._connection: Connection | None = None  # belongs to the thread
        self._file = database.sqlite_file(engine)
        self._opened = (0, 0)  # device and inode of that file
        self._waiting: list[_Job] = []
        self._size = 0
        self._committing: asyncio.Future[list[Stored]] | None = None
        self._turn = asyncio.Lock()  # of other work than decisions
        self._forget_at = datetime.now(UTC)
        self.healthy = True
        metrics.ready.set(1)

    async def stop(self) -> None:
        """Store what is waiting, then end."""
        async with self._turn:  # after those who wait for theirs
            pass
        while self._committing is not None:
            await asyncio.wait([self._committing])
        await asyncio.get_running_loop().run_in_executor(self._thread, self._disconnect)
        self._thread.shutdown()

    async def write(self, records: Sequence[Record], since: float | None = None) -> list[Stored]:
        """Store `records`; returns once they are on the disk. Raises StorageUnavailable, at the latest when the patience is over
        that began now, or at `since` (of `time.monotonic`)."""
        if self._size + len(records) > MOST_WAITING:
            raise StorageUnavailable
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        since = now if since is None else since
        job = _Job(records, loop.create_future(), since, since + self._patience)
        self._waiting.append(job)
        self._size += len(records)
        if self._committing is None:
            self._commit_next()  # at once: the requests that are being answered in the meantime share the time with the disk
        giving_up = loop.call_later(job.deadline - now, self._give_up, job.done, "Timeout")
        try:
            return await job.done
        finally:
            giving_up.cancel()

    async def run(self, work: Callable[[Connection], _T]) -> _T:
        """What `work` gives, done in a transaction of its own on the writer's thread, maybe more than once until it succeeds; returns
        once that is on the disk. Raises StorageUnavailable when the patience is over, and then nothing of it is stored.

        One such work is done at a time, so that decisions have their turns in between."""
        deadline = time.monotonic() + self._patience
        try:
            async with asyncio.timeout(self._patience), self._turn:
                if time.monotonic() + BUSY_SECONDS > deadline:
                    raise TimeoutError  # as in `_take`
                doing = asyncio.get_running_loop().run_in_executor(self._thread, self._transact, work, deadline)
                doing.add_done_callback(asyncio.Future.exception)  # of one that was given up nobody asks it
                done = await asyncio.shield(doing)
        except TimeoutError:
            self.failed("Timeout")
            raise StorageUnavailable from None
        except (sa.exc.SQLAlchemyError, OSError) as error:
            self.failed(type(error).__name__)
            raise StorageUnavailable from None
        self._recovered()
        return done

    def _commit_next(self) -> None:
        """Begin to commit what waits, if anything does."""
        self._committing = None
        jobs = self._take(time.monotonic())
        if jobs:
            records = [record for job in jobs for record in job.records]
            deadline = min(job.deadline for job in jobs)
            store = partial(_store, records)
            self._committing = asyncio.get_running_loop().run_in_executor(self._thread, self._transact, store, deadline)
            self._committing.add_done_callback(partial(self._committed, jobs))

    def _committed(self, jobs: list[_Job], commit: asyncio.Future[list[Stored]]) -> None:
        """Tell those who wait what became of their commit, and begin the next."""
        error = commit.exception()
        if error is not None:  # whatever the database threw, every request that waits must hear of it
            for job in jobs:
                self._give_up(job.done, type(error).__name__)
        else:
            self._recovered()
            stored = commit.result()
            self._metrics.written_together.observe(len(stored))
            start = 0
            for job in jobs:
                if not job.done.done():
                    job.done.set_result(stored[start : start + len(job.records)])
                start += len(job.records)
        self._commit_next()

    def _take(self, now: float) -> list[_Job]:
        jobs: list[_Job] = []
        taken = records = 0
        for job in self._waiting:
            if records >= MOST_TOGETHER:
                break
            taken += 1
            # A request that gave up has been answered 503, and one that would give up before a commit that has to wait for a lock is
            # done gives up now: its decision must not appear behind its back.
            if now + BUSY_SECONDS > job.deadline:
                self._give_up(job.done, "Timeout")
            elif not job.done.done():
                self._metrics.queue_seconds.observe(now - job.since)
                jobs.append(job)
                records += len(job.records)
        self._size -= sum(len(job.records) for job in self._waiting[:taken])
        del self._waiting[:taken]
        return jobs

    async def tend(self) -> None:
        """What is to be done now and then, called every second or so: forget old text; and while storing fails, try, so that the
        service is ready again without a customer having to find out."""
        now = datetime.now(UTC)
        if self.healthy and now < self._forget_at:
            return
        try:
            forgotten = await asyncio.get_running_loop().run_in_executor(self._thread, self._forget, now - self._keep)
        except (sa.exc.SQLAlchemyError, OSError) as error:
            log.debug("forgetting_failed", error=type(error).__name__)
            return
        if not forgotten:  # else there may be more, next time
            self._forget_at = now + FORGET_EVERY
        self._recovered()

    def _recovered(self) -> None:
        if not self.healthy:
            self.healthy = True
            self._metrics.ready.set(1)
            log.info("storage_recovered")

    def _give_up(self, done: asyncio.Future[list[Stored]], why: str) -> None:
        if not done.done():
            done.set_exception(StorageUnavailable())
            self.failed(why)

    def failed(self, why: str) -> None:
        """Decisions cannot be stored now; said once."""
        if self.healthy:
            self.healthy = False
            self._metrics.ready.set(0)
            log.error("storage_unavailable", error=why)

    # What follows runs on the writer's thread.

    def _transact(self, work: Callable[[Connection], _T], deadline: float) -> _T:
        """Do `work` in one transaction, unless `deadline` (of `time.monotonic`) passes first: by then it has been refused."""
        for attempt in (1, 2, 3):
            if time.monotonic() > deadline:
                raise TimeoutError
            try:
                with self._metrics.write_seconds.time():
                    connection = self._connect()
                    with connection.begin():
                        done = work(connection)
                        if time.monotonic() > deadline:
                            raise TimeoutError  # rolls back
                    return done
            except sa.exc.IntegrityError:  # another process was first with one of the tickets: look again
                if attempt == 3:
                    raise
            except sa.exc.DBAPIError as error:
                self._disconnect()
                if not error.connection_invalidated or attempt == 3:  # else the connection had died while nobody asked: a new one may do
                    raise
            except Exception:
                self._disconnect()
                raise
        raise AssertionError("unreachable")

    def _connect(self) -> Connection:
        if self._file is not None:
            # Who holds a file open goes on writing it after it was moved or deleted, and nobody would find that again. FileNotFoundError.
            found = self._file.stat()
            if self._opened != (found.st_dev, found.st_ino):
                self._disconnect()
                self._opened = (found.st_dev, found.st_ino)
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.invalidate()
            connection.close()

    def _forget(self, before: datetime) -> int:
        try:
            if not self.healthy:
                repository.try_storing(self._connect())
            with self._connect().begin():
                forgotten = repository.forget_text(self._connect(), before) + forget_reasons(self._connect(), before)
        except Exception:
            self._disconnect()
            raise
        if forgotten:
            log.info("text_forgotten", texts=forgotten)
        return forgotten


def _store(records: Sequence[Record], connection: Connection) -> list[Stored]:
    return repository.store(connection, records)
