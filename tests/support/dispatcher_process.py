"""``python -m dispatcher`` as a real process, and a gate in front of a server that a test can shut."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from deploy.local.ports import free_ports
from dispatcher.settings import DispatcherSettings
from tests.support.tcp_proxy import TcpProxy

START_WITHIN_S = 60.0


def environment(**settings: str) -> dict[str, str]:
    """This process's environment with these settings of a dispatcher and no others."""
    ours = {name.upper() for name in DispatcherSettings.model_fields}
    return {name: value for name, value in os.environ.items() if name not in ours} | settings


@dataclass(slots=True)
class DispatcherProcess:
    """A dispatcher that runs. ``log`` is every line it has logged; ``http`` asks it."""

    process: asyncio.subprocess.Process
    http: httpx.AsyncClient
    log: list[dict[str, Any]] = field(default_factory=list)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    async def logged(self, event: str, **fields: object) -> dict[str, Any]:
        """The first line of that event with these fields, when it comes. A line is looked at only once."""
        async with asyncio.timeout(START_WITHIN_S):
            while True:
                self._more.clear()
                while self.log:
                    line = self.log.pop(0)
                    if line.get("event") == event and fields.items() <= line.items():
                        return line
                await self._more.wait()

    async def read_log(self) -> None:
        """Take in lines until the process ends."""
        assert self.process.stderr
        async for line in self.process.stderr:
            self.log.append(json.loads(line) if line.startswith(b"{") else {"event": line.decode()})
            self._more.set()

    async def terminate(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30.0):
            return await self.process.wait()


@asynccontextmanager
async def dispatcher_process(**settings: str) -> AsyncIterator[DispatcherProcess]:
    """A dispatcher on a free port, listening."""
    (port,) = free_ports(1)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "dispatcher",
        env=environment(DISPATCHER_PORT=str(port), **settings),
        stderr=asyncio.subprocess.PIPE,
    )
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=90.0) as http:
        running = DispatcherProcess(process, http)
        reading = asyncio.create_task(running.read_log())
        try:
            await running.logged("dispatcher.listening")
            yield running
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await reading


StartDispatcher = Callable[..., Awaitable[DispatcherProcess]]
"""The fixture ``start_dispatcher``: settings by name."""


class Gate:
    """A way to a server: shut, it refuses connections and cuts those there are. Shut at first."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._proxy = TcpProxy(parts.port or 0)
        (self._proxy.port,) = free_ports(1)
        user = f"{parts.username}:{parts.password}@" if parts.username else ""
        self.url = urlunsplit(parts._replace(netloc=f"{user}127.0.0.1:{self._proxy.port}"))
        self._is_open = False

    async def open(self) -> None:
        """Let connections through."""
        await self._proxy.__aenter__()
        self._is_open = True

    async def shut(self) -> None:
        """Refuse new ones, cut the rest."""
        if self._is_open:
            self._is_open = False
            await self._proxy.__aexit__(None, None, None)
