"""The one writer of decisions in a process: it shares a commit among the requests in flight.

A commit waits for the disk. One thread takes whatever is waiting, stores it in one transaction and tells every request
once it is safe; while the disk works, the next requests gather. Nothing waits for a timer.
"""

import asyncio
import queue
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa
import structlog
from sqlalchemy.engine import Engine

from service.classify import repository
from service.classify.repository import Record, Stored
from service.errors import StorageUnavailable
from service.metrics import Metrics

MOST_TOGETHER = 512  # records in one transaction
MOST_WAITING = 4096  # jobs; more are refused at once
FORGET_EVERY = timedelta(hours=1)

log = structlog.get_logger()


class _Job:
    __slots__ = ("done", "loop", "records")

    def __init__(self, records: Sequence[Record], loop: asyncio.AbstractEventLoop) -> None:
        self.records = records
        self.loop = loop
        self.done: asyncio.Future[list[Stored]] = loop.create_future()


class Writer:
    """Start it, `write` from any coroutine, stop it: what was accepted is stored or refused before it stops."""

    def __init__(self, engine: Engine, keep_text_days: int, patience: float, metrics: Metrics) -> None:
        self._engine = engine
        self._keep = timedelta(days=keep_text_days)
        self._patience = patience
        self._metrics = metrics
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="decision-writer", daemon=True)
        self._forget_at = datetime.now(UTC)
        self.healthy = True

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Store what is waiting, then end."""
        self._jobs.put(None)
        self._thread.join(timeout=10)

    async def write(self, records: Sequence[Record]) -> list[Stored]:
        """Store `records`; returns once they are on the disk. Raises StorageUnavailable, at the latest after the patience."""
        if self._jobs.qsize() >= MOST_WAITING or not self._thread.is_alive():
            raise StorageUnavailable
        job = _Job(records, asyncio.get_running_loop())
        self._jobs.put(job)
        try:
            async with asyncio.timeout(self._patience):
                return await job.done
        except TimeoutError:
            self._metrics.refused.labels("storage_unavailable").inc()
            raise StorageUnavailable from None

    def _run(self) -> None:
        stopping = False
        while not stopping:
            try:
                first = self._jobs.get(timeout=60)
            except queue.Empty:
                self._forget()
                continue
            jobs = []
            waiting: _Job | None = first
            while True:
                if waiting is None:
                    stopping = True
                    break
                # A request that gave up has been answered 503: its decision must not appear behind its back.
                if not waiting.done.cancelled():
                    jobs.append(waiting)
                if sum(len(job.records) for job in jobs) >= MOST_TOGETHER:
                    break
                try:
                    waiting = self._jobs.get_nowait()
                except queue.Empty:
                    break
            if jobs:
                self._store(jobs)
            if datetime.now(UTC) >= self._forget_at:
                self._forget()

    def _store(self, jobs: list[_Job]) -> None:
        records = [record for job in jobs for record in job.records]
        try:
            with self._metrics.write_seconds.time():
                stored = self._commit(records)
        except Exception as error:  # whatever the database threw, every request that waits must hear of it
            if self.healthy:
                log.error("storage_unavailable", error=type(error).__name__)
            self.healthy = False
            self._tell([(job, None) for job in jobs])
            return
        if not self.healthy:
            log.info("storage_recovered")
        self.healthy = True
        self._metrics.written_together.observe(len(records))
        answers, start = [], 0
        for job in jobs:
            answers.append((job, stored[start : start + len(job.records)]))
            start += len(job.records)
        self._tell(answers)

    def _commit(self, records: list[Record]) -> list[Stored]:
        for attempt in (1, 2, 3):
            try:
                with self._engine.begin() as connection:
                    return repository.store(connection, records)
            except sa.exc.IntegrityError:  # another process decided one of the tickets first: look again
                if attempt == 3:
                    raise
        raise AssertionError("unreachable")

    def _tell(self, answers: Sequence[tuple[_Job, list[Stored] | None]]) -> None:
        def settle() -> None:
            for job, stored in answers:
                if job.done.done():
                    continue
                if stored is None:
                    job.done.set_exception(StorageUnavailable())
                else:
                    job.done.set_result(stored)

        try:
            answers[0][0].loop.call_soon_threadsafe(settle)
        except RuntimeError:  # the loop has closed: nobody waits any more
            log.warning("answers_dropped", count=len(answers))

    def _forget(self) -> None:
        now = datetime.now(UTC)
        self._forget_at = now + FORGET_EVERY
        try:
            with self._engine.begin() as connection:
                if forgotten := repository.forget_text(connection, now - self._keep):
                    log.info("text_forgotten", decisions=forgotten)
        except sa.exc.SQLAlchemyError as error:
            log.warning("forgetting_failed", error=type(error).__name__)
