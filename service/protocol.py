"""HTTP as uvicorn speaks it, with a bound on what comes before a route can count it: a request's head, in time and in size, and the
time to the first of its body.

uvicorn bounds none of these: a head sent a byte a second, or a connection that never says anything, would be kept for ever. A request
that comes whole, as nearly all do, needs no timer.
"""

import asyncio
from http import HTTPStatus
from typing import Any

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import BadJson, HeadTooLarge, ServiceError, TooSlow

HEAD_SECONDS = 10.0
MOST_HEAD = 1 << 16  # bytes


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Refusals from here have the one shape of errors, too."""

    _in_head = True
    _head_bytes = 0
    _waits = True  # for the head, or for the first of the body
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first head, not for ever."""
        super().connection_made(transport)
        self._late = self.loop.call_later(HEAD_SECONDS, self._refuse, TooSlow())

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more will come late."""
        self._is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; where the head is not whole afterwards, all of `data` belonged to it."""
        super().data_received(data)
        if not self._waits or self.transport.is_closing():
            return
        if self._in_head:
            self._head_bytes += len(data)
        if self._head_bytes > MOST_HEAD:
            self._refuse(HeadTooLarge())
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self._refuse, TooSlow())

    def on_message_begin(self) -> None:
        """A head begins, the first of the connection or the next."""
        super().on_message_begin()
        self._in_head = self._waits = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """A head is whole."""
        self._in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """From here on `service.body` bounds what comes."""
        self._is_there()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """There was no body, or it is whole."""
        self._is_there()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP is refused like everything else."""
        self._refuse(BadJson(msg, code="bad_request"))

    def _is_there(self) -> None:
        self._waits = False
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse(self, error: ServiceError) -> None:
        self._is_there()
        if self.transport.is_closing():
            return
        body = orjson.dumps(error.as_dict())
        headers: dict[str, Any] = {
            "content-type": "application/json", "content-length": len(body), "x-content-type-options": "nosniff", "connection": "close"
        }  # fmt: skip
        lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        self.transport.write("\r\n".join(lines).encode() + body)
        self.transport.close()
