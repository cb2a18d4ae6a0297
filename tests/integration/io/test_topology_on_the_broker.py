"""The topology as a real broker has it: what we declare is what is documented, and foreign clients find their way."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping

import aio_pika
import pika
import pytest
import structlog

from affinity.errors import BrokerUnavailable
from affinity.io.rabbit import Rabbit
from affinity.topology import Topology
from affinity.wire import decode_message
from tests.support.broker_samples import CREATED_AT, PATIENCE_S, Inbox, a_job, drain_queue, foreign_channel, id_in


@pytest.fixture
def topology(namespace: str) -> Topology:
    return Topology(namespace, delivery_limit=3)


@pytest.fixture
async def rabbit(rabbitmq_url: str, topology: Topology) -> AsyncIterator[Rabbit]:
    opened = Rabbit(rabbitmq_url, topology, "topology")
    await opened.open()
    async with asyncio.timeout(PATIENCE_S):
        await opened.wait_up()
    yield opened
    await opened.close()


def queues_of(namespace: str, limit: int) -> Mapping[str, Mapping[str, str | int]]:
    """Queues and their arguments, written out: not taken from the code under test."""
    return {
        f"{namespace}.fallback": {
            "x-queue-type": "quorum",
            "x-delivery-limit": limit,
            "x-dead-letter-exchange": f"{namespace}.dead",
        },
        f"{namespace}.dead": {"x-queue-type": "quorum"},
        f"{namespace}.model.m": {
            "x-queue-type": "quorum",
            "x-dead-letter-exchange": f"{namespace}.fallback",
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-delivery-limit": limit,
            "x-message-ttl": 600_000,
        },
        f"{namespace}.retry.1500": {
            "x-queue-type": "quorum",
            "x-dead-letter-exchange": f"{namespace}.jobs",
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
            "x-message-ttl": 1500,
        },
    }


async def test_the_broker_has_the_exchanges_and_queues_that_are_documented(
    rabbit: Rabbit, rabbitmq_url: str, namespace: str
) -> None:
    await rabbit.publisher.declare_model_queue("m")
    await rabbit.publisher.delay(a_job(), CREATED_AT, 1.5, alone=False)
    async with foreign_channel(rabbitmq_url) as channel:
        # The broker refuses to declare again what is there with another type or with other arguments.
        for name, arguments in queues_of(namespace, limit=3).items():
            await channel.declare_queue(name, passive=True)
            await channel.declare_queue(name, durable=True, arguments=dict(arguments))
        for name in ("fallback", "dead", "retry.1500"):
            await channel.declare_exchange(f"{namespace}.{name}", "fanout", passive=True)
            await channel.declare_exchange(f"{namespace}.{name}", "fanout", durable=True)
        alternate = {"alternate-exchange": f"{namespace}.fallback"}
        await channel.declare_exchange(f"{namespace}.jobs", "topic", durable=True, arguments=alternate)


@pytest.mark.parametrize("lacking", ["x-overflow", "x-dead-letter-strategy", "x-delivery-limit", "x-message-ttl"])
async def test_that_comparison_would_notice_a_missing_argument(
    rabbit: Rabbit, rabbitmq_url: str, namespace: str, lacking: str
) -> None:
    await rabbit.publisher.declare_model_queue("m")
    name = f"{namespace}.model.m"
    arguments = {key: value for key, value in queues_of(namespace, limit=3)[name].items() if key != lacking}
    with pytest.raises(aio_pika.exceptions.ChannelPreconditionFailed):
        async with foreign_channel(rabbitmq_url) as channel:
            await channel.declare_queue(name, durable=True, arguments=arguments)


async def test_a_foreign_client_without_any_code_of_ours_reaches_holder_and_fallback(
    rabbit: Rabbit, rabbitmq_url: str, namespace: str
) -> None:
    intake, warm, cold = rabbit.intake("w1"), Inbox(), Inbox()
    await intake.bind("held")
    await intake.arm("held", 1, warm)
    await intake.consume_fallback(1, cold)

    def publish() -> None:
        with pika.BlockingConnection(pika.URLParameters(rabbitmq_url)) as connection:
            channel = connection.channel()
            channel.confirm_delivery()
            for model in ("held", "not/held"):
                channel.basic_publish(
                    f"{namespace}.jobs",
                    model,
                    json.dumps({"input": {"for": model}}).encode(),
                    pika.BasicProperties(message_id=f"foreign-{len(model)}", delivery_mode=2),
                    mandatory=True,
                )

    await asyncio.to_thread(publish)
    for inbox, model in ((warm, "held"), (cold, "not/held")):
        delivery = await inbox.next()
        spec, created_at = decode_message(delivery.body, delivery.routing_key, delivery.message_id)
        assert (spec.id, spec.model, spec.input) == (f"foreign-{len(model)}", model, {"for": model})
        assert created_at is None
        assert not delivery.parked
        await delivery.ack()


async def test_messages_are_persistent_and_typed_and_carry_the_jobs_id(
    rabbit: Rabbit, rabbitmq_url: str, topology: Topology
) -> None:
    await rabbit.publisher.publish(a_job(), CREATED_AT)
    async with foreign_channel(rabbitmq_url) as channel:
        message = await (await channel.get_queue(topology.fallback, ensure=False)).get(no_ack=True)
    assert message is not None
    assert message.delivery_mode == aio_pika.DeliveryMode.PERSISTENT
    assert message.content_type == "application/json"
    assert message.correlation_id == "j1"
    # It would survive the alternate exchange and end the job's wait in fallback.
    assert message.expiration is None


async def test_a_job_that_takes_every_holder_down_goes_back_to_fallback_and_says_why(rabbit: Rabbit) -> None:
    intake, arrived, fallback = rabbit.intake("w1"), Inbox(), Inbox()
    await intake.bind("m")
    await intake.consume_fallback(1, fallback)
    await rabbit.publisher.publish(a_job(), CREATED_AT)
    given_up = asyncio.ensure_future(fallback.next())
    holders = 0
    while not given_up.done():
        # This one takes the job and is gone. That counts on every version of the broker; a mere requeue does not.
        holder, taken = rabbit.intake(f"holder-{holders}"), asyncio.ensure_future(arrived.next())
        await holder.arm("m", 1, arrived)
        await asyncio.wait([taken, given_up], return_when=asyncio.FIRST_COMPLETED)
        holders += taken.done()
        taken.cancel()
        await holder.close()
    delivery = given_up.result()
    assert (id_in(delivery), delivery.dead_reason, delivery.routing_key) == ("j1", "delivery_limit", "m")
    assert holders in (3, 4)
    await delivery.ack()


async def test_parking_strips_the_traces_of_earlier_trips(
    rabbit: Rabbit, rabbitmq_url: str, topology: Topology
) -> None:
    await rabbit.publisher.park(a_job(), CREATED_AT)
    async with foreign_channel(rabbitmq_url) as channel:
        message = await (await channel.get_queue(topology.model_queue("m"), ensure=False)).get(no_ack=True)
    assert message is not None
    assert set(message.headers) - {"x-delivery-count"} == {"affinity-parked"}


async def test_two_namespaces_on_one_broker_do_not_see_each_other(
    rabbit: Rabbit, rabbitmq_url: str, topology: Topology
) -> None:
    other = Topology(f"{topology.namespace}-other")
    second = Rabbit(rabbitmq_url, other, "topology")
    await second.open()
    async with asyncio.timeout(PATIENCE_S):
        await second.wait_up()
    await rabbit.intake("w1").bind("m")
    await second.publisher.publish(a_job("theirs"), CREATED_AT)
    assert await rabbit.publisher.depth(topology.model_queue("m")) == 0
    assert await rabbit.publisher.depth(topology.fallback) == 0
    assert [letter.correlation_id for letter in await drain_queue(rabbitmq_url, other.fallback)] == ["theirs"]
    await second.close()


async def test_a_broker_with_another_topology_is_not_used_and_the_log_says_what_differs(
    rabbitmq_url: str, topology: Topology
) -> None:
    async with foreign_channel(rabbitmq_url) as channel:
        await channel.declare_queue(topology.fallback, durable=True)
    rabbit = Rabbit(rabbitmq_url, topology, "topology")
    with structlog.testing.capture_logs() as logs:
        await rabbit.open()
        async with asyncio.timeout(PATIENCE_S):
            while not logs:  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # The log is the only place where it shows.
        with pytest.raises(BrokerUnavailable):
            await rabbit.publisher.publish(a_job(), CREATED_AT)
        await rabbit.close()
    assert "PRECONDITION_FAILED" in str(logs[0]["error"])
    assert topology.fallback in str(logs[0]["error"])
