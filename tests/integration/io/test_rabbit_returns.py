"""RabbitMQ is back after an outage, or closed a channel: what comes back by itself, and how often."""

import asyncio
from contextlib import suppress

import aio_pika
import pytest
import structlog

from affinity.errors import BrokerUnavailable
from affinity.io.rabbit import Rabbit
from affinity.topology import Topology
from tests.support.broker_samples import CREATED_AT, Inbox, a_job, consumers_of, delete_queue, id_in
from tests.support.rabbit_waits import consumed_by, publish_at_last, up
from tests.support.tcp_proxy import TcpProxy


async def test_after_each_reconnect_there_is_one_consumer_of_each_kind_and_one_binding(
    rabbit: Rabbit, proxy: TcpProxy, rabbitmq_url: str, topology: Topology
) -> None:
    intake, inbox, fallback = rabbit.intake("w1"), Inbox(), Inbox()
    queue = topology.model_queue("m")
    await intake.bind("m")
    await intake.arm("m", 1, inbox)
    await intake.consume_fallback(1, fallback)
    for number in range(3):
        await proxy.drop()
        await publish_at_last(rabbit, f"j{number}")
        delivery = await inbox.next()
        assert id_in(delivery) == f"j{number}"
        await delivery.ack()
        await consumed_by(rabbitmq_url, queue, 1)
        await consumed_by(rabbitmq_url, topology.fallback, 1)
    assert proxy.connections == 8
    await intake.unbind("m")
    await rabbit.publisher.publish(a_job("cold"), CREATED_AT)
    assert id_in(await fallback.next()) == "cold"
    await intake.disarm("m")
    assert await consumers_of(rabbitmq_url, queue) == 0


async def test_what_was_withdrawn_during_an_outage_does_not_come_back(
    rabbit: Rabbit, proxy: TcpProxy, rabbitmq_url: str, topology: Topology
) -> None:
    intake, fallback = rabbit.intake("w1"), Inbox()
    for model in ("m", "n"):
        await intake.bind(model)
        await intake.arm(model, 1, Inbox())
    await intake.consume_fallback(1, fallback)
    proxy.cut = 1000
    await proxy.drop()
    with suppress(BrokerUnavailable):
        await intake.disarm("m")
    with pytest.raises(BrokerUnavailable):
        await intake.unbind("m")
    proxy.cut = 0
    await up(rabbit)
    await consumed_by(rabbitmq_url, topology.model_queue("n"), 1)
    assert await consumers_of(rabbitmq_url, topology.model_queue("m")) == 0


async def test_a_channel_that_is_closed_by_an_error_gets_its_consumers_back_once(
    rabbit: Rabbit, rabbitmq_url: str, topology: Topology
) -> None:
    intake, inbox, fallback = rabbit.intake("w1"), Inbox(), Inbox()
    await intake.bind("m")
    await intake.arm("m", 1, inbox)
    await intake.consume_fallback(1, fallback)
    channel = await intake._channel()
    with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
        await channel.declare_queue("never-declared", passive=True)
    await rabbit.publisher.publish(a_job("j1"), CREATED_AT)
    delivery = await inbox.next()
    assert id_in(delivery) == "j1"
    await consumed_by(rabbitmq_url, topology.model_queue("m"), 1)
    await consumed_by(rabbitmq_url, topology.fallback, 1)


async def test_a_404_on_one_channel_leaves_the_consumers_and_the_publisher_alone(
    rabbit: Rabbit, proxy: TcpProxy, rabbitmq_url: str, topology: Topology
) -> None:
    intake, inbox = rabbit.intake("w1"), Inbox()
    await intake.bind("m")
    await intake.arm("m", 1, inbox)
    for _ in range(3):
        assert await rabbit.publisher.depth("never-declared") is None
        with pytest.raises(BrokerUnavailable, match="NOT_FOUND"):
            await intake.take("never-declared", 1)
    await rabbit.publisher.publish(a_job(), CREATED_AT)
    assert id_in(await inbox.next()) == "j1"
    assert await consumers_of(rabbitmq_url, topology.model_queue("m")) == 1
    assert proxy.connections == 2


async def test_a_consumer_that_the_broker_cancels_comes_back(
    rabbit: Rabbit, rabbitmq_url: str, topology: Topology
) -> None:
    intake, inbox = rabbit.intake("w1"), Inbox()
    await intake.bind("m")
    await intake.arm("m", 1, inbox)
    await delete_queue(rabbitmq_url, topology.model_queue("m"))
    async with asyncio.timeout(5):
        # Not declared again by us in the meantime: 3.10 then tells nobody that the consumer is gone.
        # What the intake does by itself has no event.
        while await rabbit.publisher.depth(topology.model_queue("m")) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await rabbit.publisher.park(a_job("j1"), CREATED_AT)
        assert id_in(await inbox.next()) == "j1"


async def test_a_consumer_that_cannot_start_is_not_tried_again_without_a_pause(rabbit: Rabbit) -> None:
    intake = rabbit.intake("w1")
    with structlog.testing.capture_logs() as logs:
        with pytest.raises(BrokerUnavailable, match="NOT_FOUND"):
            await intake.arm("never-declared", 1, Inbox())
        await asyncio.sleep(0.5)  # Long enough for dozens of attempts, were there no pause.
        await intake.disarm("never-declared")
    assert sum(line["event"] == "intake.waits" for line in logs) < 5
