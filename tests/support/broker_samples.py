"""What the broker's tests share: an inbox for arrivals, samples, and a view from outside on a real server."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import aio_pika

from affinity.io.ports import DeadLetter, Delivery, Intake, Publisher
from affinity.job import JobSpec
from affinity.topology import Topology
from affinity.wire import decode_message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aio_pika.abc import AbstractChannel

PATIENCE_S = 20.0
"""A server that has not done it by then never will."""

CREATED_AT = 1_700_000_000.25


class Inbox:
    """An ``Arrival`` that keeps what comes."""

    def __init__(self) -> None:
        self._came: asyncio.Queue[Delivery] = asyncio.Queue()

    async def __call__(self, delivery: Delivery) -> None:
        self._came.put_nowait(delivery)

    async def next(self) -> Delivery:
        """The next delivery, waiting for it if need be."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._came.get()

    @property
    def empty(self) -> bool:
        """True while nothing has come that was not looked at."""
        return self._came.empty()


@dataclass(frozen=True, slots=True)
class Letter:
    """A message as a foreign client sees it."""

    body: bytes
    headers: dict[str, object]
    correlation_id: str | None


@dataclass(frozen=True, slots=True)
class BrokerWorld:
    """The broker's ports over one server, fake or real.

    ``expire`` ends the time to live of what is in a model's queue; ``drain`` empties a queue and says what was in it;
    ``restore`` ends an outage that the world began with; ``cut`` breaks every connection, which then come back.
    """

    topology: Topology
    publisher: Publisher
    intake: Callable[[str], Intake]
    expire: Callable[[str], Awaitable[None]]
    drain: Callable[[str], Awaitable[list[Letter]]]
    restore: Callable[[], Awaitable[None]]
    cut: Callable[[], Awaitable[None]]


def a_job(job_id: str = "j1", model: str = "m") -> JobSpec:
    """A job with content that must come through unharmed."""
    return JobSpec(job_id, model, {"text": ["ä", "\ud800", 0.1], "n": 2**60}, metadata={"user": "u"})


def a_letter(body: bytes = b"\xff\x00{", reason: str = "the body is not JSON", model: str = "m") -> DeadLetter:
    """A dead letter, undecodable unless told otherwise."""
    return DeadLetter(body, "j1", "undecodable_message", reason, model, "w1", {"affinity-hops": "2"})


def id_in(delivery: Delivery) -> str:
    """The id of the job in a delivery."""
    return decode_message(delivery.body, "?", None)[0].id


@asynccontextmanager
async def foreign_channel(url: str) -> "AsyncIterator[AbstractChannel]":
    """A channel of a client that has nothing to do with us."""
    connection = await aio_pika.connect(url, timeout=PATIENCE_S)
    async with connection, connection.channel() as channel:
        yield channel


async def drain_queue(url: str, queue: str) -> list[Letter]:
    """Take everything that is ready in a queue."""
    letters = []
    async with foreign_channel(url) as channel:
        source = await channel.get_queue(queue, ensure=False)
        while message := await source.get(fail=False, no_ack=True):
            headers = {name: value for name, value in message.headers.items() if name.startswith("affinity-")}
            letters.append(Letter(message.body, cast(dict[str, object], headers), message.correlation_id))
    return letters


async def consumers_of(url: str, queue: str) -> int:
    """How many consumers a queue has."""
    async with foreign_channel(url) as channel:
        declared = await channel.declare_queue(queue, passive=True)
        return declared.declaration_result.consumer_count or 0


async def delete_queue(url: str, queue: str) -> None:
    """What an operator may do by hand."""
    async with foreign_channel(url) as channel:
        await channel.queue_delete(queue)
