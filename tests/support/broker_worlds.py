"""The broker's ports over a fake and over a real server, as the conformance suites get them."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from aio_pika.connection import make_url

from affinity.io.ports import Intake
from affinity.io.rabbit import Rabbit
from affinity.topology import Topology
from tests.support.broker_samples import PATIENCE_S, BrokerWorld, Letter, drain_queue, id_in
from tests.support.fake_broker import FakeBroker
from tests.support.tcp_proxy import TcpProxy

MakeWorld = Callable[..., Awaitable[BrokerWorld]]


def fake_world(topology: Topology, away: bool) -> BrokerWorld:
    """In memory; ``away`` has it begin with an outage."""
    broker = FakeBroker(topology)
    broker.down = away

    async def expire(queue: str) -> None:
        broker.expire(queue)

    async def drain(queue: str) -> list[Letter]:
        letters = [Letter(m.body, dict(m.headers), m.correlation_id) for m in broker.queues[queue]]
        broker.queues[queue].clear()
        return letters

    async def restore() -> None:
        broker.restore()

    async def cut() -> None:
        broker.cut()
        broker.restore()

    return BrokerWorld(topology, broker.publisher, broker.intake, expire, drain, restore, cut)


async def real_world(topology: Topology, away: bool, url: str, stack: AsyncExitStack) -> BrokerWorld:
    """On the server at ``url``, through a proxy that can break the connection. ``stack`` closes it."""
    server = make_url(url)
    proxy = await stack.enter_async_context(TcpProxy(server.port or 5672))
    rabbit = Rabbit(str(server.with_port(proxy.port)), topology, "conformance")
    stack.push_async_callback(rabbit.close)

    async def expire(_: str) -> None:
        """It does so by itself, after ``model_ttl_s``."""

    async def drain(queue: str) -> list[Letter]:
        return await drain_queue(url, queue)

    async def restore() -> None:
        await rabbit.open()
        async with asyncio.timeout(PATIENCE_S):
            await rabbit.wait_up()

    if not away:
        await restore()
    return BrokerWorld(topology, rabbit.publisher, rabbit.intake, expire, drain, restore, proxy.drop)


async def ids_taken(intake: Intake, model: str = "m", most: int = 10) -> list[str]:
    """Take and settle."""
    taken = await intake.take(model, most)
    for delivery in taken:
        await delivery.ack()
    return [id_in(delivery) for delivery in taken]
