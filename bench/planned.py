"""Our policy under the simulator's protocol: ``affinity.policy.Planner`` is told what changes, and decides.

Nothing is decided here. A ``Serve`` becomes the oldest queued jobs of its model, a ``Load`` is passed on as it is.
"""

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter_ns
from typing import Protocol

from affinity.fleet import Demand, ModelFacts, WorkerReport
from affinity.policy import GiveUp, Load, Plan, Planner, Serve
from affinity.policy.tuning import DEFAULT, Tuning
from bench.demand import Queues
from bench.scheduler import Bring, PolicyFault, Start, Step
from bench.trace import TraceJob
from bench.world import LoadMode, World

RATE_TAU_S = 3000.0
"""Time constant of the running mean of arrivals, in seconds: that of the live store."""

MOST_IN_VAIN = 50
"""A policy that has loaded so often on every GPU since a job last ended never will end one: it evicts what it loads."""

EXEC_WEIGHT = 0.2
"""Weight of the newest batch in a model's mean execution time, as in the worker."""


class Asked(Protocol):
    """What is told of changes and asked for plans: ``affinity.policy.Planner``, or a test's own."""

    def report(self, report: WorkerReport) -> None:
        """A worker says something new of itself."""

    def ask(self, demand: Demand) -> None:
        """The demand for a model has changed."""

    def drop(self, model: str) -> None:
        """Nobody asks for a model any more."""

    def plan(self, now: float) -> Plan:
        """What to do now."""


class Planned:
    """Asks ``planner`` about the fleet at every event. ``tuning`` is the policy's own, or that of an ablation."""

    def __init__(
        self,
        world: World,
        name: str = "affinity",
        tuning: Tuning = DEFAULT,
        planner: Callable[[Mapping[str, ModelFacts], Tuning], Asked] = Planner,
        tau_s: float = RATE_TAU_S,
    ) -> None:
        self.name = name
        self.wake_at: float | None = None
        self.decisions_ns: array[int] = array("q")
        self._queues = Queues(tau_s)
        self._models = world.models
        self._facts = {model.name: model.facts(None) for model in world.models.values()}
        self._exec_s: dict[str, float] = {}
        self._planner = planner(self._facts, replace(tuning, overlap=world.shape.load is LoadMode.OVERLAP))
        self._changed: set[str] = set(world.nodes)
        self._in_vain = 0

    def arrived(self, job: TraceJob) -> None:
        self._queues.put(job)

    def changed(self, node: str) -> None:
        self._changed.add(node)

    def ran(self, jobs: Sequence[TraceJob], took_s: float) -> None:
        self._in_vain = 0
        model = self._models[jobs[0].model]
        before = self._exec_s.get(model.name, model.exec_s)
        mean_s = took_s if before is None else before + EXEC_WEIGHT * (took_s - before)
        self._exec_s[model.name] = mean_s
        self._facts[model.name] = model.facts(mean_s)

    def steps(self, world: World, now: float) -> Iterable[Step]:
        made = self._plan(world, now)
        # A load comes first: where it stops the GPU, a worker that served first would never get to it.
        for load in (d for d in made.decisions if isinstance(d, Load)):
            if world.nodes[load.worker].may_load:
                self._in_vain += 1
                if self._in_vain > MOST_IN_VAIN * len(world.nodes):
                    raise PolicyFault(
                        f"{self.name} has loaded {self._in_vain} times since a job last ended, at {now:.3f} s"
                    )
                yield Bring(load.worker, load.model, load.victims)
        for decision in made.decisions:
            if isinstance(decision, Serve) and world.nodes[decision.worker].free:
                # Another worker may have been given the last of them.
                if jobs := self._queues.take(decision.model, decision.most, now):
                    yield Start(decision.worker, jobs)
            elif isinstance(decision, GiveUp):
                raise PolicyFault(f"{decision.model} is given up at {now:.3f} s: {decision.error.message}")

    def _plan(self, world: World, now: float) -> Plan:
        reports = [world.nodes[name].report(now) for name in sorted(self._changed)]
        self._changed.clear()
        self._queues.decay(now)
        began_ns = perf_counter_ns()
        for report in reports:
            self._planner.report(report)
        for model in sorted(self._queues.changed):
            demand = self._queues.demand.get(model)
            self._planner.ask(demand) if demand else self._planner.drop(model)
        self._queues.changed.clear()
        made = self._planner.plan(now)
        self.decisions_ns.append(perf_counter_ns() - began_ns)
        self.wake_at = made.wake_at
        return made
