"""Small instances for the simulator's tests."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from affinity.fleet import GIB, Demand, FleetView, ModelFacts, WorkerReport
from affinity.policy import Plan
from affinity.policy.tuning import Tuning
from bench.baselines import scheduler
from bench.models_file import BenchModel
from bench.scheduler import Scheduler, Step
from bench.simulator import Run, simulate
from bench.trace import TraceJob, of_arrivals
from bench.world import FleetShape, LoadMode, World


def a_model(
    name: str, gib: float = 10.0, load_s: float = 2.0, max_batch: int = 1, reload_s: float | None = None
) -> BenchModel:
    """A model that takes 10 GiB and two seconds to load, unless said otherwise."""
    return BenchModel(name, round(gib * GIB), load_s, reload_s, max_batch=max_batch)


def a_world(
    models: Iterable[BenchModel],
    workers: int = 1,
    gib: float = 24.0,
    load: LoadMode = LoadMode.BLOCKING,
    cache_gib: float = 0.0,
) -> World:
    """GPUs of 24 GiB, all empty."""
    return World(FleetShape(workers, round(gib * GIB), load, round(cache_gib * GIB)), {m.name: m for m in models})


def jobs_of(*arrivals: tuple[float, str, float]) -> list[TraceJob]:
    """Jobs from ``(arrival_s, model, exec_s)``."""
    return list(of_arrivals(arrivals))


def run(policy: str, world: World, jobs: Sequence[TraceJob], seed: int = 0) -> Run:
    """The run of a policy by name."""
    return simulate(world, scheduler(policy, world, jobs, seed), jobs)


class Deciding:
    """Stands in for the planner of the policy: asks a function about the whole fleet, whatever has changed.

    The function is called as ``affinity.policy.plan`` is.
    """

    def __init__(self, decide: Callable[..., Plan], facts: Mapping[str, ModelFacts], tuning: Tuning) -> None:
        self._decide = decide
        self._facts = facts
        self._tuning = tuning
        self._reports: dict[str, WorkerReport] = {}
        self._demand: dict[str, Demand] = {}

    @classmethod
    def by(cls, decide: Callable[..., Plan]) -> "Callable[[Mapping[str, ModelFacts], Tuning], Deciding]":
        """What makes one, for ``Planned``."""
        return lambda facts, tuning: cls(decide, facts, tuning)

    def report(self, report: WorkerReport) -> None:
        self._reports[report.worker] = report

    def ask(self, demand: Demand) -> None:
        self._demand[demand.model] = demand

    def drop(self, model: str) -> None:
        self._demand.pop(model, None)

    def plan(self, now: float) -> Plan:
        fleet = FleetView.of(self._reports.values())
        return self._decide(fleet, tuple(self._demand.values()), self._facts, now, tuning=self._tuning)


class Watched:
    """A scheduler that is watched: after every change, no GPU may hold more than it has, nor load where it must not."""

    wake_at: float | None = None

    def __init__(self, inner: Scheduler, world: World) -> None:
        self.name = inner.name
        self.decisions_ns = inner.decisions_ns
        self.looks = 0
        self._inner = inner
        self._world = world

    def arrived(self, job: TraceJob) -> None:
        self._inner.arrived(job)

    def changed(self, node: str) -> None:
        self._inner.changed(node)

    def ran(self, jobs: Sequence[TraceJob], took_s: float) -> None:
        self._inner.ran(jobs, took_s)

    def steps(self, world: World, now: float) -> Iterable[Step]:
        for step in self._inner.steps(world, now):
            yield step
            self._look()
        self.wake_at = self._inner.wake_at

    def _look(self) -> None:
        self.looks += 1
        for node in self._world.nodes.values():
            held = sum(resident.footprint_bytes for resident in node.residents.values())
            assert held <= self._world.shape.vram_bytes
            assert held + node.free_bytes == self._world.shape.vram_bytes
            assert sum(node.cache.values()) <= self._world.shape.host_cache_bytes
            assert not (node.blocking and node.running and node.loading)
            assert sum(resident.running for resident in node.residents.values()) == len(node.running)
