"""What a run looks like from outside: a scheduler that is watched. It changes nothing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.scheduler import Scheduler, Start, Step
from bench.trace import TraceJob
from bench.world import World


@dataclass(frozen=True, slots=True)
class Started:
    """A job's start. ``cold``: it was the first after a load."""

    at: float
    job: TraceJob
    cold: bool


class Observed:
    """``starts`` in order of time; ``moves`` are ``(instant, model, 1 or -1)``: a load that began, an eviction."""

    def __init__(self, inner: Scheduler, world: World) -> None:
        self.name = inner.name
        self.starts: list[Started] = []
        self.moves: list[tuple[float, str, int]] = []
        self._inner = inner
        self._world = world

    @property
    def wake_at(self) -> float | None:
        return self._inner.wake_at

    @property
    def decisions_ns(self) -> Sequence[int]:
        return self._inner.decisions_ns

    def arrived(self, job: TraceJob) -> None:
        self._inner.arrived(job)

    def changed(self, node: str) -> None:
        self._inner.changed(node)

    def ran(self, jobs: Sequence[TraceJob], took_s: float) -> None:
        self._inner.ran(jobs, took_s)

    def steps(self, world: World, now: float) -> Iterable[Step]:
        for step in self._inner.steps(world, now):
            if isinstance(step, Start):
                cold = step.jobs[0].model in world.nodes[step.node].unserved
                self.starts += [Started(now, job, cold and not place) for place, job in enumerate(step.jobs)]
            else:
                self.moves += [(now, victim, -1) for victim in step.victims] + [(now, step.model, 1)]
            yield step

    def copies(self, model: str, from_s: float, until_s: float) -> tuple[int, int]:
        """The fewest and the most copies of a model between two instants, counting those that load."""
        held, seen = 0, []
        for at, moved, by in self.moves:
            if at >= until_s:
                break
            if moved == model:
                if at >= from_s:
                    seen.append(held)
                held += by
        seen.append(held)
        return min(seen), max(seen)

    def hit_ratio(self, models: frozenset[str], from_s: float, until_s: float) -> float | None:
        """Share of these models' starts between two instants that were not the first after a load."""
        cold = [each.cold for each in self.starts if from_s <= each.at < until_s and each.job.model in models]
        return 1 - sum(cold) / len(cold) if cold else None
