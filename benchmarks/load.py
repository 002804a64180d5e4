"""The service beside a no-op of the same framework: how fast it starts, what memory it holds, how many tickets a second it takes."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from itertools import count, product
from pathlib import Path
from socket import create_server
from statistics import median, quantiles
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
CONNECTIONS = (8, 1)
STARTS = 3
WARM_UP_SECONDS = 2
START_LIMIT = 120  # seconds; a machine that is busy with something else is slow, not broken
NOOP, POINTSMAN = "no-op", "Pointsman"
WORKERS = (1, 2)

Ask = Callable[[int, int, int], dict[str, float]]  # port, connections, seconds -> what came of it

# For wrk: no two tickets are alike, and the figures come as JSON.
SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local bodies, n = {}, 0
for body in io.lines("BODIES") do bodies[#bodies + 1] = body end
request = function()
  n = n + 1
  return wrk.format(nil, nil, nil, '{"subject":"Ticket ' .. n .. '","body":' .. bodies[n % #bodies + 1] .. '}')
end
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format('\\n{"requests": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f, "errors": %d}', summary.requests, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, e.connect + e.read + e.write + e.status + e.timeout))
end
"""


@dataclass(frozen=True)
class Server:
    """What serves, with how many workers, and the command that starts it on a port."""

    name: str
    workers: int
    command: Callable[[int], list[str]]

    @property
    def title(self) -> str:
        return f"{self.name}, {self.workers} worker{'s' if self.workers > 1 else ''}"


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[bytes]
    port: int
    start_seconds: float

    def megabytes(self) -> dict[str, float]:
        """Of all its processes: resident, and with what they share counted once."""
        all_of_it = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        memory = [process.memory_full_info() for process in all_of_it]
        return {"resident_megabytes": sum(m.rss for m in memory) / 2**20, "shared_once_megabytes": sum(m.pss for m in memory) / 2**20}


def measure(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Everything about the service; `say` is told what is being done."""
    seconds, rounds = (1, 2) if quick else (5, 3)
    with tempfile.TemporaryDirectory(prefix="pointsman-bench-") as name:
        scratch = Path(name)
        say("training the shipped router")
        train = [
            sys.executable,
            "pointsman.py",
            "train",
            *map(str, sorted((ROOT / "data" / "tickets").glob("*.jsonl"))),
            "--out",
            str(scratch / "models"),
        ]
        subprocess.run(train, cwd=ROOT, env=_environment(), check=True, capture_output=True)
        bodies = scratch / "bodies.jsonl"
        bodies.write_text("".join(f"{json.dumps(body)}\n" for body in _bodies()), encoding="utf-8")
        ask = _wrk(bodies, scratch) if shutil.which("wrk") else _python_client(bodies)
        servers = _servers(scratch / "models", WORKERS[:1] if quick else WORKERS)
        say("importing")
        repeats = 1 if quick else STARTS
        imports = {POINTSMAN: _import_seconds("service.run", repeats), NOOP: _import_seconds("uvicorn, noop", repeats)}
        rest = {server: _at_rest(server, scratch, ask, repeats, say) for server in servers}
        with ExitStack() as stack:
            running = {server: stack.enter_context(_running(server, scratch)) for server in servers}
            for server in servers:
                ask(running[server].port, max(CONNECTIONS), WARM_UP_SECONDS)
            load = []
            for connections in CONNECTIONS:
                for number in range(rounds):
                    for server in servers:
                        say(f"{connections} connections, round {number + 1} of {rounds}: {server.title}")
                        said = ask(running[server].port, connections, seconds)
                        load.append({"server": server.name, "workers": server.workers, "connections": connections, "round": number} | said)
    return {
        "client": _client(),
        "seconds_a_round": seconds,
        "synced_write_milliseconds": _synced_write(),
        "servers": {server.title: {"import_seconds": imports[server.name]} | rest[server] for server in servers},
        "rounds": load,
        "load": _summary(load, servers),
    }


def _servers(models: Path, counts: tuple[int, ...]) -> list[Server]:
    def pointsman(workers: int) -> Callable[[int], list[str]]:
        return lambda port: [sys.executable, str(ROOT / "pointsman.py"), "serve", f"--model={models}", f"--port={port}", f"--workers={workers}"]

    def noop(workers: int) -> Callable[[int], list[str]]:
        here = str(Path(__file__).parent)
        quiet = ["--log-level=warning", "--no-access-log"]
        return lambda port: [sys.executable, "-m", "uvicorn", "--app-dir", here, "noop:app", f"--port={port}", f"--workers={workers}", *quiet]

    return [server for n in counts for server in (Server(NOOP, n, noop(n)), Server(POINTSMAN, n, pointsman(n)))]


def _bodies() -> list[str]:
    """Texts of real length in the languages that are asked most: a few shipped tickets of each."""
    bodies = []
    for code in ("de", "en", "es", "fr", "it", "pl", "pt"):
        with (ROOT / "data" / "tickets" / f"{code}.jsonl").open(encoding="utf-8") as file:
            bodies += [json.loads(line)["body"] for line in list(file)[::20]]
    return bodies


@contextmanager
def _running(server: Server, scratch: Path) -> Iterator[Running]:
    """The server in a process of its own, with a database of its own, once it is ready."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    with closing(create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    variables = _environment(POINTSMAN_DATABASE_URL=f"sqlite:///{folder / 'decisions.db'}")
    said = folder / "said.txt"
    began = time.perf_counter()
    with said.open("wb") as out:
        process = subprocess.Popen(server.command(port), cwd=folder, env=variables, stdout=out, stderr=out)
    try:
        while not _ready(port):
            if process.poll() is not None or time.perf_counter() - began > START_LIMIT:
                raise RuntimeError(f"{server.title} did not start: {said.read_text(encoding='utf-8')}")
            time.sleep(0.01)
        yield Running(process, port, time.perf_counter() - began)
        if process.poll() is not None:  # then whatever answered was something else
            raise RuntimeError(f"{server.title} ended with status {process.poll()} while it was measured: {said.read_text(encoding='utf-8')}")
    finally:
        process.terminate()
        process.wait(30)


def _ready(port: int) -> bool:
    with suppress(OSError), closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    return False


def _at_rest(server: Server, scratch: Path, ask: Ask, repeats: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Start it, alone on the machine, and see what memory it holds once it has worked."""
    starts = []
    for number in range(repeats):
        say(f"start {number + 1} of {repeats}: {server.title}")
        with _running(server, scratch) as running:
            starts.append(running.start_seconds)
            if number == 0:
                ask(running.port, max(CONNECTIONS), WARM_UP_SECONDS)
                memory = running.megabytes()
    return {"start_seconds": starts} | memory


def _import_seconds(modules: str, repeats: int) -> list[float]:
    code = f"import time; start = time.perf_counter(); import {modules}; print(time.perf_counter() - start)"
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    run = [sys.executable, "-c", code]
    return [float(subprocess.run(run, env=_environment(PYTHONPATH=paths), check=True, capture_output=True).stdout) for _ in range(repeats)]


def _environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_")} | {"POINTSMAN_DEEP": "off"} | more


def _client() -> str:
    if not shutil.which("wrk"):
        return "a client in Python (wrk is not installed): it takes much of a core itself, so both sides look slower than they are"
    said = subprocess.run(["wrk", "-v"], capture_output=True, text=True).stdout  # exit status 1, whatever it says
    return " ".join(said.split()[:2])


def _wrk(bodies: Path, scratch: Path) -> Ask:
    script = scratch / "post.lua"
    script.write_text(SCRIPT.replace("BODIES", str(bodies)), encoding="utf-8")

    def ask(port: int, connections: int, seconds: int) -> dict[str, float]:
        wrk = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), f"http://127.0.0.1:{port}/classify"]
        said = subprocess.run(wrk, check=True, capture_output=True, text=True).stdout
        figures: dict[str, float] = json.loads(said.splitlines()[-1])
        return figures | {"requests_per_second": figures["requests"] / figures["seconds"]}

    return ask


def _python_client(bodies: Path) -> Ask:
    """Connections that are kept alive, each asking again as soon as it is answered: what wrk does, in Python."""
    texts = bodies.read_text(encoding="utf-8").splitlines()

    async def one(port: int, numbers: Iterator[int], end: float, milliseconds: list[float], errors: list[int]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < end:
            n = next(numbers)
            body = f'{{"subject":"Ticket {n}","body":{texts[n % len(texts)]}}}'.encode()
            head = f"POST /classify HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            start = time.perf_counter()
            writer.write(head.encode() + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(answer.split(b"content-length:")[1].split(b"\r\n")[0]))
            milliseconds.append((time.perf_counter() - start) * 1e3)
            if not answer.startswith(b"http/1.1 200"):
                errors.append(n)
        writer.close()

    async def all_of_them(port: int, connections: int, seconds: int) -> dict[str, float]:
        milliseconds: list[float] = []
        errors: list[int] = []
        numbers = count()
        start = time.perf_counter()
        await asyncio.gather(*(one(port, numbers, start + seconds, milliseconds, errors) for _ in range(connections)))
        passed = time.perf_counter() - start
        percentiles = quantiles(milliseconds, n=100)
        return {
            "requests": len(milliseconds), "seconds": passed, "p50_ms": percentiles[49], "p99_ms": percentiles[98], "errors": len(errors),
            "requests_per_second": len(milliseconds) / passed,
        }  # fmt: skip

    return lambda port, connections, seconds: asyncio.run(all_of_them(port, connections, seconds))


def _synced_write() -> float:
    """Milliseconds that a write of 4 kB takes to be on the disk: every decision waits for one, alone or with others."""
    times = []
    with tempfile.TemporaryFile() as file:
        for _ in range(50):
            start = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            times.append((time.perf_counter() - start) * 1e3)
    return median(times)


def _summary(rounds: list[dict[str, Any]], servers: list[Server]) -> list[dict[str, Any]]:
    """Medians over the rounds; the ratio is taken within each round, to the no-op of as many workers that ran just before."""
    summary = []
    for connections, server in product(CONNECTIONS, servers):
        same = [r for r in rounds if (r["connections"], r["workers"]) == (connections, server.workers)]
        own, noop = ([r for r in same if r["server"] == name] for name in (server.name, NOOP))
        ratio = median(a["requests_per_second"] / b["requests_per_second"] for a, b in zip(own, noop, strict=True))
        figures: dict[str, Any] = {key: median(r[key] for r in own) for key in ("requests_per_second", "p50_ms", "p99_ms")}
        figures |= {"ratio_to_noop": ratio, "errors": sum(r["errors"] for r in own)}
        summary.append({"server": server.name, "workers": server.workers, "connections": connections} | figures)
    return summary
