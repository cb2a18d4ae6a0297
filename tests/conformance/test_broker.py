"""The broker's ports, fake and real: what a test shows of one it shows of the other."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from aio_pika.connection import make_url

from affinity.errors import BrokerUnavailable, InvariantBroken
from affinity.io.ports import Intake
from affinity.io.rabbit import Rabbit
from affinity.topology import Topology
from affinity.wire import decode_message
from tests.support.broker_samples import (
    CREATED_AT,
    PATIENCE_S,
    BrokerWorld,
    Inbox,
    Letter,
    a_job,
    a_letter,
    drain_queue,
    id_in,
)
from tests.support.fake_broker import FakeBroker
from tests.support.tcp_proxy import TcpProxy

MakeWorld = Callable[..., Awaitable[BrokerWorld]]


def fake_world(topology: Topology, away: bool) -> BrokerWorld:
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


@pytest.fixture(params=["fake", "rabbitmq"])
async def make_world(request: pytest.FixtureRequest) -> AsyncIterator[MakeWorld]:
    """Makes a world; ``away`` has it begin with an outage."""
    url = "" if request.param == "fake" else str(request.getfixturevalue("rabbitmq_url"))
    namespace = "fake" if request.param == "fake" else str(request.getfixturevalue("namespace"))
    async with AsyncExitStack() as stack:

        async def make(model_ttl_s: float = 600.0, away: bool = False) -> BrokerWorld:
            topology = Topology(namespace, model_ttl_s=model_ttl_s)
            return await real_world(topology, away, url, stack) if url else fake_world(topology, away)

        yield make


@pytest.fixture
async def world(make_world: MakeWorld) -> BrokerWorld:
    return await make_world()


@pytest.fixture
def intake(world: BrokerWorld) -> Intake:
    return world.intake("w1")


async def ids_taken(intake: Intake, model: str = "m", most: int = 10) -> list[str]:
    """Take and settle."""
    taken = await intake.take(model, most)
    for delivery in taken:
        await delivery.ack()
    return [id_in(delivery) for delivery in taken]


# -- routing -----------------------------------------------------------------------------------------------------------


async def test_a_job_whose_model_nobody_holds_goes_to_fallback_under_its_models_name(
    world: BrokerWorld, intake: Intake
) -> None:
    inbox = Inbox()
    await intake.consume_fallback(10, inbox)
    await world.publisher.publish(a_job(model="org/model:1.5"), CREATED_AT)
    delivery = await inbox.next()
    assert delivery.routing_key == "org/model:1.5"
    assert (delivery.parked, delivery.dead_reason) == (False, None)
    assert decode_message(delivery.body, "?", None) == (a_job(model="org/model:1.5"), CREATED_AT)
    assert await world.publisher.depth(world.topology.model_queue("org/model:1.5")) is None
    await delivery.ack()


async def test_a_bound_model_gets_one_copy_however_many_workers_are_bound(world: BrokerWorld, intake: Intake) -> None:
    await intake.bind("m")
    await world.intake("w2").bind("m")
    await world.publisher.publish(a_job("j1"), CREATED_AT)
    await world.publisher.publish(a_job("j2"), CREATED_AT)
    assert await ids_taken(intake) == ["j1", "j2"]
    assert await world.publisher.depth(world.topology.fallback) == 0


async def test_another_models_binding_catches_nothing(world: BrokerWorld, intake: Intake) -> None:
    await intake.bind("m")
    await world.publisher.publish(a_job(model="m.large"), CREATED_AT)
    assert await world.publisher.depth(world.topology.fallback) == 1
    assert await ids_taken(intake) == []


async def test_one_workers_unbind_leaves_the_other_ones_binding(world: BrokerWorld, intake: Intake) -> None:
    second = world.intake("w2")
    await intake.bind("m")
    await second.bind("m")
    await intake.unbind("m")
    await world.publisher.publish(a_job("j1"), CREATED_AT)
    assert await ids_taken(second) == ["j1"]
    await second.unbind("m")
    await world.publisher.publish(a_job("j2"), CREATED_AT)
    assert await world.publisher.depth(world.topology.fallback) == 1


async def test_a_lost_workers_binding_can_be_removed_by_name(world: BrokerWorld, intake: Intake) -> None:
    await intake.bind("m")
    await world.publisher.unbind("m", "w1")
    await world.publisher.publish(a_job(), CREATED_AT)
    assert await world.publisher.depth(world.topology.fallback) == 1


async def test_bind_and_unbind_may_be_repeated(world: BrokerWorld, intake: Intake) -> None:
    await intake.unbind("m")
    await intake.bind("m")
    await intake.bind("m")
    await intake.unbind("m")
    await intake.unbind("m")
    await world.publisher.unbind("never-declared", "nobody")
    await world.publisher.publish(a_job(), CREATED_AT)
    assert await world.publisher.depth(world.topology.fallback) == 1


async def test_what_is_in_a_queue_stays_there_when_its_last_holder_unbinds(world: BrokerWorld, intake: Intake) -> None:
    await intake.bind("m")
    await world.publisher.publish(a_job(), CREATED_AT)
    await intake.unbind("m")
    assert await world.publisher.depth(world.topology.model_queue("m")) == 1


# -- parking -----------------------------------------------------------------------------------------------------------


async def test_a_parked_job_says_so_and_a_routed_one_does_not(world: BrokerWorld, intake: Intake) -> None:
    await world.publisher.park(a_job("j1"), CREATED_AT)
    await intake.bind("m")
    await world.publisher.publish(a_job("j2"), CREATED_AT)
    parked, routed = await intake.take("m", 2)
    assert (id_in(parked), parked.parked) == ("j1", True)
    assert (id_in(routed), routed.parked) == ("j2", False)
    assert world.topology.model_of(parked.routing_key) == world.topology.model_of(routed.routing_key) == "m"
    assert parked.message_id is not None
    assert parked.message_id != routed.message_id


async def test_two_publishes_of_one_job_are_two_messages_with_ids_of_their_own(
    world: BrokerWorld, intake: Intake
) -> None:
    await world.publisher.park(a_job(), CREATED_AT)
    await world.publisher.park(a_job(), CREATED_AT)
    first, second = await intake.take("m", 2)
    assert first.message_id != second.message_id


# -- taking and settling -----------------------------------------------------------------------------------------------


async def test_an_empty_queue_has_nothing_to_take(intake: Intake) -> None:
    await intake.bind("m")
    assert list(await intake.take("m", 5)) == []


async def test_jobs_are_taken_in_the_order_they_came_and_no_more_than_asked_for(
    world: BrokerWorld, intake: Intake
) -> None:
    await intake.bind("m")
    for number in range(5):
        await world.publisher.publish(a_job(f"j{number}"), CREATED_AT)
    assert await ids_taken(intake, most=2) == ["j0", "j1"]
    assert await ids_taken(intake, most=10) == ["j2", "j3", "j4"]


async def test_a_requeued_job_is_the_next_one_again(world: BrokerWorld, intake: Intake) -> None:
    await intake.bind("m")
    for number in range(3):
        await world.publisher.publish(a_job(f"j{number}"), CREATED_AT)
    (first,) = await intake.take("m", 1)
    await first.requeue()
    assert await ids_taken(intake) == ["j0", "j1", "j2"]


async def test_what_is_acked_is_gone(world: BrokerWorld, intake: Intake) -> None:
    await world.publisher.park(a_job(), CREATED_AT)
    assert await ids_taken(intake) == ["j1"]
    await intake.close()
    assert await ids_taken(world.intake("w2")) == []


@pytest.mark.parametrize("first", ["ack", "requeue"])
@pytest.mark.parametrize("second", ["ack", "requeue"])
async def test_settling_a_delivery_twice_is_a_bug_of_ours(
    world: BrokerWorld, intake: Intake, first: str, second: str
) -> None:
    await world.publisher.park(a_job(), CREATED_AT)
    (delivery,) = await intake.take("m", 1)
    await getattr(delivery, first)()
    with pytest.raises(InvariantBroken):
        await getattr(delivery, second)()


async def test_unsettled_deliveries_go_back_when_the_intake_closes(world: BrokerWorld, intake: Intake) -> None:
    inbox, heir = Inbox(), Inbox()
    await intake.bind("m")
    await intake.arm("m", 1, inbox)
    await world.publisher.publish(a_job("j1"), CREATED_AT)
    consumed = await inbox.next()
    await intake.disarm("m")
    await world.publisher.publish(a_job("j2"), CREATED_AT)
    (taken,) = await intake.take("m", 1)
    await intake.close()
    await world.intake("w2").arm("m", 10, heir)
    came = [await heir.next(), await heir.next()]
    assert sorted(id_in(delivery) for delivery in came) == ["j1", "j2"]
    # Too late, and no error: they have gone to somebody else by themselves.
    await consumed.ack()
    await taken.requeue()
    for delivery in came:
        await delivery.ack()
    assert await ids_taken(world.intake("w3")) == []


# -- consumers ---------------------------------------------------------------------------------------------------------


async def test_an_armed_queue_delivers_and_a_disarmed_one_does_not(world: BrokerWorld, intake: Intake) -> None:
    inbox = Inbox()
    await intake.bind("m")
    await world.publisher.publish(a_job("before"), CREATED_AT)
    await intake.arm("m", 5, inbox)
    await world.publisher.publish(a_job("while"), CREATED_AT)
    for wanted in ("before", "while"):
        delivery = await inbox.next()
        assert id_in(delivery) == wanted
        await delivery.ack()
    await intake.disarm("m")
    await world.publisher.publish(a_job("after"), CREATED_AT)
    assert await ids_taken(intake) == ["after"]
    assert inbox.empty


async def test_a_prefetch_of_one_holds_back_the_second_job(world: BrokerWorld, intake: Intake) -> None:
    inbox = Inbox()
    await intake.bind("m")
    await intake.arm("m", 1, inbox)
    await world.publisher.publish(a_job("j1"), CREATED_AT)
    await world.publisher.publish(a_job("j2"), CREATED_AT)
    first = await inbox.next()
    assert await world.publisher.depth(world.topology.model_queue("m")) == 1
    assert inbox.empty
    await first.ack()
    assert id_in(await inbox.next()) == "j2"


async def test_each_consumer_has_a_prefetch_of_its_own(world: BrokerWorld, intake: Intake) -> None:
    inboxes = {"m": Inbox(), "n": Inbox()}
    for model, inbox in inboxes.items():
        await intake.bind(model)
        await intake.arm(model, 1, inbox)
        await world.publisher.publish(a_job(f"{model}1", model), CREATED_AT)
        await world.publisher.publish(a_job(f"{model}2", model), CREATED_AT)
    assert [id_in(await inbox.next()) for inbox in inboxes.values()] == ["m1", "n1"]
    assert await world.publisher.depth(world.topology.model_queue("n")) == 1


async def test_an_idle_consumer_gets_what_another_hands_back(world: BrokerWorld, intake: Intake) -> None:
    inbox, other = Inbox(), Inbox()
    await intake.bind("m")
    await intake.arm("m", 1, inbox)
    await world.publisher.publish(a_job(), CREATED_AT)
    delivery = await inbox.next()
    await intake.disarm("m")
    await world.intake("w2").arm("m", 1, other)
    await delivery.requeue()
    assert id_in(await other.next()) == "j1"


async def test_a_disarmed_queue_may_be_armed_again(world: BrokerWorld, intake: Intake) -> None:
    await intake.bind("m")
    for number in range(3):
        inbox = Inbox()
        await intake.arm("m", 1, inbox)
        await world.publisher.publish(a_job(f"j{number}"), CREATED_AT)
        delivery = await inbox.next()
        assert id_in(delivery) == f"j{number}"
        await delivery.ack()
        await intake.disarm("m")
    await intake.disarm("m")


async def test_fallback_can_be_stopped_without_touching_the_models(world: BrokerWorld, intake: Intake) -> None:
    fallback, inbox = Inbox(), Inbox()
    await intake.bind("m")
    await intake.arm("m", 1, inbox)
    await intake.consume_fallback(1, fallback)
    await intake.stop_fallback()
    await world.publisher.publish(a_job("j1", "cold"), CREATED_AT)
    await world.publisher.publish(a_job("j2", "m"), CREATED_AT)
    assert id_in(await inbox.next()) == "j2"
    assert await world.publisher.depth(world.topology.fallback) == 1
    assert fallback.empty


# -- the end of the line -----------------------------------------------------------------------------------------------


async def test_a_dead_letter_keeps_its_body_and_says_why(world: BrokerWorld) -> None:
    await world.publisher.bury(a_letter(reason="r" * 3000))
    assert await world.drain(world.topology.dead) == [
        Letter(
            body=b"\xff\x00{",
            headers={
                "affinity-hops": "2",
                "affinity-code": "undecodable_message",
                "affinity-reason": "r" * 2000,
                "affinity-model": "m",
                "affinity-worker": "w1",
            },
            correlation_id="j1",
        )
    ]


async def test_a_job_nobody_took_in_time_comes_back_to_fallback_and_says_so(make_world: MakeWorld) -> None:
    world = await make_world(model_ttl_s=0.2)
    inbox, intake = Inbox(), world.intake("w1")
    await intake.bind("m")
    await world.publisher.publish(a_job("routed"), CREATED_AT)
    await world.publisher.park(a_job("parked"), CREATED_AT)
    await world.expire(world.topology.model_queue("m"))
    await intake.consume_fallback(10, inbox)
    came = {id_in(delivery): delivery for delivery in (await inbox.next(), await inbox.next())}
    assert set(came) == {"routed", "parked"}
    for delivery in came.values():
        assert delivery.dead_reason == "expired"
        assert world.topology.model_of(delivery.routing_key) == "m"
        await delivery.ack()
    assert await world.publisher.depth(world.topology.model_queue("m")) == 0


# -- questions and outages ---------------------------------------------------------------------------------------------


async def test_a_queue_that_does_not_exist_has_no_depth(world: BrokerWorld) -> None:
    await world.publisher.ping()
    assert await world.publisher.depth(world.topology.model_queue("m")) is None
    assert await world.publisher.depth(world.topology.fallback) == 0
    assert await world.publisher.depth(world.topology.dead) == 0


async def test_taking_from_a_queue_that_is_gone_does_not_take_the_consumers_along(
    world: BrokerWorld, intake: Intake
) -> None:
    inbox = Inbox()
    await intake.bind("m")
    await intake.arm("m", 1, inbox)
    with pytest.raises(BrokerUnavailable):
        await intake.take("never-declared", 1)
    await world.publisher.publish(a_job(), CREATED_AT)
    assert id_in(await inbox.next()) == "j1"
    assert await ids_taken(intake) == []


async def test_while_the_broker_is_away_every_call_says_so(make_world: MakeWorld) -> None:
    world = await make_world(away=True)
    publisher, intake = world.publisher, world.intake("w1")
    for call in (
        publisher.publish(a_job(), CREATED_AT),
        publisher.park(a_job(), CREATED_AT),
        publisher.bury(a_letter()),
        publisher.ping(),
        publisher.depth(world.topology.fallback),
        publisher.unbind("m", "w1"),
        intake.bind("m"),
        intake.unbind("m"),
        intake.arm("m", 1, Inbox()),
        intake.consume_fallback(1, Inbox()),
        intake.take("m", 1),
    ):
        with pytest.raises(BrokerUnavailable, match="not connected"):
            await call


async def test_wishes_made_during_an_outage_come_true_after_it(make_world: MakeWorld) -> None:
    world = await make_world(away=True)
    intake, inbox, fallback, unwanted = world.intake("w1"), Inbox(), Inbox(), Inbox()
    for wish in (
        intake.bind("m"),
        intake.arm("m", 1, inbox),
        intake.consume_fallback(1, fallback),
        intake.bind("unwanted"),
        intake.arm("unwanted", 1, unwanted),
        intake.unbind("unwanted"),
    ):
        with pytest.raises(BrokerUnavailable):
            await wish
    await intake.disarm("unwanted")
    await world.restore()
    # In this order: the bindings come before the consumers, and this one is there once fallback is consumed.
    await world.publisher.publish(a_job("j1", "unwanted"), CREATED_AT)
    delivery = await fallback.next()
    assert id_in(delivery) == "j1"
    await delivery.ack()
    await world.publisher.publish(a_job("j2", "m"), CREATED_AT)
    assert id_in(await inbox.next()) == "j2"
    assert unwanted.empty


async def test_a_lost_connection_hands_back_what_was_in_hand_and_comes_back_with_all_that_was_wished_for(
    world: BrokerWorld, intake: Intake
) -> None:
    inbox = Inbox()
    await intake.bind("m")
    await intake.arm("m", 1, inbox)
    await world.publisher.publish(a_job("j1"), CREATED_AT)
    lost = await inbox.next()
    await world.cut()
    again = await inbox.next()
    assert id_in(again) == "j1"
    # Too late, and no error: the server has taken it back by itself.
    await lost.ack()
    await again.ack()
    await world.publisher.publish(a_job("j2"), CREATED_AT)
    last = await inbox.next()
    assert id_in(last) == "j2"
    await last.ack()
    assert inbox.empty
