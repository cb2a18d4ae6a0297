"""RabbitMQ out of reach, cut off, silent, or refusing: what the broker's ports say, how soon, and what comes back."""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import aio_pika
import aiormq
import pytest
import structlog
from aio_pika.connection import make_url
from pamqp.commands import Basic
from pamqp.exceptions import PAMQPException

from affinity.errors import BrokerUnavailable, InvariantBroken
from affinity.io.rabbit import CONNECT_TIMEOUT_S, Rabbit
from affinity.io.rabbit_publisher import PUBLISH_TIMEOUT_S
from affinity.topology import Topology
from deploy.local.ports import free_ports
from tests.support.broker_samples import (
    CREATED_AT,
    PATIENCE_S,
    Inbox,
    a_job,
    a_letter,
    consumers_of,
    delete_queue,
    drain_queue,
    foreign_channel,
    id_in,
)
from tests.support.tcp_proxy import TcpProxy

HEARTBEAT_S = 1
"""Short, so that a silent connection is noticed while a test watches."""


@pytest.fixture
async def proxy(rabbitmq_url: str) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(make_url(rabbitmq_url).port or 5672) as started:
        yield started


@pytest.fixture
def topology(namespace: str) -> Topology:
    return Topology(namespace)


@pytest.fixture
async def rabbit(rabbitmq_url: str, proxy: TcpProxy, topology: Topology) -> AsyncIterator[Rabbit]:
    """Connected through the proxy."""
    url = make_url(rabbitmq_url).with_port(proxy.port).update_query(heartbeat=HEARTBEAT_S)
    opened = Rabbit(str(url), topology, "faults")
    await opened.open()
    await up(opened)
    yield opened
    await opened.close()


async def up(rabbit: Rabbit) -> None:
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


# -- away from the start -----------------------------------------------------------------------------------------------


async def test_an_unreachable_broker_is_named_by_every_call_and_never_its_password(topology: Topology) -> None:
    (port,) = free_ports(1)
    rabbit = Rabbit(f"amqp://user:secret@127.0.0.1:{port}/", topology, "faults")
    began = time.monotonic()
    with structlog.testing.capture_logs() as logs:
        await rabbit.open()
        for call in (lambda: rabbit.publisher.publish(a_job(), CREATED_AT), rabbit.publisher.ping):
            with pytest.raises(BrokerUnavailable) as caught:
                await call()
            assert f"127.0.0.1:{port}" in caught.value.message
            assert "secret" not in caught.value.message
            assert caught.value.retry_after_s > 0
        await first_failure_in(logs)
        await rabbit.close()
    assert time.monotonic() - began < 2
    assert "secret" not in str(logs)


async def test_a_refused_password_does_not_show_up_anywhere(rabbitmq_url: str, topology: Topology) -> None:
    url = make_url(rabbitmq_url).with_user("nobody").with_password("secret")
    rabbit = Rabbit(str(url), topology, "faults")
    with structlog.testing.capture_logs() as logs:
        await rabbit.open()
        await first_failure_in(logs)
        with pytest.raises(BrokerUnavailable, match=rabbit.address):
            await rabbit.publisher.ping()
        await rabbit.close()
    assert "secret" not in str(logs)


async def test_a_broker_that_comes_late_is_found(rabbitmq_url: str, topology: Topology) -> None:
    (port,) = free_ports(1)
    rabbit = Rabbit(str(make_url(rabbitmq_url).with_port(port)), topology, "faults")
    await rabbit.open()
    with pytest.raises(BrokerUnavailable):
        await rabbit.publisher.publish(a_job(), CREATED_AT)
    late = TcpProxy(make_url(rabbitmq_url).port or 5672)
    late.port = port
    async with late:
        await up(rabbit)
        await rabbit.publisher.publish(a_job(), CREATED_AT)
        await rabbit.close()


# -- cut off -----------------------------------------------------------------------------------------------------------


async def test_a_publish_in_flight_when_the_connection_breaks_says_so_at_once(rabbit: Rabbit, proxy: TcpProxy) -> None:
    await rabbit.publisher.publish(a_job("j0"), CREATED_AT)
    proxy.swallow = True
    flying = [asyncio.ensure_future(rabbit.publisher.publish(a_job(f"j{n}"), CREATED_AT)) for n in range(1, 20)]
    await asyncio.sleep(0.1)  # Under way: nothing shows when the last of them has been written.
    began = time.monotonic()
    await proxy.drop()
    results = await asyncio.gather(*flying, return_exceptions=True)
    assert time.monotonic() - began < 2
    assert [type(result) for result in results] == [BrokerUnavailable] * 19
    proxy.swallow = False
    await publish_at_last(rabbit, "j20")


async def test_an_answer_that_is_lost_leaves_the_outcome_open_and_the_retry_is_harmless(
    rabbit: Rabbit, proxy: TcpProxy, rabbitmq_url: str, topology: Topology
) -> None:
    await rabbit.publisher.publish(a_job("j0"), CREATED_AT)
    proxy.deafen = 1
    with pytest.raises(BrokerUnavailable):
        await rabbit.publisher.publish(a_job("j1"), CREATED_AT)
    await publish_at_last(rabbit, "j1")
    sent = [letter.correlation_id for letter in await drain_queue(rabbitmq_url, topology.fallback)]
    assert sent == ["j0", "j1", "j1"]


async def test_every_call_to_a_silent_broker_ends_in_time(
    rabbit: Rabbit, proxy: TcpProxy, rabbitmq_url: str, topology: Topology
) -> None:
    intake = rabbit.intake("w1")
    await intake.bind("m")
    await intake.take("m", 1)
    proxy.swallow = True
    began = time.monotonic()
    calls = (
        rabbit.publisher.publish(a_job(), CREATED_AT),
        rabbit.publisher.park(a_job(model="n"), CREATED_AT),
        rabbit.publisher.bury(a_letter()),
        rabbit.publisher.ping(),
        rabbit.publisher.depth(topology.dead),
        rabbit.publisher.unbind("m", "w2"),
        intake.bind("n"),
        intake.take("m", 1),
        intake.arm("m", 1, Inbox()),
    )
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert time.monotonic() - began < PUBLISH_TIMEOUT_S + 5
    assert [type(result) for result in results] == [BrokerUnavailable] * len(calls)
    proxy.swallow = False
    await proxy.drop()
    await publish_at_last(rabbit, "j2")
    await consumed_by(rabbitmq_url, topology.model_queue("m"), 1)


async def test_closing_does_not_wait_for_a_silent_broker(
    rabbitmq_url: str, proxy: TcpProxy, topology: Topology
) -> None:
    rabbit = Rabbit(str(make_url(rabbitmq_url).with_port(proxy.port)), topology, "faults")
    await rabbit.open()
    await up(rabbit)
    intake = rabbit.intake("w1")
    await intake.consume_fallback(1, Inbox())
    proxy.swallow = True
    began = time.monotonic()
    await rabbit.close()
    assert time.monotonic() - began < CONNECT_TIMEOUT_S + 2


async def test_closing_in_the_middle_of_a_reconnect_comes_to_an_end(rabbitmq_url: str, topology: Topology) -> None:
    hung = 0
    for steps in range(0, 120, 3):
        rabbit = Rabbit(rabbitmq_url, topology, "faults")
        intake = rabbit.intake("w1")
        for model in ("m", "n"):
            with pytest.raises(BrokerUnavailable):
                await intake.bind(model)
        await rabbit.open()
        await up(rabbit)
        for _ in range(steps):
            await asyncio.sleep(0)
        closing = asyncio.ensure_future(rabbit.close())
        if not (await asyncio.wait([closing], timeout=2))[0]:
            hung += 1
            assert rabbit._task is not None
            rabbit._task.cancel()
            await closing
        if hung:
            break
    assert not hung


async def test_an_intake_closes_in_time_also_towards_a_silent_broker(rabbit: Rabbit, proxy: TcpProxy) -> None:
    intake = rabbit.intake("w1")
    await intake.consume_fallback(1, Inbox())
    await intake.bind("m")
    await intake.take("m", 1)
    proxy.swallow = True
    began = time.monotonic()
    await intake.close()
    assert time.monotonic() - began < 5 * HEARTBEAT_S


# -- coming back -------------------------------------------------------------------------------------------------------


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
    assert proxy.connections == 4
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
    assert proxy.connections == 1


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
    assert proxy.connections == 1
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
