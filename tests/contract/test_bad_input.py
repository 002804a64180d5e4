"""What a client may get wrong, by accident or on purpose: the answer says so, and the next client is served."""

import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.settings import Settings
from tests.serving import INCIDENT, QUESTION, Service, error_of, listening, serving

pytestmark = pytest.mark.anyio

DEEP = 20_000
FIELDS = (
    "ticket_id", "subject", "body", "language", "channel", "declared_kind", "customer_tier", "customer_ref", "country", "created_at",
)  # fmt: skip
LONGEST = {"ticket_id": 200, "subject": 1_000, "body": 200_000, "language": 35, "declared_kind": 200, "customer_tier": 64, "customer_ref": 200}


@pytest.fixture(scope="module")
async def shared(models: Path, tmp_path_factory: pytest.TempPathFactory, anyio_backend: str) -> AsyncIterator[Service]:  # noqa: ARG001
    """One application for all requests that leave nothing behind that another would see."""
    folder = tmp_path_factory.mktemp("shared")
    async with serving(Settings(model=models, database_url=f"sqlite:///{folder}/pointsman.db")) as running:
        yield running


async def post(service: Service, body: bytes, path: str = "/classify") -> httpx.Response:
    return await service.client.post(path, content=body)


@pytest.mark.parametrize(
    "ticket",
    [
        {},
        {"subject": None, "body": None},
        {"subject": "", "body": ""},
        {"subject": "  ", "body": "\t\r\n"},
        {"body": "\u00a0\u2003\u3000\u2028"},
        {"ticket_id": "T-1", "channel": "web"},
    ],
)
async def test_a_ticket_without_text_is_refused(service: Service, ticket: dict[str, Any]) -> None:
    answer = await service.classify(**ticket)
    assert answer.status_code == 422
    assert error_of(answer) == "no_text"
    assert service.rows() == []


# Size


def chunks(total: int, size: int = 65_536) -> Iterator[bytes]:
    for start in range(0, total, size):
        yield b" " * min(size, total - start)


async def _stream(total: int) -> AsyncIterator[bytes]:
    for chunk in chunks(total):
        yield chunk


@pytest.mark.parametrize(("path", "most"), [("/classify", "max_request_bytes"), ("/classify/batch", "max_batch_bytes"), ("/", "max_request_bytes")])
@pytest.mark.parametrize("announced", [None, "10"])
async def test_a_body_is_counted_as_it_arrives(shared: Service, settings: Settings, path: str, most: str, announced: str | None) -> None:
    limit = getattr(settings, most)
    headers = {"Content-Length": announced} if announced else {}
    over = await shared.client.post(path, content=_stream(limit + 1), headers=headers)
    assert over.status_code == 413
    assert error_of(over) == "too_large"
    within = await shared.client.post(path, content=_stream(limit), headers=headers)
    assert within.status_code != 413


@pytest.fixture(scope="module")
def port(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    database = tmp_path_factory.mktemp("database") / "pointsman.db"
    with listening(create_app(Settings(model=models, database_url=f"sqlite:///{database}"))) as listener:
        yield listener


def exchange(port: int, head: str, parts: Iterator[bytes]) -> tuple[int, dict[str, Any] | None, bool]:
    """Send everything, then read to the end: the status and JSON of the first answer, and whether all could be sent.

    The status is 0 where the server hung up before its answer could be read.
    """
    with closing(socket.create_connection(("127.0.0.1", port), timeout=10)) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n")
        sent, received = True, b""
        try:
            for part in parts:
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
        except ConnectionError:
            sent = False
        with suppress(ConnectionError):
            while data := connection.recv(65_536):
                received += data
    if not received:
        return 0, None, sent
    start, _, body = received.partition(b"\r\n\r\n")
    status = int(start.split(b" ", 2)[1])
    try:
        answer, _ = json.JSONDecoder().raw_decode(body.decode())
    except ValueError:
        answer = None
    return status, answer, sent


def served(port: int) -> bool:
    return httpx.post(f"http://localhost:{port}/classify", json={"body": INCIDENT}, timeout=30).status_code == 200


def test_a_large_body_in_chunks_is_refused_and_the_client_hears_it(port: int) -> None:
    parts = (f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n" for chunk in chunks(3_000_000))
    head = "POST /classify HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked\n"
    status, answer, sent = exchange(port, head, (part for group in (parts, iter([b"0\r\n\r\n"])) for part in group))
    assert sent
    assert status == 413
    assert answer is not None
    assert error_of(answer) == "too_large"
    assert served(port)


def test_a_large_body_that_was_announced_is_refused_and_the_client_hears_it(port: int) -> None:
    status, answer, sent = exchange(port, "POST /classify HTTP/1.1\nHost: localhost\nContent-Length: 3000000\n", chunks(3_000_000))
    assert sent
    assert status == 413
    assert answer is not None
    assert error_of(answer) == "too_large"
    assert served(port)


def test_more_body_than_was_announced_is_not_read_as_body(port: int) -> None:
    body = json.dumps({"body": INCIDENT}).encode()
    status, _, _ = exchange(port, "POST /classify HTTP/1.1\nHost: localhost\nContent-Length: 10\n", iter([body, *chunks(3_000_000)]))
    assert status in (0, 400)  # what follows the ten bytes is no request, and the server itself may say so first
    assert served(port)


def test_two_lengths_at_once_never_let_a_large_body_in(port: int) -> None:
    """RFC 9112, section 6.3: chunks win over Content-Length, or the request is refused."""
    parts = (f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n" for chunk in chunks(3_000_000))
    head = "POST /classify HTTP/1.1\nHost: localhost\nContent-Length: 10\nTransfer-Encoding: chunked\n"
    status, _, _ = exchange(port, head, (part for group in (parts, iter([b"0\r\n\r\n"])) for part in group))
    assert status in (0, 400, 413)
    assert served(port)


# JSON


@pytest.mark.parametrize("path", ["/classify", "/classify/batch"])
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"{}}",
        b"{'body': 'x'}",
        b'{"body": "x",}',
        b'{"body": "x"} {"body": "y"}',
        b'{"body": undefined}',
        b'{"body": "a\x00b"}',
        b'{"body": "a\nb"}',
        b'{"body": "\\ud800"}',
        b'{"body": "\\udc00\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"body": "\xff"}',
        b'{"body": "\xc3"}',
        b'{"body": "\xed\xa0\x80"}',
        b'{"body": "\xc0\xaf"}',
        '{"body": "x"}'.encode("utf-16"),
        '{"body": "x"}'.encode("utf-16-le"),
        '{"body": "x"}'.encode("utf-32"),
        b"\xef\xbb\xbf" + b'{"body": "x"}',
        b"[" * DEEP,
        b"[" * DEEP + b"]" * DEEP,
        b'{"body":' * DEEP + b"1" + b"}" * DEEP,
        b'{"tickets": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    ],
    ids=lambda body: repr(body[:24]) if isinstance(body, bytes) else None,
)
async def test_what_is_not_json_in_utf_8_is_refused(shared: Service, path: str, body: bytes) -> None:
    answer = await post(shared, body, path)
    assert answer.status_code == 400
    assert error_of(answer) == "bad_json"
    assert (await shared.classify(body=INCIDENT)).status_code == 200


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 5_000])
@pytest.mark.parametrize("field", ["body", "ticket_id", "created_at", "x"])
async def test_numbers_that_are_none_are_refused(shared: Service, number: str, field: str) -> None:
    answer = await post(shared, f'{{"subject": "x", "{field}": {number}}}'.encode())
    assert answer.status_code in (400, 422)
    assert error_of(answer) in ("bad_json", "invalid_field", "unknown_field")
    (result,) = (
        (await post(shared, f'{{"tickets": [{{"subject": "x", "{field}": {number}}}]}}'.encode(), "/classify/batch")).json().get("results", [{}])
    )
    assert not result or error_of(result) in ("invalid_field", "unknown_field")


@pytest.mark.parametrize("body", [b"null", b"true", b"1", b'"text"', b"[]", b'[{"body": "x"}]'])
async def test_what_is_no_object_is_refused(shared: Service, body: bytes) -> None:
    answer = await post(shared, body)
    assert answer.status_code == 422
    assert error_of(answer) == "invalid_field"


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", "nonsense"])
async def test_a_body_is_json_in_utf_8_whatever_its_header_says(shared: Service, kind: str | None) -> None:
    content = json.dumps({"body": QUESTION}, ensure_ascii=False).encode()
    answer = await shared.client.post("/classify", content=content, headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == 200
    assert answer.json()["language"]["code"] == "pt"


# Text


async def test_nul_in_a_text_is_taken_and_the_ticket_is_stored(service: Service) -> None:
    answer = await service.classify(ticket_id="T-1", subject="a\0b", body=INCIDENT + "\0")
    assert answer.status_code == 200
    (row,) = service.rows()
    assert row["decision_id"] == answer.json()["decision_id"]
    assert "\0" not in row["subject"] + row["body"]  # PostgreSQL could not hold it
    again = await service.classify(ticket_id="T-1", subject="a\0b", body=INCIDENT + "\0")
    assert again.json() == answer.json()
    assert (await service.classify(ticket_id="T-1", subject="a\ufffdb", body=INCIDENT + "\0")).status_code == 409


@pytest.mark.parametrize(
    "text",
    [
        "👩‍👩‍👧‍👦 🇵🇹",
        "\u202e evil \u2066",
        "\ufffe\uffff",
        "a" * 200_000,
        "\U0010ffff" * 1_000,
        "<" * 20_000,
        "&amp;" * 20_000,
        "> " * 20_000,
        "\n" * 50_000 + "x",
    ],
    ids=lambda text: repr(text[:8]),
)
async def test_every_text_gets_a_decision(service: Service, text: str) -> None:
    answer = await service.classify(ticket_id="T-1", body=text)
    assert answer.status_code == 200
    (row,) = service.rows()
    assert row["body"] == text


# Fields


@pytest.mark.parametrize("field", ["ticket_id", "declared_kind", "customer_tier", "customer_ref"])
@pytest.mark.parametrize("character", ["\0", "\n", "\x1f", "\x7f", "\t"])
async def test_control_characters_in_a_name_are_refused(shared: Service, field: str, character: str) -> None:
    for value in (character, f"a{character}", f"{character}a", f"a{character}b"):
        answer = await shared.classify(body=INCIDENT, **{field: value})
        assert answer.status_code == 422
        assert error_of(answer) == "invalid_field"
        assert answer.json()["error"]["field"] == field


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [1, 1.5, True, [], ["x"], {}, {"x": "y"}], ids=str)
async def test_a_field_of_the_wrong_type_is_refused_by_its_name(shared: Service, field: str, value: Any) -> None:
    answer = await shared.classify(**{"subject": "server", "body": "down", field: value})
    assert answer.status_code == 422
    assert error_of(answer) == "invalid_field"
    assert answer.json()["error"]["field"] == field
    (result,) = (await shared.batch({"subject": "server", "body": "down", field: value})).json()["results"]
    assert result == answer.json()


@pytest.mark.parametrize("field", FIELDS)
async def test_null_is_as_good_as_a_field_that_is_missing(shared: Service, field: str) -> None:
    texts: dict[str, Any] = {"subject": "server", "body": "down"}
    assert (await shared.classify(**texts | {field: None})).status_code == 200


@pytest.mark.parametrize(("field", "most"), LONGEST.items())
async def test_a_long_field_is_refused_by_its_name(shared: Service, field: str, most: int) -> None:
    texts: dict[str, Any] = {"subject": "server", "body": "down"}
    answer = await shared.classify(**texts | {field: "é" * (most + 1)})
    assert answer.status_code == 422
    assert error_of(answer) == f"{field}_too_long"
    assert answer.json()["error"]["field"] == field
    if field != "language":
        assert (await shared.classify(**texts | {field: "é" * most})).status_code == 200


@pytest.mark.parametrize("name", ["chanel", "id", "Subject", "subject ", "", "__proto__", "model_config", "decision_id"])
async def test_an_unknown_field_is_refused(shared: Service, name: str) -> None:
    answer = await shared.classify(body=INCIDENT, **{name: "x"})
    assert answer.status_code == 422
    assert error_of(answer) == "unknown_field"


@pytest.mark.parametrize("tag", ["", " ", "f", "klingon-language-of-mars", "12", "fr-", "français", "und", "xx", "*", "fr\0", "../../etc"])
async def test_what_is_no_language_tag_is_refused(shared: Service, tag: str) -> None:
    answer = await shared.classify(body=INCIDENT, language=tag)
    assert answer.status_code == 422
    assert error_of(answer) == "invalid_field"
    assert answer.json()["error"]["field"] == "language"


@pytest.mark.parametrize(
    ("tag", "code"), [("fr", "fr"), ("pt-BR", "pt"), ("PT_pt", "pt"), ("zh-Hant-TW", "zh"), ("nb", "nb"), ("no", "nb"), ("sw", "sw")]
)
async def test_every_language_tag_is_taken(shared: Service, tag: str, code: str) -> None:
    assert (await shared.classify(body=INCIDENT, language=tag)).json()["language"] == {"code": code, "confidence": 1.0}


@pytest.mark.parametrize("country", ["", "F", "FRA", "fr", "FR\n", "F1", "ÎÎ"])
async def test_what_is_no_country_is_refused(shared: Service, country: str) -> None:
    answer = await shared.classify(body=INCIDENT, country=country)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == "country"


@pytest.mark.parametrize(
    "moment",
    [
        "2026-11-01T10:00:00",
        "2026-11-01",
        "10:00",
        "",
        "yesterday",
        "1730455200",
        "2026-13-01T10:00:00Z",
        "2026-02-30T10:00:00Z",
        "2026-11-01T25:00:00Z",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
        "10000-01-01T00:00:00Z",
        "2026-11-01T10:00:00+99:00",
        "NaN",
    ],
)
async def test_what_is_no_moment_is_refused(shared: Service, moment: str) -> None:
    """RFC 3339, with its offset: a time without one means another moment at every desk."""
    answer = await shared.classify(body=INCIDENT, created_at=moment)
    assert answer.status_code == 422
    assert error_of(answer) == "invalid_field"
    assert answer.json()["error"]["field"] == "created_at"


@pytest.mark.parametrize(
    "moment", ["2026-11-01T10:00:00Z", "2026-11-01T10:00:00.123456+05:30", "2026-11-01T10:00:00-00:00", "1969-12-31T23:59:59.999999Z"]
)
async def test_every_moment_is_taken(service: Service, moment: str) -> None:
    assert (await service.classify(body=INCIDENT, created_at=moment)).status_code == 200
    (row,) = service.rows()
    assert row["created_at"] == datetime.fromisoformat(moment)


# Batches


@pytest.mark.parametrize("tickets", [None, {}, {"body": "x"}, "x", 1, True])
async def test_tickets_that_are_no_list_are_refused(shared: Service, tickets: Any) -> None:
    answer = await shared.client.post("/classify/batch", json={"tickets": tickets})
    assert answer.status_code == 422
    assert error_of(answer) == "invalid_field"
    assert answer.json()["error"]["field"] == "tickets"


@pytest.mark.parametrize("body", [b"[]", b'[{"body": "x"}]', b"{}", b'{"body": "x"}', b'"x"', b"null", b"1"])
async def test_a_batch_that_is_none_is_refused(shared: Service, body: bytes) -> None:
    answer = await post(shared, body, "/classify/batch")
    assert answer.status_code == 422
    assert error_of(answer) in ("invalid_field", "unknown_field")


async def test_257_tickets_are_refused_whatever_they_are(service: Service) -> None:
    for ticket in ({"body": INCIDENT}, None, {}):
        answer = await service.batch(*[ticket] * 257)
        assert answer.status_code == 413
        assert error_of(answer) == "too_many_tickets"
    assert service.rows() == []


async def test_tickets_wrong_each_in_its_own_way_keep_their_places(service: Service) -> None:
    wrong: list[tuple[Any, str, str | None]] = [
        (None, "invalid_field", None),
        ("text", "invalid_field", None),
        ([{"body": "x"}], "invalid_field", None),
        ({}, "no_text", None),
        ({"body": " "}, "no_text", None),
        ({"body": 5}, "invalid_field", "body"),
        ({"body": "x", "chanel": "web"}, "unknown_field", None),
        ({"body": "x", "channel": "fax"}, "invalid_field", "channel"),
        ({"body": "x", "language": "!"}, "invalid_field", "language"),
        ({"body": "x", "created_at": "2026-11-01T10:00:00"}, "invalid_field", "created_at"),
        ({"body": "x", "created_at": "0001-01-01T00:00:00+14:00"}, "invalid_field", "created_at"),
        ({"body": "x" * 200_001}, "body_too_long", "body"),
        ({"body": "x", "ticket_id": "\0"}, "invalid_field", "ticket_id"),
    ]
    tickets = [one for i, (ticket, _, _) in enumerate(wrong) for one in ({"ticket_id": f"T-{i}", "body": INCIDENT}, ticket)]
    answer = await service.batch(*tickets)
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [result["ticket_id"] for result in results[::2]] == [f"T-{i}" for i in range(len(wrong))]
    assert [(error_of(result), result["error"].get("field")) for result in results[1::2]] == [(code, field) for _, code, field in wrong]
    assert len(service.rows()) == len(wrong)
