"""Which deliveries say that they were in somebody's hands before, on the fake broker and the real one."""

from affinity.io.ports import Intake
from tests.support.broker_samples import CREATED_AT, BrokerWorld, Inbox, a_job


async def test_a_delivery_that_was_handed_back_says_so(world: BrokerWorld, intake: Intake) -> None:
    await intake.bind("m")
    await world.publisher.publish(a_job(), CREATED_AT)
    (first,) = await intake.take("m", 1)
    assert not first.redelivered
    await first.requeue()
    (again,) = await intake.take("m", 1)
    assert again.redelivered
    await again.requeue()
    inbox = Inbox()
    await intake.arm("m", 1, inbox)
    third = await inbox.next()
    assert third.redelivered
    await third.ack()


async def test_a_delivery_whose_holder_is_gone_says_so(world: BrokerWorld, intake: Intake) -> None:
    await intake.bind("m")
    await world.publisher.publish(a_job(), CREATED_AT)
    inbox = Inbox()
    await intake.arm("m", 1, inbox)
    assert not (await inbox.next()).redelivered
    await intake.close()
    successor = world.intake("w2")
    await successor.arm("m", 1, inbox)
    again = await inbox.next()
    assert again.redelivered
    await again.ack()


async def test_a_second_copy_is_no_redelivery(world: BrokerWorld, intake: Intake) -> None:
    await intake.bind("m")
    await world.publisher.publish(a_job(), CREATED_AT)
    await world.publisher.publish(a_job(), CREATED_AT)
    taken = await intake.take("m", 2)
    assert [delivery.redelivered for delivery in taken] == [False, False]
    for delivery in taken:
        await delivery.ack()
