"""The simulated GPUs: what each holds, runs and loads. Physics only - it decides nothing and refuses the impossible."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from affinity.errors import InvariantBroken
from affinity.fleet import GIB, Gpu, Residency, ResidencyState, WorkerReport
from bench.models_file import BadInput, BenchModel
from bench.trace import TraceJob


class LoadMode(StrEnum):
    """Whether a GPU serves other residents while it loads."""

    BLOCKING = "blocking"
    OVERLAP = "overlap"


@dataclass(frozen=True, slots=True)
class FleetShape:
    """How many GPUs, how large, how they load, and how many bytes each one's host keeps of evicted models."""

    workers: int
    vram_bytes: int
    load: LoadMode = LoadMode.BLOCKING
    host_cache_bytes: int = 0


class Node:
    """One GPU. Instants are seconds from the start of the trace."""

    __slots__ = (
        "_cache_bytes",
        "_changed",
        "_gpu",
        "_models",
        "_report",
        "blocking",
        "cache",
        "free_bytes",
        "free_cache_bytes",
        "load_seconds",
        "loaded_at",
        "loading",
        "loads",
        "name",
        "residents",
        "run_until",
        "running",
        "served_s",
        "unserved",
    )

    def __init__(self, name: str, shape: FleetShape, models: Mapping[str, BenchModel]) -> None:
        self.name = name
        self.blocking = shape.load is LoadMode.BLOCKING
        self.free_bytes = shape.vram_bytes
        self.free_cache_bytes = shape.host_cache_bytes
        self.residents: dict[str, Residency] = {}
        self.cache: OrderedDict[str, int] = OrderedDict()
        self.running: Sequence[TraceJob] = ()
        self.run_until = 0.0
        self.loading: str | None = None
        self.served_s = 0.0
        self.unserved: set[str] = set()
        self.loads = 0
        self.loaded_at = 0.0
        self.load_seconds = 0.0
        self._models = models
        self._gpu = Gpu(f"GPU-{name}", 0, "simulated", shape.vram_bytes)
        self._report = WorkerReport(name, name, 1, 0, 0.0, self._gpu)
        self._changed = True

    @property
    def free(self) -> bool:
        """True if it could start a batch now."""
        return not self.running and not (self.blocking and self.loading)

    @property
    def may_load(self) -> bool:
        """True if it could start a load now."""
        return self.loading is None and not (self.blocking and self.running)

    def ready(self, model: str) -> bool:
        """True if it could serve the model once it is free."""
        resident = self.residents.get(model)
        return resident is not None and resident.state is ResidencyState.READY

    def load_s(self, model: str) -> float:
        """What a load would take here and now, by the tier the weights lie on."""
        known = self._models[model]
        return known.reload_s if model in self.cache and known.reload_s is not None else known.load_s

    def start(self, jobs: Sequence[TraceJob], now: float) -> tuple[float, bool]:
        """Run one batch of one model. Returns when it ends, and whether it is the first one since the load."""
        model = jobs[0].model
        if not self.free or not self.ready(model):
            raise InvariantBroken(f"{self.name} cannot run {model} at {now}")
        self._put(replace(self.residents[model], running=len(jobs), last_used_at=now))
        cold = model in self.unserved
        self.unserved.discard(model)
        self.running = jobs
        self.run_until = now + max(job.exec_s for job in jobs)
        return self.run_until, cold

    def ran(self, started_at: float, now: float) -> Sequence[TraceJob]:
        """The batch is over. Returns its jobs."""
        jobs, self.running = self.running, ()
        self._put(replace(self.residents[jobs[0].model], running=0, last_used_at=now))
        self.served_s += now - max(started_at, self.loaded_at)
        return jobs

    def load(self, model: str, victims: Sequence[str], now: float) -> float:
        """Evict ``victims`` and begin to load. Returns when the model is ready."""
        if not self.may_load or model in self.residents:
            raise InvariantBroken(f"{self.name} cannot load {model} at {now}")
        # Taken out of the host's memory before the victims come in: they must not push it out.
        took_s = self.load_s(model)
        self._uncache(model)
        for victim in victims:
            self._evict(victim)
        size = self._models[model].vram_bytes
        if size > self.free_bytes:
            raise InvariantBroken(f"{model} takes {size} bytes and {self.free_bytes} are free on {self.name}")
        self.free_bytes -= size
        pinned = self._models[model].pinned
        self._put(Residency(model, ResidencyState.LOADING, size, now, now, pinned=pinned))
        self.loading = model
        self.loads += 1
        self.load_seconds += took_s
        return now + took_s

    def loaded(self, now: float) -> str:
        """The load is over. Returns the model."""
        model, self.loading = self.loading, None
        assert model is not None
        self._put(replace(self.residents[model], state=ResidencyState.READY, loaded_at=now, last_used_at=now))
        self.unserved.add(model)
        self.served_s, self.loaded_at = 0.0, now
        return model

    def report(self, now: float) -> WorkerReport:
        """What it says of itself: the same object until something changes."""
        if self._changed:
            residents, cached = tuple(self.residents.values()), tuple(self.cache)
            sequence = self._report.sequence + 1
            self._report = WorkerReport(
                self.name, self.name, 1, sequence, now, self._gpu, residents, (), cached, self.served_s
            )
            self._changed = False
        return self._report

    def _put(self, resident: Residency) -> None:
        self.residents[resident.model] = resident
        self._changed = True

    def _evict(self, victim: str) -> None:
        resident = self.residents[victim]
        if resident.running or resident.pinned or resident.state is not ResidencyState.READY:
            raise InvariantBroken(f"{victim} runs, loads or is pinned on {self.name} and cannot be evicted")
        del self.residents[victim]
        self.free_bytes += resident.footprint_bytes
        self.unserved.discard(victim)
        self._keep_in_host(victim, resident.footprint_bytes)
        self._changed = True

    def _keep_in_host(self, model: str, size: int) -> None:
        """The host keeps what it can of what leaves VRAM, the least recently evicted goes first."""
        while self.cache and size > self.free_cache_bytes:
            self._uncache(next(iter(self.cache)))
        if size <= self.free_cache_bytes:
            self.cache[model] = size
            self.free_cache_bytes -= size

    def _uncache(self, model: str) -> None:
        self.free_cache_bytes += self.cache.pop(model, 0)


class World:
    """All GPUs, by name in order, and the models they may load."""

    def __init__(self, shape: FleetShape, models: Mapping[str, BenchModel]) -> None:
        """Raises ``BadInput`` for a model that fits no GPU."""
        large = [m for m in models.values() if m.vram_bytes > shape.vram_bytes]
        if large:
            worst = max(large, key=lambda m: m.vram_bytes)
            raise BadInput(
                f"model {worst.name} takes {worst.vram_bytes / GIB:.1f} GiB and every GPU has "
                f"{shape.vram_bytes / GIB:.1f} GiB ({len(large)} such models): raise --vram-gib or leave them out"
            )
        self.shape = shape
        self.models = models
        digits = len(str(shape.workers - 1))
        names = [f"w{number:0{digits}}" for number in range(shape.workers)]
        self.nodes = {name: Node(name, shape, models) for name in names}
