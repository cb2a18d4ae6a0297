"""The bound on request bodies, before anything reads them. Plain ASGI: Starlette's own base class costs latency."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from affinity.errors import PayloadTooLarge
from dispatcher.problems import ProblemResponse


class BodyLimit:
    """Answers 413 to a body above ``most_bytes``: at once where its length is announced, else when it gets there."""

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app = app
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers = dict(scope["headers"]) if scope["type"] == "http" else {}
        announced = headers.get(b"content-length", b"")
        if announced.isdigit() and int(announced) > self._most_bytes:
            await ProblemResponse.of(self._error())(scope, receive, _closing(send))
        elif b"transfer-encoding" in headers:
            await self._counted(scope, receive, send)
        else:
            # The server itself sees to it that no more comes than was announced.
            await self._app(scope, receive, send)

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen_bytes = 0

        async def counting() -> Message:
            nonlocal seen_bytes
            message = await receive()
            seen_bytes += len(message.get("body", b""))
            if seen_bytes > self._most_bytes:
                raise self._error()
            return message

        async def sending(message: Message) -> None:
            await (_closing(send) if seen_bytes > self._most_bytes else send)(message)

        await self._app(scope, counting, sending)

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
