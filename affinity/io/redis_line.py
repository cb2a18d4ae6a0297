"""The bytes of one connection to Redis, past the client's own reading and writing.

The client opens the connection: address, TLS, user and password, database. From then on its streams, its parser's task
and its time-outs would take longer than the way to the server and back; here an answer is told of in the call in which
its bytes arrive.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, cast

from hiredis import Reader, pack_command
from redis import exceptions
from redis.asyncio.connection import AbstractConnection

CLOSED = "handler is closed"
"""In uvloop's words: the connection was lost a moment ago, and nobody has been told yet."""

NO_REPLICAS = "NOREPLICAS"

_MORE = object()
"""What the reader says while an answer is incomplete."""


class NoReplicas(exceptions.ReadOnlyError):
    """A primary that takes no writes since its replicas have left it: another one may have been made primary."""


class RedisLine(asyncio.Protocol):
    """``heard`` is called with each answer, an error's exception included; ``lost`` once when nothing more can come."""

    def __init__(
        self,
        connection: AbstractConnection,
        heard: Callable[[Any], None],
        lost: Callable[[exceptions.ConnectionError], None],
    ) -> None:
        self._connection = connection
        self._heard = heard
        self._lost = lost
        # What the client has taken apart of the handshake is all there is: Redis says nothing unasked before that.
        parser, writer = cast(Any, connection)._parser, cast(Any, connection)._writer
        encoding = connection.encoder
        self._reader = Reader(
            protocolError=exceptions.InvalidResponse,
            replyError=lambda text: _error(parser, text),
            encoding=encoding.encoding,
            errors=encoding.encoding_errors,
            notEnoughData=_MORE,
        )
        self._transport: asyncio.Transport = writer.transport
        self._clients = self._transport.get_protocol()
        self._transport.set_protocol(self)
        if self._transport.is_closing():  # Before we were there to be told.
            self.connection_lost(None)

    @classmethod
    async def open(
        cls,
        connection: AbstractConnection,
        connect_s: float,
        heard: Callable[[Any], None],
        lost: Callable[[exceptions.ConnectionError], None],
    ) -> "RedisLine":
        """Over a connection that is not open yet. Raises the client's exceptions, and ``TimeoutError``."""
        with closed_is_lost():
            async with asyncio.timeout(connect_s):
                await connection.connect()  # type: ignore[no-untyped-call]
        return cls(connection, heard, lost)

    def send(self, *command: str | int) -> None:
        """Write a command. On a lost connection it goes nowhere."""
        # The client's own packer is Python, and takes a third of a call. The stub of this one knows pairs only.
        with closed_is_lost():
            self._transport.write(pack_command(cast(Any, command)))

    def cut(self) -> None:
        """End the connection at once; ``lost`` is called if it was not before."""
        self._end(exceptions.ConnectionError("the connection was closed"))
        self._transport.abort()

    async def close(self) -> None:
        """``cut``, and let the client put away what is its."""
        self.cut()
        with contextlib.suppress(OSError, exceptions.RedisError):
            await self._connection.disconnect(nowait=True)

    def data_received(self, data: bytes) -> None:
        """Tell of every answer that is complete now."""
        self._reader.feed(data)
        try:
            while (answer := self._reader.gets()) is not _MORE:
                if isinstance(answer, exceptions.ConnectionError):
                    # The server will not serve us: it is loading, or has too many clients.
                    self._end(answer)
                    self._transport.abort()
                    return
                self._heard(answer)
        except exceptions.InvalidResponse as error:
            self._end(exceptions.ConnectionError(f"the server sent what is no answer: {error}"))
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The other end is gone, or we are."""
        cast(asyncio.Protocol, self._clients).connection_lost(exc)
        self._end(exceptions.ConnectionError(f"the connection was lost: {exc or 'it was closed'}"))

    def _end(self, error: exceptions.ConnectionError) -> None:
        lost, self._lost = self._lost, _nobody
        lost(error)


@contextlib.contextmanager
def closed_is_lost() -> Iterator[None]:
    """Raise the client's ``ConnectionError`` for uvloop's ``RuntimeError``: unseen, it would be answered 500."""
    try:
        yield
    except RuntimeError as error:
        if CLOSED not in str(error):
            raise
        raise exceptions.ConnectionError(f"the connection was lost: {error}") from error


def _error(parser: Any, text: str) -> Exception:
    # To the client it is any other error; the connection would be kept, and the same be said of every write.
    return NoReplicas(text) if text.startswith(NO_REPLICAS) else cast(Exception, parser.parse_error(text))


def _nobody(_: exceptions.ConnectionError) -> None:
    """Who is told of a loss that was told already."""
