"""Jobs wait in one queue: they are bound to a worker late, or after a time-out."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from bench.baselines.bound import EarlyBound, lru_victims
from bench.scheduler import Bring, Start, Step
from bench.trace import TraceJob
from bench.world import Node, World


class WarmFifo:
    """One queue, oldest job first: to a free worker that holds its model, else to the one that was idle longest.

    Where the model must be loaded, the worker is the job's from the beginning of the load on.
    """

    name: ClassVar[str] = "fifo-warm-lru"
    wake_at: float | None = None

    def __init__(self, world: World, jobs: Sequence[TraceJob], seed: int) -> None:
        del jobs, seed
        self.decisions_ns: Sequence[int] = ()
        self._models = world.models
        self._queue: deque[TraceJob] = deque()
        self._reserved: dict[str, TraceJob] = {}
        self._used_at = dict.fromkeys(world.nodes, 0.0)

    def arrived(self, job: TraceJob) -> None:
        self._queue.append(job)

    def changed(self, node: str) -> None:
        del node

    def ran(self, jobs: Sequence[TraceJob], took_s: float) -> None:
        del jobs, took_s

    def steps(self, world: World, now: float) -> Iterable[Step]:
        for name, job in list(self._reserved.items()):
            if world.nodes[name].ready(job.model):
                del self._reserved[name]
                self._used_at[name] = now
                yield Start(name, [job, *self._same(job.model, self._models[job.model].max_batch - 1)])
        free = [node for node in world.nodes.values() if self._idle(node)]
        while free and self._queue:
            job = self._queue[0]
            node = min(free, key=lambda n: (not n.ready(job.model), self._used_at[n.name], n.name))
            free.remove(node)
            self._used_at[node.name] = now
            if node.ready(job.model):
                yield Start(node.name, self._same(job.model, self._models[job.model].max_batch))
            elif (victims := lru_victims(node, self._models[job.model])) is not None:
                self._reserved[node.name] = self._queue.popleft()
                yield Bring(node.name, job.model, victims)

    def _idle(self, node: Node) -> bool:
        return not (node.running or node.loading) and node.name not in self._reserved

    def _same(self, model: str, most: int) -> list[TraceJob]:
        """Take the oldest queued jobs of a model."""
        jobs: list[TraceJob] = []
        for job in self._queue:
            if len(jobs) == most:
                break
            if job.model == model:
                jobs.append(job)
        for job in jobs:
            self._queue.remove(job)
        return jobs


class TimeoutMultiplex(EarlyBound):
    """Each job waits up to a second and a half for a worker with its model that is not full.

    Then any worker that is not full takes it, the one with the fewest models first. Full is one job running or loading,
    and one behind it.
    """

    name = "timeout-multiplex"
    PATIENCE_S: ClassVar[float] = 1.5
    FULL: ClassVar[int] = 2

    def __init__(self, world: World, jobs: Sequence[TraceJob], seed: int) -> None:
        super().__init__(world, jobs, seed)
        self._pending: deque[TraceJob] = deque()

    def arrived(self, job: TraceJob) -> None:
        self._pending.append(job)

    def steps(self, world: World, now: float) -> Iterator[Step]:
        self._route(now)
        yield from super().steps(world, now)

    def bind(self, job: TraceJob, now: float) -> str:
        """The worker that takes it now. Call it only while ``_routable``."""
        del now
        room = [name for name in self.workers if self.outstanding[name] < self.FULL]
        holding = [name for name in room if self._has(name, job.model)]
        return min(
            holding or room, key=lambda name: (len(self.world.nodes[name].residents), self.outstanding[name], name)
        )

    def _routable(self, job: TraceJob, now: float) -> bool:
        """True if some worker takes it now: one that holds its model, or any once it is tired of waiting."""
        holding = any(self.outstanding[name] < self.FULL and self._has(name, job.model) for name in self.workers)
        return holding or now >= job.arrival_s + self.PATIENCE_S or not self._held_somewhere(job.model)

    def _has(self, worker: str, model: str) -> bool:
        queued = any(job.model == model for job in self.queues[worker])
        return queued or model in self.world.nodes[worker].residents

    def _held_somewhere(self, model: str) -> bool:
        return any(self._has(name, model) for name in self.workers)

    def _route(self, now: float) -> None:
        """Give jobs to workers, oldest first, until all are full."""
        waiting: deque[TraceJob] = deque()
        while self._pending and min(self.outstanding.values()) < self.FULL:
            job = self._pending.popleft()
            if self._routable(job, now):
                self.give(job, self.bind(job, now))
            else:
                waiting.append(job)
        self._pending.extendleft(reversed(waiting))
        patient = (job.arrival_s + self.PATIENCE_S for job in self._pending)
        self.wake_at = min((at for at in patient if at > now), default=None)
