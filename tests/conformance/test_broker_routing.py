"""Where the broker's ports, fake and real, send a job, and who gets it."""

import pytest

from affinity.errors import InvariantBroken
from affinity.io.ports import Intake
from affinity.wire import decode_message
from tests.support.broker_samples import CREATED_AT, BrokerWorld, Inbox, a_job, id_in
from tests.support.broker_worlds import ids_taken

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
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b"}
    await world.publisher.park(a_job("j1"), CREATED_AT, trace=trace)
    await intake.bind("m")
    await world.publisher.publish(a_job("j2"), CREATED_AT, trace)
    parked, routed = await intake.take("m", 2)
    assert parked.trace == routed.trace == trace
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
