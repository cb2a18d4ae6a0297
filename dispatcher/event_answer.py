"""The answer that goes on: chunks as they come, until the stream or the client ends.

Starlette's own has no limit on how long a client may leave a chunk unread, and never closes the stream.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import aclosing

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dispatcher.event_frames import MEDIA_TYPE

log = structlog.get_logger(__name__)

UNREAD_S = 30.0
"""A client that takes nothing for so long is left: whatever it was told last waits before it."""


class EventAnswer(Response):
    """``text/event-stream``. What the stream raises before its first chunk is raised before anything is sent."""

    media_type = MEDIA_TYPE

    def __init__(self, chunks: AsyncGenerator[bytes, None], unread_s: float = UNREAD_S) -> None:
        super().__init__()
        del self.headers["content-length"]
        # nginx would keep events back until a buffer is full; the connection is of no use for a second request.
        self.headers["x-accel-buffering"] = "no"
        self.headers["connection"] = "close"
        self._chunks = chunks
        self._unread_s = unread_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until either end is reached; the stream is closed then."""
        async with aclosing(self._chunks) as chunks:
            first = await anext(chunks)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            sending = asyncio.create_task(self._send_all(first, chunks, send, scope["path"]))
            leaving = asyncio.create_task(_left(receive))
            try:
                await asyncio.wait([sending, leaving], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (sending, leaving):
                    task.cancel()
                await asyncio.gather(sending, leaving, return_exceptions=True)
        with contextlib.suppress(asyncio.CancelledError):
            sending.result()

    async def _send_all(self, first: bytes, chunks: AsyncGenerator[bytes, None], send: Send, path: str) -> None:
        try:
            await self._send(send, first, True)
            async for chunk in chunks:
                await self._send(send, chunk, True)
            await self._send(send, b"", False)
        except TimeoutError:
            log.info("events.unread", path=path, for_s=self._unread_s)

    async def _send(self, send: Send, chunk: bytes, more: bool) -> None:
        async with asyncio.timeout(self._unread_s):
            await send({"type": "http.response.body", "body": chunk, "more_body": more})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
