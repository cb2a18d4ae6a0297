"""A real broker gives a message up after so many deliveries; a store that is away for longer than that loses none."""

import asyncio
from dataclasses import replace

import pytest

from affinity.io.rabbit import Rabbit
from affinity.job import JobState
from affinity.topology import Topology
from tests.support.executors import synthetic
from tests.support.rabbit_waits import up
from tests.support.worker_world import a_worker_world
from worker.batch import BatchRunner
from worker.sorting import Sorter

DELIVERIES = 6
AWAY_S = 10


@pytest.mark.timeout(60)
async def test_a_job_published_without_http_while_the_store_is_away_is_kept(rabbitmq_url: str, namespace: str) -> None:
    """Held for a second each time, it would be among the dead letters after seven."""
    topology, world = Topology(namespace, delivery_limit=DELIVERIES), a_worker_world(synthetic("m"))
    rabbit = Rabbit(rabbitmq_url, topology, "outage")
    await rabbit.open()
    try:
        await up(rabbit)
        intake = rabbit.intake("w1")
        services = replace(world.services, topology=topology, publisher=rabbit.publisher, intake=intake)
        runner = BatchRunner(services, world.tasks)
        world.stores.down = True
        await intake.consume_fallback(10, Sorter(services, runner, world.tasks).arrived)
        await rabbit.publisher.publish_raw(b'{"id": "f1", "input": 1}', "m", None)
        for _ in range(AWAY_S):
            await asyncio.sleep(1.0)
            world.clock.advance(1.0)
        assert await rabbit.publisher.depth(topology.dead) == 0
        world.stores.down = False
        runner.holding.store.back()  # As the worker's next look at the fleet says.
        async with asyncio.timeout(20):
            while not await rabbit.publisher.depth(topology.model_queue("m")):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert await world.state("f1") is JobState.QUEUED
    finally:
        await world.tasks.cancel()
        await rabbit.close()
