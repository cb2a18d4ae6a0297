"""What is published on a channel, as it comes: one connection that only listens.

A waiting client's whole answer comes this way, so it takes the short one, like ``RedisWire``.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from redis import exceptions
from redis.asyncio.connection import AbstractConnection

from affinity.io.redis_line import RedisLine


async def heard_on(
    connection: AbstractConnection, channel: str, connect_s: float, silence_s: float
) -> AsyncGenerator[str | None, None]:
    """``None`` once the subscription has begun, then each message, until the connection is lost.

    ``connection`` is not open yet, and closed at the end. Raises the client's exceptions, and ``TimeoutError`` for a
    connection that was silent for ``silence_s``, was asked whether it is there, and was silent for as long again.
    """
    said: asyncio.Queue[Any] = asyncio.Queue()
    line = await RedisLine.open(connection, connect_s, said.put_nowait, said.put_nowait)
    try:
        line.send("SUBSCRIBE", channel)
        while True:
            match await _next(line, said, silence_s):
                case ["message", _, message]:
                    yield str(message)
                case ["subscribe", *_]:
                    yield None
                case exceptions.RedisError() as error:
                    raise error
    finally:
        await line.close()


async def _next(line: RedisLine, said: "asyncio.Queue[Any]", silence_s: float) -> Any:
    for asked in (False, True):
        try:
            async with asyncio.timeout(silence_s):
                return await said.get()
        except TimeoutError:
            # A connection whose other end has vanished stays silent for ever: only an answer shows that it is there.
            if not asked:
                line.send("PING")
    raise TimeoutError(f"the subscription has been silent for {2 * silence_s:.0f} s")
