"""The way of one process to one server, which can be cut, silenced, slowed down or made to lose answers."""

import asyncio
from typing import cast
from urllib.parse import urlsplit, urlunsplit

from tests.support.tcp_proxy import TcpProxy


class Wire(TcpProxy):
    """A proxy to the server at ``url``. ``delay_s`` is how late each piece comes, in either direction.

    ``whole`` is held while it is under a fault.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        super().__init__(parts.port or 0)
        self._parts = parts
        self.delay_s = 0.0
        self.whole = asyncio.Lock()

    @property
    def url(self) -> str:
        """The server's address by this way; valid once it is open, and unchanged ever after."""
        user = f"{self._parts.username}:{self._parts.password}@" if self._parts.username else ""
        return urlunsplit(self._parts._replace(netloc=f"{user}127.0.0.1:{self.port}"))

    async def open(self) -> None:
        """Let connections through."""
        await self.__aenter__()

    async def shut(self) -> None:
        """Refuse new connections, cut the rest."""
        await self.__aexit__(None, None, None)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await super()._up(cast(asyncio.StreamReader, _Late(reader, self)), writer)

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await super()._down(cast(asyncio.StreamReader, _Late(reader, self)), writer)


class _Late:
    """Reads as the reader does, a while later."""

    def __init__(self, reader: asyncio.StreamReader, wire: Wire) -> None:
        self._reader = reader
        self._wire = wire

    async def read(self, most: int) -> bytes:
        chunk = await self._reader.read(most)
        if self._wire.delay_s:
            await asyncio.sleep(self._wire.delay_s)
        return chunk
