"""A job that is to come again later: the broker keeps it meanwhile, and nobody gets it before."""

import asyncio
from contextlib import suppress
from dataclasses import replace

import pytest

from affinity.errors import BrokerUnavailable
from affinity.io.ports import Buried, DeadLetter, Delivery, Intake
from affinity.wire import decode_message
from tests.support.broker_samples import CREATED_AT, PATIENCE_S, BrokerWorld, Inbox, a_job, a_letter, id_in
from tests.support.broker_worlds import MakeWorld

WAIT_S = 1.0


async def comes_back(world: BrokerWorld, inbox: Inbox) -> Delivery:
    await world.expire(world.topology.retry(WAIT_S))
    return await inbox.next()


async def test_a_delayed_job_comes_to_whoever_holds_its_model_after_its_wait(
    world: BrokerWorld, intake: Intake
) -> None:
    inbox = Inbox()
    await intake.bind("org/model:1.5")
    await intake.arm("org/model:1.5", 1, inbox)
    job = a_job(model="org/model:1.5")
    trace = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "affinity-queued-at": "1.5"}
    await world.publisher.delay(job, CREATED_AT, WAIT_S, alone=False, trace=trace)
    assert await world.publisher.depth(world.topology.retry(WAIT_S)) == 1
    assert inbox.empty
    delivery = await comes_back(world, inbox)
    assert decode_message(delivery.body, "?", None) == (job, CREATED_AT)
    assert (delivery.routing_key, delivery.parked, delivery.alone) == ("org/model:1.5", False, False)
    assert delivery.redelivered, "it was in somebody's hands before"
    assert delivery.trace == trace
    await delivery.ack()


async def test_where_nobody_holds_its_model_by_then_it_goes_to_fallback(world: BrokerWorld, intake: Intake) -> None:
    inbox = Inbox()
    await intake.consume_fallback(10, inbox)
    await world.publisher.delay(a_job(), CREATED_AT, WAIT_S, alone=True)
    delivery = await comes_back(world, inbox)
    assert (id_in(delivery), delivery.routing_key, delivery.alone) == ("j1", "m", True)
    await delivery.ack()


async def test_others_pass_while_it_waits_and_it_may_wait_again(world: BrokerWorld, intake: Intake) -> None:
    inbox = Inbox()
    await intake.bind("m")
    await intake.arm("m", 1, inbox)
    await world.publisher.delay(a_job("waits"), CREATED_AT, WAIT_S, alone=False)
    await world.publisher.publish(a_job("passes"), CREATED_AT)
    delivery = await inbox.next()
    assert id_in(delivery) == "passes"
    await delivery.ack()
    for _ in range(2):
        delivery = await comes_back(world, inbox)
        assert id_in(delivery) == "waits"
        await world.publisher.delay(a_job("waits"), CREATED_AT, WAIT_S, alone=False)
        await delivery.ack()
    assert id_in(await comes_back(world, inbox)) == "waits"


async def test_a_parked_job_that_is_to_run_alone_says_so_however_often_it_comes(
    world: BrokerWorld, intake: Intake
) -> None:
    await world.publisher.park(a_job("j1"), CREATED_AT, alone=True)
    await world.publisher.park(a_job("j2"), CREATED_AT)
    first, second = await intake.take("m", 2)
    assert (first.alone, second.alone) == (True, False)
    await second.requeue()
    await first.requeue()
    again = {id_in(delivery): delivery.alone for delivery in await intake.take("m", 2)}
    assert again == {"j1": True, "j2": False}


async def test_a_raw_body_is_routed_as_a_foreign_clients(world: BrokerWorld, intake: Intake) -> None:
    await intake.bind("m")
    await world.publisher.publish_raw(b'{"input": 1}', "m", "their-id")
    await world.publisher.publish_raw(b"\xff", "m", None)
    first, second = await intake.take("m", 2)
    assert (first.body, first.routing_key, first.message_id) == (b'{"input": 1}', "m", "their-id")
    assert second.message_id, "the client library matches a return to its publish by it"


async def test_dead_letters_are_taken_in_order_and_one_that_is_not_settled_comes_again(world: BrokerWorld) -> None:
    for name in ("j1", "j2", "j3"):
        await world.publisher.bury(named(name))
    first, second = await world.publisher.take_dead(2)
    assert [one.correlation_id for one in (first, second)] == ["j1", "j2"]
    assert first.body == b"\xff\x00{"
    assert (first.headers["affinity-code"], first.headers["affinity-worker"]) == ("undecodable_message", "w1")
    await first.ack()
    assert [one.correlation_id for one in await world.publisher.take_dead(5)] == ["j3"]
    await world.cut()
    left: list[Buried] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(left) < 2:
            with suppress(BrokerUnavailable):
                left += await world.publisher.take_dead(5)
            await asyncio.sleep(0)
    assert sorted(str(one.correlation_id) for one in left) == ["j2", "j3"]
    for one in (second, *left):
        await one.ack()
    assert await world.publisher.take_dead(5) == []


def named(name: str) -> DeadLetter:
    return replace(a_letter(), message_id=name)


async def test_a_broker_that_is_away_takes_nothing_and_says_so(make_world: MakeWorld) -> None:
    world = await make_world(away=True)
    for call in (
        world.publisher.delay(a_job(), CREATED_AT, WAIT_S, alone=False),
        world.publisher.publish_raw(b"{}", "m", None),
        world.publisher.take_dead(1),
    ):
        with pytest.raises(BrokerUnavailable):
            async with asyncio.timeout(PATIENCE_S):
                await call
