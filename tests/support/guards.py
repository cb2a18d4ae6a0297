"""What makes a fast layer fast: opening a network socket or sleeping fails the test that does it."""

import asyncio
import socket
import time
from typing import Any, NoReturn

import pytest


def forbid_sockets_and_sleep(patch: pytest.MonkeyPatch) -> None:
    """Until ``patch`` is undone, network sockets, ``time.sleep`` and ``asyncio.sleep`` of more than 0 s fail."""
    opening = socket.socket.__init__
    sleep = asyncio.sleep

    def only_local(self: socket.socket, family: int = -1, *rest: Any, **named: Any) -> None:
        # asyncio wakes its loop through a pair of family AF_UNIX; whoever passes fileno has a socket already.
        opened_before = len(rest) > 2 or named.get("fileno") is not None
        if family != socket.AF_UNIX and not opened_before:
            pytest.fail("this layer opens no sockets: use a fake from tests/support")
        opening(self, family, *rest, **named)

    def no_time_sleep(seconds: float) -> NoReturn:
        pytest.fail(f"this layer does not sleep ({seconds} s): wait for an event or move a fake clock")

    async def no_async_sleep(delay: float, result: Any = None) -> Any:
        if delay > 0:
            pytest.fail(f"this layer does not sleep ({delay} s): wait for an event or move a fake clock")
        return await sleep(0, result)

    patch.setattr(socket.socket, "__init__", only_local)
    patch.setattr(time, "sleep", no_time_sleep)
    patch.setattr(asyncio, "sleep", no_async_sleep)
