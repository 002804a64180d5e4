"""Mixed load on `pointsman serve` for as long as it is told: `python benchmarks/soak.py --minutes 30`.

Good, bad, slow, huge and aborting clients, scrapers, and a new champion each minute, all at once. The rate is bounded, so that latency means
something on two cores. It fails (exit 1) where a client got another answer than it should, memory grew, p99 doubled, a champion was not taken,
a process of the service died, or a decision that was answered is not in the database.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from array import array
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import IO, Any, NamedTuple

import click
import numpy as np
import orjson
import psutil  # type: ignore[import-untyped]
import sqlalchemy as sa
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from model import bundle
from service.body import DRAIN_SECONDS, READ_SECONDS
from service.classify.schemas import LONGEST_BODY, LONGEST_SUBJECT, MOST_TICKETS
from service.database import decisions
from service.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LIMITS = Settings.model_construct()  # the defaults, whatever the environment says: the service does not get to see it

WARM_UP = 60.0  # seconds before anything is measured; a third of a short run
WARM_UP_SWAPS = 3  # by then the heap has grown to hold a second bundle beside the one that serves
WINDOW = 120.0  # seconds at the beginning and at the end whose latencies are compared; half of what is measured of a short run
SWAP_EVERY = 60.0
TAKEN_WITHIN = 10.0  # seconds from a new champion to the last decision by the old one
PATIENCE = 45.0  # seconds that a client waits; the service gives a body up after READ_SECONDS, so a head may not take much longer

# By the slope of a line through the samples after the warm-up, over all the time since, for each worker. Half an hour is 350,000 requests: the
# smallest leak, one object of 100 bytes a request, is 33 MB by then and over the bound. So is a megabyte a champion, and so is a bundle that was
# replaced but stays, be it only in the allocator's hands. Under it stay SQLite's page caches, the stacks of threads, holes in the heap.
MOST_GROWTH_MB = 24.0
MOST_SLOWER = 2.0  # p99 at the end over p99 at the beginning


# Requests and answers: of HTTP/1.1 as little as the service's answers need. A whole client would take the processor from the service.


class Answer(NamedTuple):
    status: int
    body: bytes

    @property
    def outcome(self) -> str:
        """The status, and the error's code where there is one."""
        if self.status < 400:
            return str(self.status)
        try:
            return f"{self.status} {orjson.loads(self.body)['error']['code']}"
        except (ValueError, KeyError, TypeError):
            return str(self.status)


class Wire:
    """One client's connection, opened when it is needed."""

    REUSED = 100  # requests; then a new connection, so that each worker gets some

    def __init__(self, port: int) -> None:
        self.port = port
        self.asked = 0
        self.writer: asyncio.StreamWriter | None = None

    async def send(self, data: bytes) -> None:
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
            self.asked = 0
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> Answer:
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        answer = Answer(int(head[9:12]), await self.reader.readexactly(int(length[1]) if length else 0))
        self.asked += 1
        if self.asked >= self.REUSED or b"\r\nconnection: close" in head:
            self.close()
        return answer

    async def ask(self, request: bytes) -> Answer:
        await self.send(request)
        return await self.answer()

    def close(self, *, rudely: bool = False) -> None:
        if self.writer is not None:
            (self.writer.transport.abort if rudely else self.writer.close)()
            self.writer = None


def request(method: str, path: str, body: bytes | None = None, headers: str = "", host: str = "localhost") -> bytes:
    announced = f"Content-Length: {len(body)}\r\n" if body is not None else ""
    return f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{announced}{headers}\r\n".encode() + (body or b"")


def classify(body: bytes | dict[str, Any]) -> bytes:
    return request("POST", "/classify", body if isinstance(body, bytes) else orjson.dumps(body))


def batch(tickets: list[Any]) -> bytes:
    return request("POST", "/classify/batch", orjson.dumps({"tickets": tickets}))


def chunked(path: str, body: bytes, size: int = 65_536) -> bytes:
    pieces = (body[start : start + size] for start in range(0, len(body), size))
    head = request("POST", path, headers="Transfer-Encoding: chunked\r\n")
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


# The clients


Act = Callable[[Wire], Awaitable[str]]


@dataclass
class Kind:
    """One kind of client: what it does every so many seconds, how many of it do so, and the outcomes that are right."""

    name: str
    expected: tuple[str, ...]
    act: Act
    every: float
    clients: int = 1
    keeps: bool = False  # its connection, from request to request
    outcomes: Counter[str] = field(default_factory=Counter)
    longest: float = 0.0  # seconds that it took, with what the client itself waits

    @property
    def unexpected(self) -> list[str]:
        return [outcome for outcome in self.outcomes if outcome not in self.expected]


class Known(NamedTuple):
    """A ticket that was answered, and how."""

    ticket: dict[str, Any]
    answer: bytes


@dataclass
class Swap:
    """A new champion: when it was named, and how long after that it first and the old one last decided."""

    at: float
    version: str
    first_by_new: float | None = None
    last_by_old: float = 0.0

    @property
    def taken(self) -> bool:
        return self.first_by_new is not None and self.last_by_old < TAKEN_WITHIN


class Good:
    """The clients that do everything right, and what they remember: little, however long it takes."""

    def __init__(self, answered: IO[str]) -> None:
        self.shipped = [orjson.loads(line) for path in sorted((ROOT / "data" / "tickets").glob("*.jsonl")) for line in path.read_bytes().splitlines()]
        self.chance = random.Random(0)
        self.run = f"soak-{time.time_ns()}"  # a database may hold the tickets of an earlier run
        self.number = 0
        self.known: deque[Known] = deque(maxlen=500)
        self.answered = answered  # the id of every decision that was answered, one a line
        self.versions: Counter[str] = Counter()
        self.swaps: list[Swap] = []

    def ticket(self, *, named: bool) -> dict[str, Any]:
        """A shipped ticket that was not sent before."""
        self.number += 1
        chance, shipped = self.chance, self.chance.choice(self.shipped)
        ticket = {"subject": shipped["subject"], "body": f"{shipped['body']}\n({self.number})"}
        if named:
            ticket["ticket_id"] = f"{self.run}-{self.number}"
        told = {
            "language": shipped["language"],
            "declared_kind": "incident",
            "channel": chance.choice(["web", "email", "phone", "chat", "api"]),
            "customer_tier": "premium",
            "country": "FR",
            "created_at": "2026-11-22T10:00:00+01:00",
        }
        return ticket | {name: value for name, value in told.items() if chance.random() < 0.3}

    async def single(self, wire: Wire) -> str:
        ticket = self.ticket(named=self.chance.random() < 0.5)
        sent = time.monotonic()
        answer = await wire.ask(classify(ticket))
        if answer.status == 200:
            decision = orjson.loads(answer.body)
            self._enter(decision)
            self._watch(decision["model_version"], sent)
            if "ticket_id" in ticket:
                self.known.append(Known(ticket, answer.body))
            if decision["ticket_id"] != ticket.get("ticket_id"):
                return "200, of another ticket"
        return answer.outcome

    async def repeat(self, wire: Wire) -> str:
        if not self.known:
            return "200"
        known = self.chance.choice(self.known)
        answer = await wire.ask(classify(known.ticket))
        return "200, another answer" if answer.status == 200 and answer.body != known.answer else answer.outcome

    async def conflict(self, wire: Wire) -> str:
        if not self.known:
            return "409 ticket_conflict"
        ticket = self.chance.choice(self.known).ticket
        return (await wire.ask(classify(ticket | {"body": f"{ticket['body']} And one thing more."}))).outcome

    async def batch(self, size: int, wire: Wire) -> str:
        """Tickets, in their midst one without text, which gets its error and fails no other."""
        tickets = [self.ticket(named=place % 2 == 0) for place in range(size)]
        tickets[size // 2] = {"subject": " "}
        answer = await wire.ask(batch(tickets))
        if answer.status != 200:
            return answer.outcome
        results = orjson.loads(answer.body)["results"]
        right = len(results) == size
        for place, (ticket, result) in enumerate(zip(tickets, results, strict=False)):
            if place == size // 2:
                right &= result.get("error", {}).get("code") == "no_text"
            elif "error" in result:
                right = False
            else:
                self._enter(result)
                right &= result["ticket_id"] == ticket.get("ticket_id")
        return "200" if right else "200, with wrong results"

    def _enter(self, decision: dict[str, Any]) -> None:
        self.answered.write(decision["decision_id"] + "\n")
        self.versions[decision["model_version"]] += 1

    def _watch(self, version: str, sent: float) -> None:
        if self.swaps and sent > self.swaps[-1].at:
            swap = self.swaps[-1]
            if version != swap.version:
                swap.last_by_old = max(swap.last_by_old, sent - swap.at)
            elif swap.first_by_new is None:
                swap.first_by_new = sent - swap.at


async def plain(raw: bytes, wire: Wire) -> str:
    return (await wire.ask(raw)).outcome


async def metrics(wire: Wire) -> str:
    answer = await wire.ask(request("GET", "/metrics"))
    return "200, with internal errors" if b'code="internal"' in answer.body else answer.outcome


async def readyz(wire: Wire) -> str:
    answer = await wire.ask(request("GET", "/readyz"))
    return "200, with a champion refused" if answer.status == 200 and orjson.loads(answer.body)["reload_error"] else answer.outcome


async def trickle(begun: bytes, rest: bytes, pause: float, wire: Wire) -> str:
    """Send `begun` at once and `rest` a byte at a time, until there is an answer."""
    await wire.send(begun)
    answer = asyncio.create_task(wire.answer())
    try:
        for place in range(len(rest)):
            await asyncio.wait({answer}, timeout=pause)
            if answer.done():
                break
            try:
                await wire.send(rest[place : place + 1])
            except OSError:  # closed from the other side, maybe after an answer
                break
        return (await answer).outcome
    finally:
        answer.cancel()


async def leave(raw: bytes, wire: Wire) -> str:
    """Send, and be gone before there is an answer: by a goodbye or, as when a machine loses its power, without."""
    await wire.send(raw)
    await asyncio.sleep(random.choice([0, 0.001, 0.01]))
    wire.close(rudely=random.random() < 0.5)
    return "left"


def all_kinds(good: Good) -> list[Kind]:
    """Every kind of client. About 200 requests a second in all, 120 of them good tickets."""
    text = "Our server has been down since six this morning. " * 4
    ticket = orjson.dumps({"body": text})
    whole, many = classify(ticket), batch([{"body": f"{text} {number}"} for number in range(MOST_TICKETS)])
    head = len(whole) - len(ticket)
    over, over_batch = b" " * (LIMITS.max_request_bytes + 1), b" " * (LIMITS.max_batch_bytes + 1)
    endless = chunked("/classify", over * 2)
    closed = ("closed without an answer", "408", "408 too_slow")
    kinds = [
        Kind("good: one ticket", ("200",), good.single, 1 / 15, clients=8, keeps=True),
        Kind("good: a ticket again", ("200",), good.repeat, 1 / 15, keeps=True),
        Kind("good: its id with other text", ("409 ticket_conflict",), good.conflict, 0.2, keeps=True),
        Kind("good: batch of 16", ("200",), partial(good.batch, 16), 0.5, keeps=True),
        Kind(f"good: batch of {MOST_TICKETS}", ("200",), partial(good.batch, MOST_TICKETS), 15),
        Kind("good: longest ticket", ("200",), partial(plain, classify({"body": (text * 2000)[:LONGEST_BODY]})), 15),
        Kind("slow: a body that trickles in", ("408 too_slow",), partial(trickle, whole[:head], whole[head:], 0.5), 1, clients=4),
        Kind("slow: a body that stops", ("408 too_slow",), partial(plain, whole[:-1]), 1, clients=2),
        Kind("slow: a body in time", ("200",), partial(trickle, whole[:-5], whole[-5:], READ_SECONDS / 20), 1, clients=2),
        Kind("slow: a head that trickles in", closed, partial(trickle, whole[:1], whole[1:head], 1), 1, clients=4),
        Kind("slow: a connection that says nothing", closed, partial(plain, b""), 1, clients=2),
        Kind("slow: too much, then a trickle", ("413 too_large",), partial(trickle, endless[:-5], b"1\r\n \r\n" * 9, DRAIN_SECONDS / 20), 5),
        Kind("huge: a byte over the limit", ("413 too_large",), partial(plain, classify(over)), 2),
        Kind("huge: twice the limit, chunked", ("413 too_large",), partial(plain, endless), 2),
        Kind("huge: batch", ("413 too_large",), partial(plain, chunked("/classify/batch", over_batch)), 20),
        Kind(f"huge: {MOST_TICKETS + 1} tickets", ("413 too_many_tickets",), partial(plain, batch([{"body": text}] * (MOST_TICKETS + 1))), 2),
        Kind("huge: subject", ("422 subject_too_long",), partial(plain, classify({"subject": "x" * (LONGEST_SUBJECT + 1)})), 2),
        Kind("huge: body", ("422 body_too_long",), partial(plain, classify({"body": "x" * (LONGEST_BODY + 1)})), 2),
        Kind("gone: in the head", ("left",), partial(leave, whole[: head // 2]), 0.5),
        Kind("gone: in the body", ("left",), partial(leave, whole[: head + 9]), 0.5),
        Kind("gone: in a chunk", ("left",), partial(leave, chunked("/classify", ticket)[:-20]), 0.5),
        Kind("gone: in a body over the limit", ("left",), partial(leave, classify(over)[:-9]), 5),
        Kind("gone: before the answer", ("left",), partial(leave, whole), 0.5),
        Kind("gone: before a batch's answer", ("left",), partial(leave, many), 5),
        Kind("reads: /metrics", ("200",), metrics, 2),
        Kind("reads: /readyz", ("200",), readyz, 0.5),
        Kind("reads: POST /", ("200",), partial(plain, request("POST", "/", b"subject=&body=Wie+ziehe+ich+meine+Domain+um%3F")), 1),
    ]
    pages = ["/livez", "/", "/?example=Deutsch", "/model", "/taxonomy", "/docs", "/openapi.json", "/static/icon.svg"]
    kinds += [Kind(f"reads: {path}", ("200",), partial(plain, request("GET", path)), 2) for path in pages]
    wrong: dict[str, tuple[str, bytes]] = {
        "no body": ("400 bad_json", classify(b"")),
        "broken JSON": ("400 bad_json", classify(ticket[:-1])),
        "broken JSON in a batch": ("400 bad_json", request("POST", "/classify/batch", b'{"tickets": [{]}')),
        "not UTF-8": ("400 bad_json", classify(b'{"body": "\xff"}')),
        "a lone surrogate": ("400 bad_json", classify(b'{"body": "\\ud800"}')),
        "deep JSON": ("400 bad_json", classify(b"[" * 20_000)),
        "NaN": ("422 invalid_field", classify(b'{"body": NaN}')),
        "1e999": ("422 invalid_field", classify(b'{"body": 1e999}')),
        "a number for a text": ("422 invalid_field", classify({"body": 5})),
        "a list for a ticket": ("422 invalid_field", classify(b"[]")),
        "an object for a list": ("422 invalid_field", request("POST", "/classify/batch", b'{"tickets": {}}')),
        "no such language": ("422 invalid_field", classify({"body": text, "language": "??"})),
        "no such day": ("422 invalid_field", classify({"body": text, "created_at": "2026-02-30T00:00:00Z"})),
        "an unknown field": ("422 unknown_field", classify({"body": text, "priority": 1})),
        "no text": ("422 no_text", classify({"subject": " ", "body": "\n"})),
        "no such path": ("404 not_found", request("GET", "/nowhere")),
        "no such path, with a body": ("404 not_found", request("POST", "/nowhere", ticket)),
        "GET /classify": ("405 method_not_allowed", request("GET", "/classify")),
        "PUT /metrics": ("405 method_not_allowed", request("PUT", "/metrics", ticket)),
        "another host": ("401 unauthorised", request("POST", "/classify", ticket, host="evil.example")),
        "through a proxy": ("401 unauthorised", request("POST", "/classify", ticket, "X-Forwarded-For: 192.0.2.1\r\n")),
        "from another site's page": ("401 unauthorised", request("POST", "/classify", ticket, "Sec-Fetch-Site: cross-site\r\n")),
        "not HTTP": ("400 bad_request", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),  # how TLS begins
    }
    kinds += [Kind(f"bad: {name}", (expected,), partial(plain, raw), 1) for name, (expected, raw) in wrong.items()]
    # Ten a minute are answered, then the address has to wait.
    key = request("POST", "/classify", ticket, "Authorization: Bearer pm_wrong\r\n")
    return [*kinds, Kind("bad: a wrong key", ("401 unauthorised", "429 too_many"), partial(plain, key), 2)]


class Latencies:
    """Seconds from the moment a request was due, whether or not the client could send it by then, to its answer."""

    def __init__(self) -> None:
        self.due, self.seconds = array("d"), array("d")

    def add(self, due: float, seconds: float) -> None:
        self.due.append(due)
        self.seconds.append(seconds)

    def between(self, start: float, end: float) -> dict[str, float] | None:
        due = np.asarray(self.due)
        chosen = np.asarray(self.seconds)[(due >= start) & (due < end)] * 1000
        if not len(chosen):
            return None
        p50, p99 = np.percentile(chosen, [50, 99])
        return {"requests": len(chosen), "p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2)}


async def keep_on(kind: Kind, port: int, latencies: Latencies | None) -> None:
    """One client of a kind, until it is cancelled."""
    wire = Wire(port)
    due = time.monotonic() + random.random() * kind.every
    try:
        while True:
            await asyncio.sleep(due - time.monotonic())
            begun = time.monotonic()
            try:
                async with asyncio.timeout(PATIENCE):
                    outcome = await kind.act(wire)
            except TimeoutError:
                outcome = f"no answer in {PATIENCE:.0f} s"
            except asyncio.IncompleteReadError as error:
                outcome = "closed within an answer" if error.partial else "closed without an answer"
            except Exception as error:  # the connection's or, where an answer cannot be read, the answer's
                outcome = type(error).__name__
            kind.outcomes[outcome] += 1
            kind.longest = max(kind.longest, time.monotonic() - begun)
            if latencies is not None and outcome in kind.expected:
                latencies.add(due, time.monotonic() - due)
            if not kind.keeps or outcome not in kind.expected:
                wire.close()
            due += kind.every
    finally:
        wire.close()


async def look_at_the_clock(lateness: Latencies) -> None:
    """How late this process itself is woken, which is in every latency measured here and not the service's doing."""
    due = time.monotonic()
    while True:
        due += 0.05
        await asyncio.sleep(due - time.monotonic())
        lateness.add(due, time.monotonic() - due)


# The service


class Sample(NamedTuple):
    at: float
    resident_mb: float
    descriptors: int
    threads: int
    machine: float  # its load average over the last minute, with all that it does beside this


class Service:
    """`pointsman serve`, seen from outside."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log
        self.samples: list[Sample] = []
        self.first_pids: set[int] = set()

    @classmethod
    @contextmanager
    def running(cls, models: Path, workers: int, database: str, folder: Path) -> Iterator["Service"]:
        with closing(socket.create_server(("127.0.0.1", 0))) as listener:
            port = int(listener.getsockname()[1])
        arguments = [sys.executable, str(ROOT / "pointsman.py"), "serve", "--model", str(models), "--port", str(port), "--workers", str(workers)]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_")}
        log = folder / "service.log"
        with log.open("wb") as out, subprocess.Popen(arguments, env=clean | {"POINTSMAN_DATABASE_URL": database}, stdout=out, stderr=out) as process:
            try:
                yield cls(process, port, log)
            finally:
                for left in cls(process, port, log).processes() if process.poll() is None else []:
                    left.kill()

    def processes(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def sample(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):  # one that died is missed at the end
            found = self.processes()
            memory = sum(process.memory_info().rss for process in found) / 2**20
            descriptors, threads = sum(process.num_fds() for process in found), sum(process.num_threads() for process in found)
            self.samples.append(Sample(time.monotonic(), round(memory, 1), descriptors, threads, os.getloadavg()[0]))
            self.first_pids = self.first_pids or {process.pid for process in found}

    async def started(self) -> None:
        for _ in range(600):
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                wire = Wire(self.port)
                ready = (await wire.ask(request("GET", "/readyz"))).status == 200
                wire.close()
                if ready:
                    return
            if self.process.poll() is not None:
                break
            await asyncio.sleep(0.1)
        raise click.ClickException(f"the service did not start: {self.log.read_text(encoding='utf-8')}")

    def stop(self) -> int:
        """Stop it as an administrator does; its exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            return -1

    def events(self) -> Counter[str]:
        """What it logged, by level and event; a line that is not ours, such as a traceback's, as it is."""
        counted: Counter[str] = Counter()
        for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                counted[" ".join([f"{entry['level']}: {entry['event']}", *(entry[name] for name in ("error", "where") if name in entry)])] += 1
            except (ValueError, KeyError, TypeError):
                counted[re.sub(r"\d+", "#", line)[:100]] += 1
        return counted


# The run


@dataclass
class Run:
    """What happened, to be judged and shown."""

    service: Service
    workers: int
    kinds: list[Kind]
    good: Good
    started: float
    ended: float
    resting: tuple[Sample, Sample]  # with no client connected: before and after
    latencies: Latencies = field(default_factory=Latencies)
    lateness: Latencies = field(default_factory=Latencies)

    @property
    def warm(self) -> float:
        return self.started + min(WARM_UP, (self.ended - self.started) / 3)

    @property
    def windows(self) -> tuple[tuple[float, float], tuple[float, float]]:
        length = min(WINDOW, (self.ended - self.warm) / 2)
        return (self.warm, self.warm + length), (self.ended - length, self.ended)

    @property
    def measured(self) -> list[Sample]:
        return [sample for sample in self.service.samples if self.warm <= sample.at <= self.ended]

    @property
    def growth_mb(self) -> float:
        """Of resident memory since the warm-up."""
        measured = np.array([(sample.at - self.warm, sample.resident_mb) for sample in self.measured])
        slope, _ = np.polyfit(measured[:, 0], measured[:, 1], 1)
        return round(float(slope) * (self.ended - self.warm), 1)


async def load(service: Service, workers: int, models: Path, seconds: float, answered: IO[str]) -> Run:
    """Every kind of client at once, new champions and samples of the service, for so many seconds."""
    await service.started()
    service.sample()
    good = Good(answered)
    now = time.monotonic()
    run = Run(service, workers, all_kinds(good), good, now, now + seconds, (service.samples[0],) * 2)
    work: list[Coroutine[Any, Any, None]] = [
        keep_on(kind, service.port, run.latencies if number == 0 else None) for number, kind in enumerate(run.kinds) for _ in range(kind.clients)
    ]
    work += [sample_often(service, min(5.0, seconds / 60)), swap_often(run, models), look_at_the_clock(run.lateness)]
    tasks = [asyncio.create_task(one) for one in work]
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        if not task.cancelled():
            task.result()  # a fault of this program is not to be taken for silence
    await asyncio.sleep(3)
    service.sample()
    run.resting = run.resting[0], service.samples[-1]
    return run


async def sample_often(service: Service, every: float) -> None:
    while True:
        await asyncio.sleep(every)
        service.sample()


async def swap_often(run: Run, models: Path) -> None:
    warm = run.warm - run.started
    every = min(SWAP_EVERY, (run.ended - run.warm) / 4)
    for pause in chain(repeat(warm / (WARM_UP_SWAPS + 1), WARM_UP_SWAPS), repeat(every)):
        await asyncio.sleep(pause)
        if time.monotonic() + TAKEN_WITHIN > run.ended:
            return  # it could no longer be seen whether this one is taken
        versions = bundles(models)
        following = versions[(versions.index(bundle.find(models).name) + 1) % len(versions)]
        await asyncio.to_thread(bundle.promote, models, following)
        run.good.swaps.append(Swap(time.monotonic(), following))


def missing(answered: Path, database: str) -> tuple[int, int]:
    """How many decisions were answered, and how many of them are not in the database."""
    url = sa.make_url(database)
    engine = sa.create_engine(url.set(drivername="postgresql+psycopg") if url.get_backend_name() == "postgresql" else url)
    with engine.connect() as connection:
        stored = set(connection.execute(sa.select(decisions.c.decision_id)).scalars())
    engine.dispose()
    with answered.open(encoding="ascii") as lines:
        found = Counter(line.strip() in stored for line in lines)
    return found.total(), found[False]


def judge(run: Run, database: str, answered: Path) -> dict[str, Any]:
    """Stop the service; the figures, and under `faults` a sentence for each thing that must not be."""
    alive = {process.pid for process in run.service.processes()} if run.service.process.poll() is None else set()
    status = run.service.stop()
    total, gone = missing(answered, database)
    growth, most_growth = run.growth_mb, MOST_GROWTH_MB * run.workers
    first, last = (run.latencies.between(*window) for window in run.windows)
    log = run.service.events()

    faults = []
    for kind in run.kinds:
        faults += [f"{kind.name}: {kind.outcomes[outcome]} times {outcome}, expected {' or '.join(kind.expected)}" for outcome in kind.unexpected]
    faults += [f"{kind.name}: never done" for kind in run.kinds if not kind.outcomes]
    faults += [f"the champion of second {s.at - run.started:.0f} was not taken within {TAKEN_WITHIN:.0f} s" for s in run.good.swaps if not s.taken]
    faults += [f"logged {count} times: {event}" for event, count in log.items() if event.startswith(("error", "critical", "Traceback"))]
    if growth > most_growth:
        faults.append(f"memory grew by {growth} MB after the warm-up, more than {most_growth}")
    if first is None or last is None:
        faults.append("no good ticket was answered at the beginning or at the end")
    elif last["p99_ms"] > MOST_SLOWER * first["p99_ms"]:
        faults.append(f"p99 was {first['p99_ms']} ms at the beginning and is {last['p99_ms']} ms at the end, more than {MOST_SLOWER} times")
    if not run.service.first_pids <= alive:  # others may come: that of the reports, started when first asked, and what Python keeps beside it
        faults.append("a process of the service died or was replaced")
    if status != 0:
        faults.append(f"told to stop, the service ended with {status}" if status > 0 else "told to stop, the service did not, or was killed")
    if gone or not total:
        faults.append(f"{gone} of {total} decisions that were answered are not in the database")

    seconds = run.ended - run.started
    memory = [sample.resident_mb for sample in run.measured]
    machine = {name: round(sample.machine, 1) for name, sample in zip(("first", "last"), (run.measured[0], run.measured[-1]), strict=True)}
    before, after = ({"descriptors": sample.descriptors, "threads": sample.threads} for sample in run.resting)
    return {
        "when": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "minutes": round(seconds / 60, 2),
        "workers": run.workers,
        "database": sa.make_url(database).get_backend_name(),
        "requests_per_second": round(sum(kind.outcomes.total() for kind in run.kinds) / seconds, 1),
        "faults": faults,
        "latency": {"first": first, "last": last},
        "client_woken_late": dict(zip(("first", "last"), (run.lateness.between(*window) for window in run.windows), strict=True)),
        "machine": {"cores": os.cpu_count(), "load_average": machine},
        "memory_mb": {"first": memory[0], "most": max(memory), "last": memory[-1], "growth": growth, "most_growth": most_growth},
        "nobody_connected": {"before": before, "after": after},
        "swaps": [asdict(swap) | {"at": round(swap.at - run.started, 1), "taken": swap.taken} for swap in run.good.swaps],
        "decisions": {"answered": total, "missing": gone, "by_version": run.good.versions},
        "clients": [{"kind": k.name, "expected": k.expected, "outcomes": k.outcomes, "longest_seconds": round(k.longest, 2)} for k in run.kinds],
        "log": log,
    }


def show(figures: dict[str, Any]) -> None:
    """Two tables and the verdict, on the screen."""
    clients = Table("client", "answers", "longest, s", title="Clients")
    for kind in figures["clients"]:
        shown = [
            f"{outcome}: {count}" if outcome in kind["expected"] else f"[red]{outcome}: {count}[/]" for outcome, count in kind["outcomes"].items()
        ]
        clients.add_row(kind["kind"], ", ".join(shown), str(kind["longest_seconds"]))
    service = Table("what", "at the beginning", "at the end", title="Service")
    for name in ("p50_ms", "p99_ms"):
        for what, figure in (("a good ticket", "latency"), ("this program woken late by", "client_woken_late")):
            service.add_row(f"{what}, {name}", *(str(window[name]) if window else "-" for window in figures[figure].values()))
    machine, memory = figures["machine"], figures["memory_mb"]
    service.add_row(f"load average, {machine['cores']} cores", *map(str, machine["load_average"].values()))
    service.add_row("resident memory, MB", str(memory["first"]), f"{memory['last']} (most {memory['most']}, growth {memory['growth']})")
    for name in ("descriptors", "threads"):
        service.add_row(f"{name}, nobody connected", *(str(rest[name]) for rest in figures["nobody_connected"].values()))
    swaps, decided = figures["swaps"], figures["decisions"]
    console = Console(width=150)
    for table in (clients, service):
        console.print(table)
    console.print(f"{figures['requests_per_second']} requests a second, {sum(swap['taken'] for swap in swaps)} of {len(swaps)} new champions taken")
    console.print(
        f"{decided['answered']} decisions answered, {decided['missing']} of them not in the database; by version {dict(decided['by_version'])}"
    )
    console.print(f"logged: {dict(figures['log'])}", markup=False)
    for fault in figures["faults"]:
        console.print(fault, style="red", markup=False)
    console.print("failed" if figures["faults"] else "it held")


def draw(run: Run, path: Path) -> None:
    """Memory, latency and what is open, over time; dotted where a new champion came, grey where p99 is compared."""
    figure = Figure(figsize=(13, 8), layout="constrained")
    memory, latency, opened = figure.subplots(3, 1, sharex=True)
    minutes = [(sample.at - run.started) / 60 for sample in run.service.samples]
    memory.plot(minutes, [sample.resident_mb for sample in run.service.samples], label="resident memory of all processes")
    memory.set(ylabel="MB", ylim=(0, None))
    step = max(5.0, (run.ended - run.started) / 120)
    edges = np.arange(run.started, run.ended, step)
    for measured, name in ((run.latencies, "a good ticket"), (run.lateness, "this program woken late by")):
        pieces = [measured.between(edge, edge + step) for edge in edges]
        for figure_name in ("p50_ms", "p99_ms"):
            values = [piece[figure_name] if piece else np.nan for piece in pieces]
            style = {"color": "tab:orange" if measured is run.latencies else "silver", "linestyle": "-" if figure_name == "p99_ms" else ":"}
            latency.plot((edges - run.started) / 60, values, label=f"{name}, {figure_name[:3]}", **style)
    latency.set(ylabel="ms", yscale="log")
    opened.plot(minutes, [sample.descriptors for sample in run.service.samples], label="file descriptors")
    opened.plot(minutes, [sample.threads for sample in run.service.samples], label="threads")
    opened.plot(minutes, [sample.machine for sample in run.service.samples], color="silver", label="load average of the machine")
    opened.set(xlabel="minutes", ylim=(0, None))
    for axes in (memory, latency, opened):
        for swap in run.good.swaps:
            axes.axvline((swap.at - run.started) / 60, color="grey", linestyle=":", linewidth=0.6)
        for start, end in run.windows:
            axes.axvspan((start - run.started) / 60, (end - run.started) / 60, color="grey", alpha=0.1)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(path, dpi=110)


def bundles(models: Path) -> list[str]:
    return sorted(path.parent.name for path in models.glob(f"*/{bundle.MANIFEST}"))


def prepare(models: Path | None, folder: Path) -> Path:
    """A folder of two bundles or more, which may be changed."""
    mine = folder / "models"
    if models:
        shutil.copytree(models, mine)
    else:
        tickets = sorted(map(str, (ROOT / "data" / "tickets").glob("*.jsonl")))
        for seed in ("0", "1"):
            arguments = [sys.executable, str(ROOT / "pointsman.py"), "train", *tickets, "--out", str(mine), "--seed", seed, "--encoder", "none"]
            subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    if len(bundles(mine)) < 2:
        raise click.BadParameter(f"{models}: a swap needs two bundles or more", param_hint="--models")
    return mine


@click.command()
@click.option("--minutes", default=30.0, show_default=True, type=click.FloatRange(min=1))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64))
@click.option("--database", metavar="URL", help="[default: a new SQLite database]")
@click.option("--models", type=click.Path(path_type=Path, exists=True, file_okay=False), help="A folder of bundles. [default: two are trained]")
def main(minutes: float, workers: int, database: str | None, models: Path | None) -> None:
    """Put mixed load on the service, and judge how it held."""
    RESULTS.mkdir(exist_ok=True)
    # Not in the system's own folder for such things, which may be memory: a commit would wait for no disk.
    with tempfile.TemporaryDirectory(prefix="soak-", dir=RESULTS) as name:
        folder = Path(name)
        url = database or f"sqlite:///{folder}/pointsman.db"
        home = prepare(models, folder)
        answered = folder / "answered.txt"
        with Service.running(home, workers, url, folder) as service:
            with answered.open("w", encoding="ascii") as ids:
                run = asyncio.run(load(service, workers, home, minutes * 60, ids))
            figures = judge(run, url, answered)
    (RESULTS / "soak.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    draw(run, RESULTS / "soak.png")
    show(figures)
    sys.exit(1 if figures["faults"] else 0)


if __name__ == "__main__":
    main()
