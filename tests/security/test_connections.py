"""What a connection may do before a route sees it: bounded in time and size, and refused in the one shape of errors."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from service import protocol
from service.app import create_app
from service.settings import Settings
from tests.serving import INCIDENT, PROMPT, error_of, listening

GOOD = json.dumps({"body": INCIDENT}).encode()
HEAD = f"POST /classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(GOOD)}\r\n\r\n".encode()


@pytest.fixture(scope="module")
def port(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    database = tmp_path_factory.mktemp("database") / "pointsman.db"
    with listening(create_app(Settings(model=models, database_url=f"sqlite:///{database}"))) as listener:
        yield listener


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.4)


@pytest.fixture
def connection(port: int) -> Iterator[socket.socket]:
    with closing(socket.create_connection(("127.0.0.1", port), timeout=10)) as opened:
        yield opened


def answers(connection: socket.socket) -> list[tuple[int, dict[str, Any]]]:
    """All that comes until the server hangs up: statuses and JSON bodies."""
    received = b""
    while data := connection.recv(65_536):
        received += data
    found = []
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:])
        size = int(fields["content-length"])
        assert fields["content-type"] == "application/json"
        found.append((int(lines[0].split(" ")[1]), json.loads(rest[:size])))
        received = rest[size:]
    return found


def slowly(connection: socket.socket, data: bytes) -> None:
    """A byte now and then, until the server has had enough or all is sent."""
    connection.settimeout(0.05)
    for place in range(len(data)):
        connection.sendall(data[place : place + 1])
        try:
            if connection.recv(1, socket.MSG_PEEK) is not None:
                break
        except TimeoutError:
            continue
    connection.settimeout(10)


@pytest.mark.usefixtures("impatient")
def test_a_connection_that_says_nothing_is_closed(connection: socket.socket) -> None:
    ((status, body),) = answers(connection)
    assert (status, error_of(body)) == (408, "too_slow")


@pytest.mark.usefixtures("impatient")
def test_a_head_that_comes_a_byte_at_a_time_is_closed(connection: socket.socket) -> None:
    slowly(connection, HEAD)
    ((status, body),) = answers(connection)
    assert (status, error_of(body)) == (408, "too_slow")


@pytest.mark.usefixtures("impatient")
def test_so_is_the_second_head_of_a_connection(connection: socket.socket) -> None:
    connection.sendall(HEAD + GOOD)
    time.sleep(0.2)
    slowly(connection, HEAD)
    first, (status, body) = answers(connection)
    assert first[0] == 200
    assert (status, error_of(body)) == (408, "too_slow")


@pytest.mark.usefixtures("impatient")
def test_who_waits_between_two_requests_is_not_slow(connection: socket.socket) -> None:
    for _ in range(2):
        connection.sendall(HEAD + GOOD)
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
        time.sleep(0.6)


@pytest.mark.parametrize("many", [False, True])
def test_a_head_without_end_is_refused(connection: socket.socket, many: bool) -> None:
    line = b"X-More: " + b"x" * 1_000 + b"\r\n" if many else b"x" * 1_000
    connection.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + (b"" if many else b"X-More: "))
    try:
        for _ in range(100):
            connection.sendall(line)
            time.sleep(0.001)
        ((status, body),) = answers(connection)
    except ConnectionError:
        return  # it was refused while it was still being sent
    assert (status, error_of(body)) == (431, "head_too_large")


def test_a_head_that_comes_with_much_of_its_body_is_taken(connection: socket.socket) -> None:
    body = json.dumps({"body": "My server is down. " * 8_000}).encode()
    connection.sendall(HEAD.replace(f" {len(GOOD)}".encode(), f" {len(body)}".encode()) + body)
    assert connection.recv(65_536).startswith(b"HTTP/1.1 200")


def test_what_is_not_http_is_refused_like_everything_else(connection: socket.socket) -> None:
    connection.sendall(b"\x16\x03\x01\x02\x00\x01\x00 hello\r\n\r\n")
    ((status, body),) = answers(connection)
    assert (status, error_of(body)) == (400, "bad_request")
    assert "hello" not in str(body)


@pytest.mark.parametrize("over", [1, 100, 1_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused_once_it_is_read(connection: socket.socket, over: int, chunked: bool) -> None:
    size = Settings().max_request_bytes + over
    how = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    since = time.perf_counter()
    connection.sendall(f"POST /classify HTTP/1.1\r\nHost: localhost\r\n{how}\r\n\r\n".encode())
    connection.sendall(f"{size:x}\r\n".encode() + b" " * size + b"\r\n0\r\n\r\n" if chunked else b" " * size)
    ((status, body),) = answers(connection)
    assert (status, error_of(body)) == (413, "too_large")
    assert time.perf_counter() - since < PROMPT
