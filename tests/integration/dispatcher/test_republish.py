"""A queue of a real broker loses what it had confirmed: the jobs in it are published again."""

import aio_pika

from affinity.io.job_store import RedisJobStore
from affinity.io.rabbit import Rabbit
from affinity.io.redis_client import RedisLink
from affinity.job import JobSpec
from affinity.topology import Keys, Topology
from dispatcher.republish import APART_S, WAITED_S, Republisher
from tests.support.clock import FakeClock
from tests.support.rabbit_waits import up


async def test_the_jobs_of_a_queue_that_was_lost_are_delivered_all_the_same(
    rabbitmq_url: str, redis_url: str, namespace: str
) -> None:
    topology, link = Topology(namespace), RedisLink(redis_url)
    store, rabbit = RedisJobStore(link, Keys(namespace)), Rabbit(rabbitmq_url, topology, "republish")
    clock = FakeClock()
    await rabbit.open()
    await up(rabbit)
    try:
        intake = rabbit.intake("w1")
        await intake.bind("m")
        for n in range(3):
            spec = JobSpec(f"j{n}", "m", n)
            await store.create(spec, clock.now())
            await rabbit.publisher.publish(spec, clock.now())
            await store.published(spec.id)
        republisher = Republisher(store, rabbit.publisher, topology, clock)
        clock.advance(WAITED_S + 1)
        assert await republisher.sweep() == 0
        connection = await aio_pika.connect(rabbitmq_url)
        async with connection, connection.channel() as channel:
            await channel.queue_delete(topology.model_queue("m"))
        clock.advance(APART_S)
        assert await republisher.sweep() == 0, "its first look"
        clock.advance(APART_S)
        assert await republisher.sweep() == 3
        assert await rabbit.publisher.depth(topology.fallback) == 3
        clock.advance(APART_S)
        assert await republisher.sweep() == 0
    finally:
        await rabbit.close()
        await link.close()
