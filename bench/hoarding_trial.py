"""One trial of ``hoarding``: a producer and some workers on a real broker, in this process; execution is sleep.

As in the product, every worker has a connection of its own; the store is asked for hints and for a round trip's time.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from affinity.errors import AffinityError
from affinity.io.fleet_store import RedisFleetStore
from affinity.io.ports import Delivery
from affinity.io.rabbit import Rabbit
from affinity.io.redis_client import RedisLink
from affinity.job import JobSpec
from affinity.topology import Keys, Topology
from affinity.wire import decode_message
from bench.arrivals import ARRIVALS, lognormal
from bench.hoarding_cells import LOAD, SPREAD, Kind, Trial
from bench.hoarding_measures import Log, Ran
from bench.hoarding_ways import Desk, Queued, Supply, supply_of
from bench.round_trip import CannotMeasure

CONNECT_TIMEOUT_S = 20.0
PATIENCE, PATIENCE_S = 10.0, 30.0
"""A trial may take so many times what it should, and so much more, before it counts as stuck."""

SORTING_PREFETCH = 100


class Rig:
    """The connections all trials share: one for the producer, one for each worker, one to the store."""

    def __init__(self, amqp_url: str, redis_url: str, namespace: str, workers: int) -> None:
        self.namespace = namespace
        self.link = RedisLink(redis_url)
        topology = Topology(namespace)
        self._producer = Rabbit(amqp_url, topology, "hoarding producer")
        self._workers = [Rabbit(amqp_url, topology, f"hoarding worker {number}") for number in range(workers)]
        self.publisher = self._producer.publisher

    @asynccontextmanager
    async def opened(self, patience_s: float = CONNECT_TIMEOUT_S) -> AsyncIterator["Rig"]:
        """Connected, and jobs that the broker gives up delivering are sorted back, as the product's workers do it.

        Raises ``CannotMeasure``.
        """
        everything = [self._producer, *self._workers]
        try:
            for rabbit in everything:
                await rabbit.open()
            async with asyncio.timeout(patience_s):
                for rabbit in everything:
                    await rabbit.wait_up()
            await self._producer.intake("sorter").consume_fallback(SORTING_PREFETCH, self._sort)
            yield self
        except (TimeoutError, AffinityError) as error:
            raise CannotMeasure(f"RabbitMQ or Redis: {str(error) or 'no connection in time'}") from error
        finally:
            for rabbit in everything:
                await rabbit.close()
            await self.link.close()

    def desk(self, number: int, worker: str, models: tuple[str, ...], queued: Queued, log: Log) -> Desk:
        """The desk of a worker on the connection of that number."""
        return Desk(worker, models, self._workers[number].intake(worker), queued, log)

    async def _sort(self, delivery: Delivery) -> None:
        model = self._producer.topology.model_of(delivery.routing_key)
        spec, created_at = decode_message(delivery.body, model, delivery.message_id)
        await self.publisher.park(spec, created_at or 0.0)
        await delivery.ack()


class Stage:
    """A trial about to be run. ``name`` tells its queues from those of trials beside it."""

    def __init__(self, rig: Rig, trial: Trial, seed: int, name: str) -> None:
        self._rig = rig
        self._trial = trial
        self._rng = Random(seed)
        self._exec_s: dict[str, float] = {}
        self._log = Log()
        self._queued = Queued(rig.link)
        self._fleet = RedisFleetStore(rig.link, Keys(f"{rig.namespace}-{name}"))
        self._models = tuple(f"{name}-m{number}" for number in range(trial.cell.residents))
        self._names = [f"{name}-w{number}" for number in range(trial.cell.workers)]
        self._desks = [
            rig.desk(number, worker, self._models, self._queued, self._log) for number, worker in enumerate(self._names)
        ]
        self._supplies: list[Supply] = [
            supply_of(trial.way, trial.cell.exec_s, desk, self._fleet) for desk in self._desks
        ]
        self._ended = asyncio.Semaphore(0)

    async def prepare(self) -> None:
        """Declare and bind what is needed."""
        for desk in self._desks:
            await desk.open()

    async def measured(self) -> Log:
        """Run it. Raises ``CannotMeasure`` if its jobs do not come to an end."""
        for supply in self._supplies:
            await supply.open()
        working = [
            asyncio.create_task(self._work(*each))
            for each in zip(self._names, self._desks, self._supplies, strict=True)
        ]
        producing = asyncio.create_task(self._produce())
        done, _ = await asyncio.wait(
            {producing, *working}, timeout=self._patience_s(), return_when=asyncio.FIRST_COMPLETED
        )
        for task in done:
            task.result()
        if producing not in done:
            raise CannotMeasure(f"{self._trial} is stuck: {len(self._log.sent) - len(self._log.runs)} jobs never ran")
        for supply in self._supplies:
            supply.end()
        await asyncio.gather(*working)
        for supply, desk in zip(self._supplies, self._desks, strict=True):
            await supply.close()
            await desk.close()
        return self._log

    async def _work(self, worker: str, desk: Desk, supply: Supply) -> None:
        while held := await supply.next():
            began_at = desk.start(held)
            self._queued.remove(held.job, held.model)

            async def execute(job: str = held.job, began_at: float = began_at) -> None:
                await asyncio.sleep(self._exec_s[job])
                self._log.runs.append(Ran(job, worker, began_at, time.monotonic()))

            await supply.during(asyncio.create_task(execute()))
            desk.later(desk.ack(held))
            self._ended.release()

    async def _produce(self) -> None:
        """Steady arrivals, and once all of those have ended, a burst."""
        cell, effort = self._trial.cell, self._trial.effort
        steady, burst = effort.steady * cell.workers, effort.burst * cell.workers
        rate = LOAD * cell.workers / cell.exec_s
        begin_at = time.monotonic()
        sending = []
        for at in ARRIVALS["poisson"](rate, steady, self._rng):
            await asyncio.sleep(max(0.0, begin_at + at - time.monotonic()))
            sending.append(asyncio.create_task(self._send()))
        await asyncio.gather(*sending)
        await self._all_ended(steady)
        self._log.burst.update(str(steady + number) for number in range(burst))
        await asyncio.gather(*(self._send() for _ in range(burst)))
        await self._all_ended(burst)

    async def _all_ended(self, jobs: int) -> None:
        for _ in range(jobs):
            await self._ended.acquire()

    def _send(self) -> Coroutine[Any, Any, None]:
        """Create a job, at once; what is returned publishes it."""
        job, model = str(len(self._log.sent)), self._rng.choice(self._models)
        self._exec_s[job] = lognormal(self._trial.cell.exec_s, SPREAD, self._rng)
        self._log.sent[job] = time.monotonic()
        self._queued.add(job, model)
        return self._publish(JobSpec(job, model, input={}), time.time())

    async def _publish(self, spec: JobSpec, created_at: float) -> None:
        await self._rig.publisher.publish(spec, created_at)
        if self._trial.way.kind is Kind.GETTING:
            await self._fleet.wake()

    def _patience_s(self) -> float:
        cell, effort = self._trial.cell, self._trial.effort
        return PATIENCE_S + PATIENCE * cell.exec_s * (effort.steady / LOAD + effort.burst)


async def side_by_side(rig: Rig, trials: Sequence[tuple[Trial, int]], name: str) -> list[Log]:
    """Run trials, each with its seed, at the same time; their logs in order. Raises ``CannotMeasure``."""
    stages = [Stage(rig, trial, seed, f"{name}{number}") for number, (trial, seed) in enumerate(trials)]
    for stage in stages:  # Before the first one begins: declaring a queue keeps the broker busy for 20 ms.
        await stage.prepare()
    return await asyncio.gather(*(stage.measured() for stage in stages))
