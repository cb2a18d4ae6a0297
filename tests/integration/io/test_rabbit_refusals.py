"""RabbitMQ refuses; and what its client raises becomes in our terms."""

import asyncio
import inspect

import aio_pika
import aiormq
import pytest
from pamqp.commands import Basic
from pamqp.exceptions import PAMQPException

from affinity.errors import BrokerUnavailable, InvariantBroken
from affinity.io.rabbit import Rabbit
from affinity.topology import Topology
from tests.support.broker_samples import CREATED_AT, a_job, a_letter, delete_queue, foreign_channel
from tests.support.rabbit_waits import publish_at_last
from tests.support.tcp_proxy import TcpProxy

# -- refused -----------------------------------------------------------------------------------------------------------


async def test_parking_into_a_queue_that_was_deleted_meanwhile_says_so_and_then_works_again(
    rabbit: Rabbit, rabbitmq_url: str, topology: Topology
) -> None:
    await rabbit.publisher.park(a_job("j1"), CREATED_AT)
    await delete_queue(rabbitmq_url, topology.model_queue("m"))
    with pytest.raises(BrokerUnavailable, match=rabbit.address):
        await rabbit.publisher.park(a_job("j2"), CREATED_AT)
    await rabbit.publisher.park(a_job("j2"), CREATED_AT)
    assert await rabbit.publisher.depth(topology.model_queue("m")) == 1


async def test_a_job_the_broker_can_route_nowhere_is_not_taken_for_published(
    rabbit: Rabbit, rabbitmq_url: str, topology: Topology
) -> None:
    async with foreign_channel(rabbitmq_url) as channel:
        await channel.exchange_delete(topology.fallback)
    with pytest.raises(BrokerUnavailable, match=rabbit.address):
        await rabbit.publisher.publish(a_job(), CREATED_AT)
    intake = rabbit.intake("w1")
    await intake.bind("m")
    await rabbit.publisher.publish(a_job(), CREATED_AT)
    assert len(await intake.take("m", 5)) == 1


async def test_an_exchange_that_is_gone_closes_only_the_channel(
    rabbit: Rabbit, proxy: TcpProxy, rabbitmq_url: str, topology: Topology
) -> None:
    async with foreign_channel(rabbitmq_url) as channel:
        await channel.exchange_delete(topology.jobs_exchange)
    for _ in range(2):
        with pytest.raises(BrokerUnavailable, match="NOT_FOUND"):
            await rabbit.publisher.publish(a_job(), CREATED_AT)
    await rabbit.publisher.bury(a_letter())
    assert proxy.connections == 2
    # The next connection declares it again.
    await proxy.drop()
    await publish_at_last(rabbit, "j2")


@pytest.mark.parametrize("letter", [a_letter(reason="unknown fields: \ud800"), a_letter(model="\ud800")])
async def test_a_letter_can_be_buried_whatever_its_reason_says(
    rabbit: Rabbit, topology: Topology, letter: object
) -> None:
    await rabbit.publisher.bury(letter)  # type: ignore[arg-type]
    assert await rabbit.publisher.depth(topology.dead) == 1


# -- translation -------------------------------------------------------------------------------------------------------


FOREIGN = sorted(
    {
        kind
        for module in (aio_pika.exceptions, aiormq.exceptions)
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, BaseException)
    },
    key=lambda kind: kind.__name__,
)


def made(kind: type[BaseException]) -> BaseException:
    """An instance, where possible without going through a constructor that wants a frame or a reply."""
    error = kind.__new__(kind)
    if isinstance(error, aiormq.exceptions.DeliveryError):
        error.message, error.frame = None, Basic.Nack()
    return error


def test_the_table_has_all_there_is_to_translate() -> None:
    names = {kind.__name__ for kind in FOREIGN}
    assert len(names) > 25
    assert {"ChannelClosed", "DeliveryError", "PublishError", "ConnectionClosed", "ChannelInvalidStateError"} <= names


@pytest.mark.parametrize(
    "kind", [*FOREIGN, TimeoutError, OSError, ConnectionResetError, ConnectionRefusedError, PAMQPException]
)
def test_an_exception_of_the_client_becomes_ours(kind: type[BaseException], topology: Topology) -> None:
    rabbit = Rabbit("amqp://user:secret@broker:5673/", topology, "faults")
    said = r"RabbitMQ \(broker:5673\) failed while asking"
    with pytest.raises(BrokerUnavailable, match=said) as caught, rabbit.translated("asking"):
        raise made(kind)
    assert isinstance(caught.value.__cause__, kind)
    assert "secret" not in caught.value.message


@pytest.mark.parametrize("kind", [InvariantBroken, ValueError, KeyError, asyncio.CancelledError])
def test_a_bug_or_a_cancellation_is_nobodys_outage(kind: type[BaseException], topology: Topology) -> None:
    rabbit = Rabbit("amqp://broker/", topology, "faults")
    with pytest.raises(kind), rabbit.translated("asking"):
        raise kind("ours")


@pytest.mark.parametrize(("url", "port"), [("amqp://broker/vhost", 5672), ("amqps://broker/", 5671)])
def test_a_url_without_a_port_has_the_protocols_own(url: str, port: int, topology: Topology) -> None:
    assert Rabbit(url, topology, "faults").address == f"broker:{port}"
