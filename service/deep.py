"""The desk of the deep path: who may ask the sentence encoder, how long that is waited for, and when it is left alone.

The fast path has decided already when a ticket comes here, so that whatever happens its decision can stand. A few asks have a place at
a time; for one more there is none, and to be told so costs next to nothing. An encoder that fails again and again is left alone for a while
(a circuit breaker), then tried by one ticket. All of this runs on the event loop but for what is said to run on a thread.
"""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Literal, NamedTuple

import structlog

from model.decision import Decider, Decision, Ticket
from model.deep import Deep, require_same
from model.encoder import LOCAL, MOST_REQUESTS, MOST_TEXTS, Encoder, open_encoder
from model.errors import EncoderError
from model.router import Router
from service.metrics import Metrics

LEAST_FAILURES = 3  # running, before the encoder is left alone
RECENT = 4  # answers by which the encoder's usual time is told
FIRST_REST, LONGEST_REST = 5.0, 60.0  # seconds; each in vain doubles the next
OPEN_SECONDS = 3.0  # for opening and probing an encoder: a service starts without one that takes longer
LOOK_SECONDS = 1.0  # between two looks whether an encoder that could not be had is to be tried again
LOWEST = 19  # of a thread's scheduling priority

Status = Literal["ready", "resting", "off"]
Receive = Callable[[], Awaitable[Any]]  # a request's: it tells when the client has gone
Found = list[Decision | None]  # for each ticket of an ask its decision, None where the fast path's stands

log = structlog.get_logger()


class Opened(NamedTuple):
    """The deep path of a bundle: what it learned, and its encoder, or why that cannot be had."""

    learned: Deep
    encoder: Encoder | None
    fault: str | None = None


class _Ask:
    """Tickets whose answers are waited for together, until one deadline."""

    def __init__(self, encoder: Encoder, decider: Decider, tickets: Sequence[Ticket], texts: Sequence[str], found: "asyncio.Future[Found]") -> None:
        self.encoder, self.decider, self.tickets, self.texts, self.found = encoder, decider, tickets, texts, found
        self.answers: Found = [None] * len(texts)
        self.next = 0  # the first that was not yet given to the encoder
        self.since = time.monotonic()


class DeepPath:
    """The deep path of one running application: nobody ever waits for it longer than `seconds`, and at most `places` asks wait."""

    def __init__(self, seconds: float, places: int, metrics: Metrics, *, off: bool = False) -> None:
        self._seconds = seconds
        self._places = places
        self._metrics = metrics
        self.off = off
        self._opened: Opened | None = None
        self._waiting: deque[_Ask] = deque()
        self._working = 0  # asks that are with the encoder
        self._usual = 0.0  # seconds that the encoder takes, of late
        self._failures = 0  # running
        self._fault: str | None = None  # why the encoder is left alone
        self._rest = FIRST_REST
        self._rest_until = 0.0

    @property
    def encoder(self) -> str | None:
        """The name of the champion's encoder; None where it has no deep path."""
        return self._opened.learned.encoder if self._opened else None

    @property
    def status(self) -> tuple[Status, str | None]:
        """Whether the encoder is asked, and if not, why."""
        if self.off:
            return "off", None
        return ("resting", self._fault) if self._fault else ("ready", None)

    # The encoder

    def open(self, router: Router) -> Opened | None:
        """The encoder of a router that is about to serve, opened or kept, and probed; on the thread that loads it, within bounds."""
        if router.deep is None:
            return None
        return Opened(router.deep, None) if self.off else self._open(router.deep)

    def _open(self, learned: Deep) -> Opened:
        told: SimpleQueue[Encoder | Exception] = SimpleQueue()
        known = self._opened.encoder if self._opened else None

        def probe() -> None:
            try:
                same = known is not None and known.name == learned.encoder
                encoder = known if known and same else open_encoder(learned.encoder, self._seconds, engines=1, nice=LOWEST)
                require_same(encoder, learned)
                told.put(encoder)
            except Exception as error:
                told.put(error)

        threading.Thread(target=probe, name="deep-probe", daemon=True).start()  # a daemon: a stop does not wait for it
        try:
            found = told.get(timeout=OPEN_SECONDS)
        except Empty:
            return Opened(learned, None, f"{learned.encoder}: could not be opened within {OPEN_SECONDS:g} s")
        return Opened(learned, None, _why(found)) if isinstance(found, Exception) else Opened(learned, found)

    def take(self, opened: Opened | None) -> None:
        """Serve with another champion's deep path from now on; what waits was asked for the old one and is answered by its encoder."""
        self._opened, self._usual = opened, 0.0
        if opened and opened.fault:
            self._leave_alone(opened.fault)
        else:
            self._recover()

    async def keep(self) -> None:
        """Until cancelled, try now and then to open an encoder that could not be had."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            asked = self._opened
            if asked and asked.fault and time.monotonic() >= self._rest_until:
                opened = await asyncio.to_thread(self._open, asked.learned)
                if self._opened is asked:  # and no new champion came meanwhile
                    self.take(opened)

    # Those who ask

    def admit(self, decider: Decider, doubtful: int, *, together: bool = False) -> int:
        """For how many of so many doubtful tickets that `decider` decided there is a place now; the others are counted. Those that are
        asked `together` have one place between them."""
        busy = len(self._waiting) + self._working
        outcome = "full"
        opened = self._opened
        if opened is None or opened.encoder is None or opened.learned is not decider.router.deep:
            free, outcome = 0, "resting"
        elif self._fault:
            # One ticket tries it, when the rest is over and nobody is left behind in it from before.
            free, outcome = int(not busy and time.monotonic() >= self._rest_until), "resting"
        else:
            # Who would wait in vain for those before it need not wait at all.
            in_time = int(self._seconds * _at_once(opened.encoder) / self._usual) if self._usual else self._places
            free = max(min(self._places, in_time or 1) - busy, 0)
        admitted = min(doubtful, doubtful * free if together else free)
        if admitted < doubtful:
            self._metrics.count_deep(outcome, doubtful - admitted)
        return admitted

    def ask(self, decider: Decider, tickets: Sequence[Ticket], texts: Sequence[str]) -> "asyncio.Future[Found]":
        """Have tickets decided again by their cleaned `texts`, which takes one place that `admit` has said is there.

        What comes is never an error, and comes in time: a ticket that was not answered has None. Cancelling gives the place back.
        """
        if self._opened is None or self._opened.encoder is None:
            raise RuntimeError("asked without having been admitted")
        loop = asyncio.get_running_loop()
        ask = _Ask(self._opened.encoder, decider, tickets, texts, loop.create_future())
        deadline = loop.call_later(self._seconds, self._end, ask, "late")
        ask.found.add_done_callback(lambda _: deadline.cancel())
        ask.found.add_done_callback(lambda _: self._leave(ask))  # it may have been cancelled
        self._waiting.append(ask)
        self._go_on()
        return ask.found

    def _go_on(self) -> None:
        """Give the encoder what it can take: the next of each ask in turn, so that many tickets asked together do not hold up one."""
        while self._waiting and self._working < _at_once(self._waiting[0].encoder):
            ask = self._waiting.popleft()
            if ask.found.done():
                continue
            texts = slice(ask.next, ask.next + (1 if ask.encoder.name == LOCAL else MOST_TEXTS))
            ask.next = texts.stop
            self._working += 1
            loop = asyncio.get_running_loop()
            try:
                threading.Thread(target=self._work, args=(loop, ask, texts), name="deep", daemon=True).start()
            except RuntimeError as error:  # the system has no more threads to give
                loop.call_soon(self._worked, ask, texts, error, 0.0)

    def _work(self, loop: asyncio.AbstractEventLoop, ask: _Ask, part: slice) -> None:
        """On a thread of its own: a part of an ask, encoded and decided."""
        result: list[Decision] | Exception
        since = time.monotonic()
        try:
            tickets, texts = ask.tickets[part], list(ask.texts[part])
            result = ask.decider.reconsider(tickets, texts, ask.encoder.encode(texts), explain=True, advise=True)
        except Exception as error:  # whatever it is, the fast path's decisions stand
            result = error
        with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            loop.call_soon_threadsafe(self._worked, ask, part, result, time.monotonic() - since)

    def _worked(self, ask: _Ask, part: slice, result: list[Decision] | Exception, seconds: float) -> None:
        self._working -= 1
        self._usual += (seconds - self._usual) / (RECENT if self._usual else 1)
        if isinstance(result, Exception):
            self._end(ask, "failed")
            self._count_failure(ask.encoder, _why(result))
        else:
            if self._opened and ask.encoder is self._opened.encoder:
                self._recover()
            ask.answers[part] = result
            if ask.next >= len(ask.texts):
                self._end(ask, "answered")
            elif not ask.found.done():
                self._waiting.append(ask)
        self._go_on()

    def _end(self, ask: _Ask, outcome: str) -> None:
        """Answer an ask with what there is; `outcome` is that of the tickets for which there is nothing."""
        if ask.found.done():
            return
        unanswered = ask.answers.count(None)
        self._metrics.count_deep("answered", len(ask.answers) - unanswered)
        self._metrics.count_deep(outcome, unanswered)
        self._metrics.deep_seconds.observe(time.monotonic() - ask.since)
        ask.found.set_result(ask.answers)
        self._leave(ask)

    def _leave(self, ask: _Ask) -> None:
        with suppress(ValueError):  # it is with the encoder, and has its place until that is done with it
            self._waiting.remove(ask)

    # The circuit breaker

    def _count_failure(self, encoder: Encoder, why: str) -> None:
        if not self._opened or encoder is not self._opened.encoder:
            return
        self._failures += 1
        if self._failures >= LEAST_FAILURES and time.monotonic() >= self._rest_until:  # later ones of the same time say nothing new
            self._leave_alone(why)
            for ask in list(self._waiting):
                self._end(ask, "resting")

    def _leave_alone(self, why: str) -> None:
        self._rest = min(2 * self._rest, LONGEST_REST) if self._fault else FIRST_REST
        self._rest_until = time.monotonic() + self._rest
        (log.debug if why == self._fault else log.warning)("deep_path_rests", encoder=self.encoder, error=why, seconds=self._rest)
        self._fault = why

    def _recover(self) -> None:
        if self._fault:
            log.info("deep_path_recovered", encoder=self.encoder)
        self._failures, self._fault, self._rest_until = 0, None, 0.0


async def unless_gone(found: "asyncio.Future[Found]", receive: Receive) -> Found:
    """What was asked for, or nothing of it once the client has gone, which `receive` tells; its place is free then."""
    leaving = asyncio.create_task(_gone(receive))
    either: list[asyncio.Future[Any]] = [found, leaving]
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return found.result() if found.done() else []
    finally:
        leaving.cancel()
        found.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _at_once(encoder: Encoder) -> int:
    """How many asks an encoder works on side by side: the one here has one engine."""
    return 1 if encoder.name == LOCAL else MOST_REQUESTS


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, EncoderError) else type(error).__name__  # of others, the text may be a ticket's
