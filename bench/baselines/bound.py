"""Routers that bind a job to a worker when it arrives.

Each worker then works its own queue in order, loads what it does not hold, and evicts what it used least recently.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from random import Random
from typing import ClassVar

from bench.models_file import BenchModel
from bench.scheduler import Bring, Start, Step
from bench.trace import TraceJob
from bench.world import Node, World


def lru_victims(node: Node, model: BenchModel, kept: frozenset[str] = frozenset()) -> list[str] | None:
    """The least recently used residents whose room suffices for ``model``; ``None`` if there are not enough.

    What runs, loads, is pinned or ``kept`` stays.
    """
    missing = model.vram_bytes - node.free_bytes
    victims: list[str] = []
    for resident in sorted(node.residents.values(), key=lambda r: (r.last_used_at, r.model)):
        if missing <= 0:
            break
        if not (resident.running or resident.pinned or resident.model in kept or resident.model == node.loading):
            victims.append(resident.model)
            missing -= resident.footprint_bytes
    return victims if missing <= 0 else None


def take_batch(queue: deque[TraceJob], most: int) -> list[TraceJob]:
    """The head of a queue, and those right behind it that are of the same model."""
    jobs = [queue.popleft()]
    while queue and len(jobs) < most and queue[0].model == jobs[0].model:
        jobs.append(queue.popleft())
    return jobs


class EarlyBound(ABC):
    """A queue per worker. ``work_s`` is what each still has to run, by the jobs' true execution times."""

    name: ClassVar[str]
    wake_at: float | None = None

    def __init__(self, world: World, jobs: Sequence[TraceJob], seed: int) -> None:
        """``jobs`` is the whole trace: only a baseline that is said to know it beforehand may look."""
        del jobs
        self.world = world
        self.models = world.models
        self.workers = list(world.nodes)
        self.queues: dict[str, deque[TraceJob]] = {name: deque() for name in self.workers}
        self.work_s = dict.fromkeys(self.workers, 0.0)
        self.outstanding = dict.fromkeys(self.workers, 0)
        self.rng = Random(seed)
        self.decisions_ns: Sequence[int] = ()
        self._where: dict[int, str] = {}
        self._touched: dict[str, None] = {}

    @abstractmethod
    def bind(self, job: TraceJob, now: float) -> str:
        """The worker that shall run it."""

    def arrived(self, job: TraceJob) -> None:
        self.give(job, self.bind(job, job.arrival_s))

    def give(self, job: TraceJob, worker: str) -> None:
        """Put a job into a worker's queue."""
        self.queues[worker].append(job)
        self.work_s[worker] += job.exec_s
        self.outstanding[worker] += 1
        self._where[job.number] = worker
        self._touched[worker] = None

    def changed(self, node: str) -> None:
        self._touched[node] = None

    def ran(self, jobs: Sequence[TraceJob], took_s: float) -> None:
        del took_s
        for job in jobs:
            worker = self._where.pop(job.number)
            self.work_s[worker] -= job.exec_s
            self.outstanding[worker] -= 1

    def kept(self, worker: str) -> frozenset[str]:
        """Models that are never evicted there."""
        del worker
        return frozenset()

    def steps(self, world: World, now: float) -> Iterable[Step]:
        del now
        touched, self._touched = self._touched, {}
        for name in touched:
            node, queue = world.nodes[name], self.queues[name]
            if not queue or node.running or node.loading:
                continue
            model = self.models[queue[0].model]
            if node.ready(model.name):
                yield Start(name, take_batch(queue, model.max_batch))
            elif (victims := lru_victims(node, model, self.kept(name))) is not None:
                yield Bring(name, model.name, victims)


class RoundRobin(EarlyBound):
    """Each job to the next worker in turn."""

    name = "round-robin-lru"

    def bind(self, job: TraceJob, now: float) -> str:
        del now
        return self.workers[job.number % len(self.workers)]


class RandomChoice(EarlyBound):
    """Each job to any worker."""

    name = "random-lru"

    def bind(self, job: TraceJob, now: float) -> str:
        del job, now
        return self.rng.choice(self.workers)


class LeastWork(EarlyBound):
    """Each job to the worker with the least left to run; loads do not count."""

    name = "least-work-lru"

    def bind(self, job: TraceJob, now: float) -> str:
        del job

        def left_s(name: str) -> float:
            node = self.world.nodes[name]
            longest_s = max((running.exec_s for running in node.running), default=0.0)
            return self.work_s[name] - (longest_s - (node.run_until - now) if node.running else 0.0)

        return min(self.workers, key=lambda name: (round(left_s(name), 9), self.outstanding[name], name))
