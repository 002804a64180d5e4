"""Reports for a running service. They take seconds of a processor, so a process of its own makes them, one after the other and with a
low priority: intake does not wait for them. What they need (numpy above all) is loaded there only."""

import asyncio
import time
from collections.abc import Mapping
from datetime import date
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

import structlog

from service.errors import ReportTooSlow, ServiceError, StorageUnavailable, TooMany
from service.reports import worker
from service.reports.schemas import Filters, LastWeek, MisrouteReport, Period, Selection, TicketsBehind

MOST_WAITING = 4  # besides the one that is made
DEADLINE = 30.0  # seconds until a report is given up, waiting included
IDLE = 300.0  # seconds without a report after which its process, and its memory, are given back

log = structlog.get_logger()


class _Process(NamedTuple):
    process: BaseProcess
    line: Connection


class Reports:
    """The reports of one application. `promised`: what the serving model promises now, by target."""

    def __init__(self, database_url: str, promised: Mapping[str, float], *, deadline: float = DEADLINE, idle: float = IDLE) -> None:
        self._url = database_url
        self.promised = promised  # a new champion brings its own
        self._deadline = deadline
        self._idle = idle
        self._turn = asyncio.Lock()
        self._process: _Process | None = None
        self._resting: asyncio.TimerHandle | None = None
        self._making: set[asyncio.Task[bytes]] = set()
        self._stopped = False

    async def report(self, period: Period, filters: Filters) -> MisrouteReport:
        """The misroute report. Raises as `report_json`."""
        return MisrouteReport.model_validate_json(await self.report_json(period, filters))

    async def report_json(self, period: Period, filters: Filters) -> bytes:
        """The misroute report as JSON. Raises TooMany, ReportTooSlow, StorageUnavailable."""
        return await self._ask("report", (period, filters, dict(self.promised)))

    async def tickets(self, period: Period, filters: Filters, selection: Selection) -> TicketsBehind:
        """The tickets behind a number. Raises as `report_json`."""
        return TicketsBehind.model_validate_json(await self.tickets_json(period, filters, selection))

    async def tickets_json(self, period: Period, filters: Filters, selection: Selection) -> bytes:
        """The same as JSON."""
        return await self._ask("tickets", (period, filters, selection))

    async def last_week(self, today: date) -> LastWeek:
        """What changed in the last complete week before `today`, and the share misrouted in it. Raises as `report_json`."""
        return LastWeek.model_validate_json(await self._ask("last_week", (today,)))

    async def stop(self) -> None:
        """End the process; a report that is being made is given up."""
        self._stopped = True
        if self._making:
            if self._process:
                self._process.process.kill()  # whoever waits for it sees that it ended
            await asyncio.wait(self._making)
        if self._resting:
            self._resting.cancel()
        self._end()

    async def _ask(self, what: worker.Work, arguments: tuple[Any, ...]) -> bytes:
        if len(self._making) > MOST_WAITING or self._stopped:
            raise TooMany("As many reports as may wait are being made; try again shortly.", retry_after=5)
        # A task of its own: a caller who goes away must not leave half an answer on the line.
        making = asyncio.create_task(self._make(what, arguments, time.monotonic() + self._deadline))
        self._making.add(making)
        making.add_done_callback(self._making.discard)
        return await asyncio.shield(making)

    async def _make(self, what: worker.Work, arguments: tuple[Any, ...], deadline: float) -> bytes:
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + deadline - time.monotonic()):
                await self._turn.acquire()
        except TimeoutError:
            raise ReportTooSlow from None
        if self._resting:
            self._resting.cancel()
        try:
            return await asyncio.to_thread(self._fetch, what, arguments, deadline)
        finally:
            self._turn.release()
            self._resting = asyncio.get_running_loop().call_later(self._idle, self._rest)

    def _rest(self) -> None:
        if not self._turn.locked():
            self._end()

    def _fetch(self, what: worker.Work, arguments: tuple[Any, ...], deadline: float) -> bytes:
        """On a thread, one at a time."""
        running = self._process if self._process and self._process.process.is_alive() else self._start()
        try:
            running.line.send((what, arguments))
            if not running.line.poll(max(0.0, deadline - time.monotonic())):
                log.warning("report_too_slow", what=what)
                raise ReportTooSlow
            status, answer = running.line.recv()
        except ReportTooSlow:
            self._end()
            raise
        except (EOFError, OSError):  # it was ended: with the service, or for want of memory
            self._end()
            if self._stopped:
                raise ReportTooSlow from None
            log.error("report_process_ended", what=what)
            raise ServiceError from None
        if status == "storage":
            raise StorageUnavailable
        if status == "failed":
            log.error("report_failed", what=what, error=answer.decode())
            raise ServiceError
        return bytes(answer)

    def _start(self) -> _Process:
        self._end()
        if self._stopped:
            raise ReportTooSlow
        context = get_context("spawn")
        ours, its = context.Pipe()
        process = context.Process(target=worker.run, args=(its, self._url, self._deadline), name="pointsman-reports", daemon=True)
        process.start()
        its.close()
        self._process = _Process(process, ours)
        return self._process

    def _end(self) -> None:
        if running := self._process:
            self._process = None
            running.process.kill()
            running.process.join()
            running.process.close()
            running.line.close()
