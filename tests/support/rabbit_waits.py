"""Waiting for what a real broker and our connection to it do by themselves: nothing tells when it has happened."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from affinity.errors import BrokerUnavailable
from affinity.io.rabbit import Rabbit
from tests.support.broker_samples import CREATED_AT, PATIENCE_S, a_job, consumers_of

HEARTBEAT_S = 1
"""Short, so that a silent connection is noticed while a test watches."""


async def up(rabbit: Rabbit) -> None:
    """Wait until it is connected."""
    async with asyncio.timeout(PATIENCE_S):
        await rabbit.wait_up()


async def eventually(ask: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what the server or a log line shows, and no event tells."""
    async with asyncio.timeout(PATIENCE_S):
        while not await ask():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def publish_at_last(rabbit: Rabbit, job_id: str) -> None:
    """Publish as the outbox does: again and again until it is confirmed."""

    async def confirmed() -> bool:
        await rabbit.wait_up()
        try:
            await rabbit.publisher.publish(a_job(job_id), CREATED_AT)
        except BrokerUnavailable:  # Until the loss is noticed the connection still counts as up.
            return False
        return True

    await eventually(confirmed)


async def consumed_by(url: str, queue: str, wanted: int) -> None:
    """Wait until a queue has that many consumers."""

    async def so_many() -> bool:
        return await consumers_of(url, queue) == wanted

    await eventually(so_many)


async def first_failure_in(logs: Sequence[Mapping[str, object]]) -> None:
    """Wait until an attempt to connect has failed: the log is the only place where it shows."""

    async def failed() -> bool:
        return any(line["event"] == "broker.unreachable" for line in logs)

    await eventually(failed)
