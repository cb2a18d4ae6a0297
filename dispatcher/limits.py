"""The bounds on request bodies, before anything reads them. Plain ASGI: Starlette's own base class costs latency."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from affinity.errors import PayloadTooLarge
from dispatcher.problems import ProblemResponse, RequestTimeout

WITHIN_S = 60.0
"""A body that is not whole by then is given up: a byte at a time would hold its connection for ever."""


class BodyLimit:
    """Answers 413 to a body above ``most_bytes``: at once where its length is announced, else when it gets there; 408
    to one that is not whole after ``within_s`` seconds.
    """

    def __init__(self, app: ASGIApp, most_bytes: int, within_s: float = WITHIN_S) -> None:
        self._app = app
        self._most_bytes = most_bytes
        self._within_s = within_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers = dict(scope["headers"]) if scope["type"] == "http" else {}
        announced = headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced) > self._most_bytes:
            await ProblemResponse.of(self._error())(scope, receive, _closing(send))
        elif b"transfer-encoding" in headers or announced.strip(b"0"):
            await self._watched(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _watched(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen_bytes, whole, given_up = 0, False, False
        deadline_at = asyncio.get_running_loop().time() + self._within_s

        async def watching() -> Message:
            nonlocal seen_bytes, whole, given_up
            if whole:  # What is waited for now is the end of the connection, which may take its time.
                return await receive()
            try:
                async with asyncio.timeout_at(deadline_at):
                    message = await receive()
            except TimeoutError:
                given_up = True
                raise RequestTimeout(f"the body was not whole after {self._within_s:g} s: send it faster") from None
            seen_bytes += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if seen_bytes > self._most_bytes:
                given_up = True
                raise self._error()
            return message

        async def sending(message: Message) -> None:
            await (_closing(send) if given_up else send)(message)

        await self._app(scope, watching, sending)

    def _error(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"the body is larger than {self._most_bytes} bytes: send less, or raise DISPATCHER_MAX_BODY_BYTES"
        )


def _closing(send: Send) -> Send:
    """Without ``Connection: close`` the server reads the rest of the body, to use the connection again."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await send(message)

    return sending
