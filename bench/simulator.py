"""The event loop: arrivals, ends of batches, ends of loads and the policy's wake-ups, in order of time.

It jumps from event to event and decides nothing: what to start and what to load is asked of a ``Scheduler`` after every
instant at which something happened, again and again until there is nothing more to do.
"""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from affinity.errors import InvariantBroken
from bench.scheduler import Bring, PolicyFault, Scheduler, Start
from bench.trace import TraceJob
from bench.world import World

Event = tuple[float, int, str, float]
"""When, in which order, on which node (empty: a wake-up) and, for a batch, when it started (negative: a load)."""

LOADED = -1.0

LEAST_STEPS = 1000
"""A policy may always do so much at one instant."""


@dataclass(frozen=True, slots=True)
class Run:
    """What happened. ``finished_at`` is by job number; ``cold`` counts jobs that were the first after a load."""

    jobs: Sequence[TraceJob]
    finished_at: Sequence[float]
    cold: int
    loads: int
    load_seconds: float
    makespan_s: float
    decisions_ns: Sequence[int] = field(repr=False)

    @property
    def latencies_s(self) -> list[float]:
        """From arrival to end, by job number."""
        return [end - job.arrival_s for end, job in zip(self.finished_at, self.jobs, strict=True)]


def simulate(
    world: World, scheduler: Scheduler, jobs: Sequence[TraceJob], progress: Callable[[int], None] | None = None
) -> Run:
    """Run all jobs. ``progress`` is told how many have ended, now and then. Raises ``PolicyFault``."""
    simulation = _Simulation(world, scheduler, jobs)
    simulation.run(progress or (lambda _: None))
    nodes = world.nodes.values()
    return Run(
        jobs,
        simulation.finished_at,
        simulation.cold,
        sum(node.loads for node in nodes),
        sum(node.load_seconds for node in nodes),
        max(simulation.finished_at) - jobs[0].arrival_s,
        scheduler.decisions_ns,
    )


class _Simulation:
    def __init__(self, world: World, scheduler: Scheduler, jobs: Sequence[TraceJob]) -> None:
        self.finished_at = array("d", [-1.0]) * len(jobs)
        self.cold = 0
        self._world = world
        self._scheduler = scheduler
        self._jobs = jobs
        self._events: list[Event] = []
        self._order = 0
        self._ended = 0
        self._instant, self._steps = -1.0, 0

    def run(self, progress: Callable[[int], None]) -> None:
        coming, told = 0, 0
        while self._ended < len(self._jobs):
            now = self._next_instant(coming)
            while coming < len(self._jobs) and self._jobs[coming].arrival_s <= now:
                self._scheduler.arrived(self._jobs[coming])
                coming += 1
            while self._events and self._events[0][0] <= now:
                self._happen(heappop(self._events))
            self._settle(now)
            if self._ended - told >= 1000:
                told = self._ended
                progress(told)
        progress(self._ended)

    def _next_instant(self, coming: int) -> float:
        wake_at = self._scheduler.wake_at
        instants = [self._events[0][0]] if self._events else []
        instants += [self._jobs[coming].arrival_s] if coming < len(self._jobs) else []
        instants += [wake_at] if wake_at is not None else []
        if not instants:
            left = len(self._jobs) - self._ended
            raise PolicyFault(f"{self._scheduler.name} leaves {left} jobs waiting, and nothing more will happen")
        return min(instants)

    def _happen(self, event: Event) -> None:
        at, _, name, started_at = event
        node = self._world.nodes[name]
        self._scheduler.changed(name)
        if started_at == LOADED:
            node.loaded(at)
            return
        jobs = node.ran(started_at, at)
        for job in jobs:
            if self.finished_at[job.number] >= 0:
                raise InvariantBroken(f"job {job.number} ended twice")
            self.finished_at[job.number] = at
        self._ended += len(jobs)
        self._scheduler.ran(jobs, at - started_at)

    def _settle(self, now: float) -> None:
        """Carry out what the scheduler says until it says nothing more."""
        acted = True
        while acted:
            acted = False
            for step in self._scheduler.steps(self._world, now):
                self._carry_out(step, now)
                self._count(now)
                acted = True
        wake_at = self._scheduler.wake_at
        if wake_at is not None and wake_at <= now:
            raise PolicyFault(
                f"{self._scheduler.name} wants to be asked again at {wake_at} s, which is not after {now} s"
            )

    def _count(self, now: float) -> None:
        """Stop a policy that swaps models in no time, for ever: each job needs a load and a start at most."""
        self._instant, self._steps = now, self._steps + 1 if now == self._instant else 1
        if self._steps > LEAST_STEPS + 4 * len(self._jobs):
            raise PolicyFault(f"{self._scheduler.name} goes round in circles at {now} s: {self._steps} steps")

    def _carry_out(self, step: Start | Bring, now: float) -> None:
        node = self._world.nodes[step.node]
        self._scheduler.changed(step.node)
        if isinstance(step, Start):
            ends_at, cold = node.start(step.jobs, now)
            self.cold += cold
            self._push(ends_at, step.node, now)
        else:
            self._push(node.load(step.model, step.victims, now), step.node, LOADED)

    def _push(self, at: float, node: str, started_at: float) -> None:
        self._order += 1
        heappush(self._events, (at, self._order, node, started_at))
