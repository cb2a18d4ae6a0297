"""RabbitMQ out of reach, cut off or silent: what the broker's ports say, and how soon."""

import asyncio
import time

import pytest
import structlog
from aio_pika.connection import make_url

from affinity.errors import BrokerUnavailable
from affinity.io.rabbit import CONNECT_TIMEOUT_S, Rabbit
from affinity.io.rabbit_publisher import PUBLISH_TIMEOUT_S
from affinity.topology import Topology
from deploy.local.ports import free_ports
from tests.support.broker_samples import CREATED_AT, Inbox, a_job, a_letter, drain_queue
from tests.support.rabbit_waits import HEARTBEAT_S, consumed_by, first_failure_in, publish_at_last, up
from tests.support.tcp_proxy import TcpProxy

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


async def test_an_unbind_that_could_not_be_carried_out_is_done_once_the_broker_is_back(
    rabbit: Rabbit, proxy: TcpProxy
) -> None:
    intake = rabbit.intake("w1")
    await intake.bind("m")
    await intake.bind("n")
    proxy.cut = 10**6
    await proxy.drop()
    for model in ("m", "n"):
        with pytest.raises(BrokerUnavailable):
            await intake.unbind(model)
    with pytest.raises(BrokerUnavailable):
        await intake.bind("n")
    assert intake.owed == {"m"}
    proxy.cut = 0
    async with asyncio.timeout(30):
        while intake.owed:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.05)
    await publish_at_last(rabbit, "j1")
    await rabbit.publisher.publish(a_job("j2", "n"), CREATED_AT)
    names = rabbit.topology
    assert await rabbit.publisher.depth(names.model_queue("m")) == 0, "the binding has outlived its worker's wish"
    assert await rabbit.publisher.depth(names.model_queue("n")) == 1


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
