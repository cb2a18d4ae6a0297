"""Routers that estimate, and one that divides the models beforehand."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from bench.baselines.bound import EarlyBound
from bench.models_file import BenchModel
from bench.trace import TraceJob
from bench.world import World


class EarliestCompletion(EarlyBound):
    """Each job to the worker where it is estimated to end first, loads included.

    The estimate knows each job's true execution time and foresees what each queue will have loaded and evicted.
    """

    name = "earliest-completion"

    def __init__(self, world: World, jobs: Sequence[TraceJob], seed: int) -> None:
        super().__init__(world, jobs, seed)
        self._free_at = dict.fromkeys(self.workers, 0.0)
        # Models by last use, as they will be once the queue is done.
        self._will_hold: dict[str, dict[str, int]] = {name: {} for name in self.workers}

    def bind(self, job: TraceJob, now: float) -> str:
        best = min(self.workers, key=lambda name: (self._ready_at(name, job.model, now), name))
        self._free_at[best] = self._ready_at(best, job.model, now) + job.exec_s
        self._foresee(best, self.models[job.model])
        return best

    def _ready_at(self, worker: str, model: str, now: float) -> float:
        load_s = 0.0 if model in self._will_hold[worker] else self.world.nodes[worker].load_s(model)
        return max(now, self._free_at[worker]) + load_s

    def _foresee(self, worker: str, model: BenchModel) -> None:
        held = self._will_hold[worker]
        held.pop(model.name, None)
        room = self.world.shape.vram_bytes - model.vram_bytes
        while sum(held.values()) > room:
            del held[next(iter(held))]
        held[model.name] = model.vram_bytes


class StaticPinning(EarlyBound):
    """Each model to one worker, divided beforehand by the work the whole trace holds for it.

    The models with most work stay for good, as far as the largest of a worker's other models can still be loaded.
    """

    name = "static-pinning"

    def __init__(self, world: World, jobs: Sequence[TraceJob], seed: int) -> None:
        super().__init__(world, jobs, seed)
        work_s: Counter[str] = Counter()
        for job in jobs:
            work_s[job.model] += job.exec_s  # type: ignore[assignment]
        given_s = dict.fromkeys(self.workers, 0.0)
        models_of: defaultdict[str, list[BenchModel]] = defaultdict(list)
        self._home: dict[str, str] = {}
        for name, seconds in sorted(work_s.items(), key=lambda each: (-each[1], each[0])):
            home = min(self.workers, key=lambda worker: (given_s[worker], worker))
            given_s[home] += seconds
            self._home[name] = home
            models_of[home].append(self.models[name])
        self._pinned = {worker: self._pin(models_of[worker]) for worker in self.workers}

    def bind(self, job: TraceJob, now: float) -> str:
        del now
        return self._home[job.model]

    def kept(self, worker: str) -> frozenset[str]:
        return self._pinned[worker]

    def _pin(self, models: Sequence[BenchModel]) -> frozenset[str]:
        """The first models that leave room for the largest of those behind them."""
        used, pinned = 0, set()
        for place, model in enumerate(models):
            largest = max((other.vram_bytes for other in models[place + 1 :]), default=0)
            used += model.vram_bytes
            if used + largest > self.world.shape.vram_bytes:
                break
            pinned.add(model.name)
        return frozenset(pinned)
