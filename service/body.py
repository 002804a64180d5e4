"""Reading a request's body under a limit that counts what arrives, not what was announced."""

import asyncio
from contextlib import suppress

from fastapi import Request
from starlette.requests import ClientDisconnect

from service.errors import BadJson, TooLarge, TooSlow

MOST_DRAINED = 1 << 28  # bytes of a body already refused that are read and thrown away
DRAIN_SECONDS = 5.0
READ_SECONDS = 10.0  # for a whole body: who sends a byte now and then holds a place that others need


async def read(request: Request, most: int) -> bytes:
    """The whole body, at most `most` bytes.

    Raises TooSlow, and TooLarge; by then the rest of the body was read and thrown away, within bounds, so that the client, which is still
    sending, sees the answer and not a reset connection.
    """
    try:
        chunk, more = await _next(request)  # `service.protocol` sees to it that this ends
        chunks, size = [chunk], len(chunk)
        if more:
            async with asyncio.timeout(READ_SECONDS):
                while more and size <= most:
                    chunk, more = await _next(request)
                    size += len(chunk)
                    chunks.append(chunk)
    except TimeoutError:
        raise TooSlow(headers={"Connection": "close"}) from None
    except ClientDisconnect:
        raise BadJson("The body ended before it was whole.") from None
    if size > most:
        chunks.clear()
        if more:
            await _drain(request)
        raise TooLarge(f"The body is larger than the {most} bytes that this path takes.", headers={"Connection": "close"})
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _next(request: Request) -> tuple[bytes, bool]:
    """The next piece of the body, and whether there is more. Raises ClientDisconnect."""
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return message.get("body", b""), message.get("more_body", False)


async def _drain(request: Request) -> None:
    size, more = 0, True
    with suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(DRAIN_SECONDS):
            while more and size < MOST_DRAINED:
                chunk, more = await _next(request)
                size += len(chunk)
