"""Questions about what is not there, and outages, on the fake broker and the real one."""

import pytest

from affinity.errors import BrokerUnavailable
from affinity.io.ports import Intake
from tests.support.broker_samples import CREATED_AT, BrokerWorld, Inbox, a_job, a_letter, id_in
from tests.support.broker_worlds import MakeWorld, ids_taken


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
