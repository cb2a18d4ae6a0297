"""A TCP proxy that misbehaves on request: a server behind it is cut off, black-holed or slow to be found again."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

CHUNK = 65536


class TcpProxy:
    """Forwards 127.0.0.1:``port`` to a server, until told otherwise.

    ``swallow``: what clients send is read and never passed on. ``cut``: how many more connections are closed at the
    client's first byte, before the server sees it. ``deafen``: how many more connections are closed at the server's
    first byte, so that the server has done what it was asked and the answer is lost.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.swallow = False
        self.cut = 0
        self.deafen = 0
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self.drop()

    async def drop(self) -> None:
        """Close all connections there are now."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        writers = [writer]
        try:
            with suppress(OSError):
                server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
                writers.append(server_writer)
                pumps = [self._up(reader, server_writer), self._down(server_reader, writer)]
                running = [asyncio.ensure_future(pump) for pump in pumps]
                try:
                    await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for pump in running:
                        pump.cancel()
                    await asyncio.gather(*running, return_exceptions=True)
        except asyncio.CancelledError:
            # The streams module reports a cancelled connection as an error of its own.
            pass
        finally:
            self._tasks.discard(task)
            for one in writers:
                one.close()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK):
            if self.cut > 0:
                self.cut -= 1
                return
            if not self.swallow:
                writer.write(chunk)
                await writer.drain()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK):
            if self.deafen > 0:
                self.deafen -= 1
                return
            writer.write(chunk)
            await writer.drain()
