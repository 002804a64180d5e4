"""HTTP as uvicorn speaks it, with a bound on what comes before a route can count it: a request's head, in time and in size.

uvicorn bounds neither: a head sent a byte a second, or a connection that never says anything, would be kept for ever.
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
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first head, not for ever."""
        super().connection_made(transport)
        self._late = self.loop.call_later(HEAD_SECONDS, self._refuse, TooSlow())

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing more will come late."""
        self._head_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser; where the head is not whole afterwards, all of `data` belonged to it."""
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        self._head_bytes += len(data)
        if self._head_bytes > MOST_HEAD:
            self._refuse(HeadTooLarge())
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self._refuse, TooSlow())

    def on_message_begin(self) -> None:
        """A head begins, the first of the connection or the next."""
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """A head is whole: from here on the body's own bounds hold."""
        self._head_is_there()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP is refused like everything else."""
        self._refuse(BadJson(msg, code="bad_request"))

    def _head_is_there(self) -> None:
        self._in_head = False
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse(self, error: ServiceError) -> None:
        self._head_is_there()
        if self.transport.is_closing():
            return
        body = orjson.dumps(error.as_dict())
        headers: dict[str, Any] = {
            "content-type": "application/json", "content-length": len(body), "x-content-type-options": "nosniff", "connection": "close"
        }  # fmt: skip
        lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        self.transport.write("\r\n".join(lines).encode() + body)
        self.transport.close()
