"""Consumers and what becomes of messages that nobody takes, on the fake broker and the real one."""

from affinity.io.ports import Intake
from tests.support.broker_samples import CREATED_AT, BrokerWorld, Inbox, Letter, a_job, a_letter, id_in
from tests.support.broker_worlds import MakeWorld, ids_taken

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
