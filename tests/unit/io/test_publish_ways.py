"""A queue that takes nothing does not keep the jobs of other models from being published."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from aio_pika.exceptions import DeliveryError
from pamqp.commands import Basic

from affinity.errors import BrokerUnavailable
from affinity.io.rabbit_publisher import IN_FLIGHT, IN_FLIGHT_PER_KEY, RabbitPublisher
from affinity.job import JobSpec
from affinity.topology import Topology


class Broker:
    """Confirms at once, but for routing keys in ``dumb``: those it never does, and for those in ``lost``: on a channel
    that was once refused them, it refuses them for ever.
    """

    def __init__(self) -> None:
        self.topology = Topology("t")
        self.address = "fake:0"
        self.dumb: set[str] = set()
        self.lost: set[str] = set()
        self.channels = 1
        self.waiting: list[asyncio.Future[None]] = []

    async def channel(self, *_: Any, **__: Any) -> Any:
        async def get_exchange(*_: Any, **__: Any) -> "Broker":
            return self

        return SimpleNamespace(get_exchange=get_exchange)

    async def renew(self, _: Any) -> None:
        self.channels += 1

    @contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (TimeoutError, DeliveryError) as error:
            raise BrokerUnavailable(doing) from error

    async def publish(self, _: Any, routing_key: str, **__: Any) -> None:
        if routing_key in self.lost and self.channels == 1:
            raise DeliveryError(None, Basic.Nack())
        if routing_key in self.dumb:
            confirm = asyncio.get_running_loop().create_future()
            self.waiting.append(confirm)
            await confirm

    def time_out(self) -> None:
        """What waits has waited for too long."""
        for confirm in self.waiting:
            confirm.set_exception(TimeoutError())
        self.waiting.clear()


async def settled(tasks: list[asyncio.Task[None]]) -> list[Any]:
    return await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def broker() -> Broker:
    return Broker()


async def publish(publisher: RabbitPublisher, model: str, count: int) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(publisher.publish(JobSpec(f"{model}{n}", model, n), 1.0)) for n in range(count)]
    for _ in range(10):
        await asyncio.sleep(0)
    return tasks


async def test_others_are_published_while_one_queue_confirms_nothing_and_then_it_is_refused_at_once(broker: Broker):
    publisher: RabbitPublisher = RabbitPublisher(broker)  # type: ignore[arg-type]
    broker.dumb.add("dead")
    stuck = await publish(publisher, "dead", 2 * IN_FLIGHT)
    assert len(broker.waiting) == IN_FLIGHT_PER_KEY
    assert await settled(await publish(publisher, "m", IN_FLIGHT)) == [None] * IN_FLIGHT
    broker.time_out()
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(broker.waiting) <= 1, "one is tried, the others are told no"
    broker.time_out()
    assert {type(answer) for answer in await settled(stuck)} == {BrokerUnavailable}


async def test_a_queue_that_confirms_again_has_its_room_back(broker: Broker):
    publisher: RabbitPublisher = RabbitPublisher(broker)  # type: ignore[arg-type]
    broker.dumb.add("m")
    (tried,) = await publish(publisher, "m", 1)
    broker.time_out()
    assert isinstance((await settled([tried]))[0], BrokerUnavailable)
    broker.dumb.clear()
    assert await settled(await publish(publisher, "m", 1)) == [None]
    assert await settled(await publish(publisher, "m", IN_FLIGHT)) == [None] * IN_FLIGHT
    assert publisher._ways == {}


async def test_what_was_not_confirmed_is_not_tried_again_on_the_same_channel(broker: Broker):
    publisher: RabbitPublisher = RabbitPublisher(broker)  # type: ignore[arg-type]
    broker.lost.add("m")
    (refused,) = await settled(await publish(publisher, "m", 1))
    assert isinstance(refused, BrokerUnavailable)
    assert await settled(await publish(publisher, "m", 1)) == [None]
    broker.dumb.add("n")
    unconfirmed = await publish(publisher, "n", 1)
    broker.time_out()
    await settled(unconfirmed)
    assert broker.channels == 3
