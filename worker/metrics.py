"""What a worker process tells Prometheus. One registry per process, for all its GPUs; names are a public contract.

Cheap by design: a settled job touches children that are looked up once per model, and what can wait (gauges, the GPU's
time) is worked out when a report is made or when Prometheus asks. docs/metrics.md is generated from here.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from affinity.fleet import ResidencyState, WorkerReport
from affinity.job import StartKind
from affinity.series import EveryModel, ModelLabels
from worker.gpu_time import GpuTime
from worker.metric_families import GpuFamilies, JobFamilies, PlacementFamilies
from worker.tally import Tally

CONTENT_TYPE = CONTENT_TYPE_LATEST

BACK_AND_FORTH_S = 600.0
"""A model loaded again so soon after this GPU evicted it: the load is a loss, it only puts back what was there."""


@dataclass(slots=True)
class _Worker:
    """What is remembered of one worker between reports. Instants are of the process's monotonic clock."""

    time: GpuTime
    gpu: str = ""
    reported_at: float | None = None
    lease_s: float = math.inf
    shown: dict[str, int] = field(default_factory=dict)  # labels of residents at the last report, and their bytes
    load_s: dict[str, float] = field(default_factory=dict)  # model -> seconds of its last load here
    evicted_at: dict[str, float] = field(default_factory=dict)
    in_hand: Callable[[], int] | None = None


class _OfModel:
    """The children a settled job of one model touches: looking them up anew took half the time of counting it."""

    __slots__ = ("cold", "execution", "load", "wait", "warm")

    def __init__(self, families: JobFamilies, label: str) -> None:
        self.cold: Counter = families.consumed.labels(label, str(StartKind.COLD))
        self.warm: Counter = families.consumed.labels(label, str(StartKind.WARM))
        self.wait: Tally = families.duration.labels(label, "wait")
        self.load: Tally = families.duration.labels(label, "load")
        self.execution: Tally = families.duration.labels(label, "exec")


class WorkerMetrics:
    """Counters grow with what happens; gauges are set from each report, so both say the same as ``GET /workers``."""

    def __init__(self, labels: ModelLabels | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._labels = labels or EveryModel()
        self._monotonic = monotonic
        self._registry = registry = CollectorRegistry()
        self._jobs = JobFamilies(registry)
        self._gpus = GpuFamilies(registry)
        self._placement = PlacementFamilies(registry)
        self._lag: Tally = self._jobs.lag.labels()
        self._models: dict[str, _OfModel] = {}
        self._workers: dict[str, _Worker] = {}
        self._waits: dict[StartKind, Tally] = {start: self._jobs.wait.labels(str(start)) for start in StartKind}

    def served(self, model: str, start: StartKind, wait_s: float, load_s: float, exec_s: float) -> None:
        """A job has ended here, with a result or an error. ``load_s`` only counts for a cold start."""
        label = self._labels.of(model)
        of_model = self._models.get(label)
        if of_model is None:
            of_model = self._models[label] = _OfModel(self._jobs, label)
        of_model.wait.observe(wait_s)
        of_model.execution.observe(exec_s)
        self._waits[start].observe(wait_s)
        if start is StartKind.COLD:
            of_model.cold.inc()
            of_model.load.observe(load_s)
        else:
            of_model.warm.inc()

    def failed(self, model: str, code: str) -> None:
        """An attempt, or a delivery, has ended with this error of the tree."""
        self._jobs.errors.labels(self._labels.of(model), code).inc()

    def gave_up(self, model: str, code: str) -> None:
        """A job has failed for good."""
        self._jobs.given_up.labels(self._labels.of(model), code).inc()

    def retried(self, model: str, code: str) -> None:
        """An attempt came to nothing, and the job has another one before it."""
        self._jobs.retries.labels(self._labels.of(model), code).inc()

    def cancelled(self, model: str, end: str) -> None:
        """A job was cancelled while it ran here. ``end``: its batch was ``stopped`` for it, or ``ran_out``."""
        self._jobs.cancelled.labels(self._labels.of(model), end).inc()

    def batch_began(self, worker: str, model: str, cold: bool) -> None:
        """A batch runs from now on. Not ``cold``: it found its model there, which saves a load."""
        known = self._known(worker)
        known.time.running(True, self._monotonic())
        if not cold and (saved_s := known.load_s.get(model)):
            self._placement.saved.labels(worker, self._labels.of(model)).inc(saved_s)

    def batch_ended(self, worker: str) -> None:
        """The batch is over."""
        self._known(worker).time.running(False, self._monotonic())

    def loaded(self, worker: str, model: str, tier: str, reason: str, load_s: float) -> None:
        """A model has become resident. ``tier`` is where its weights came from, ``reason`` why it was loaded."""
        known, label, families = self._known(worker), self._labels.of(model), self._placement
        known.load_s[model] = load_s
        if self._monotonic() - known.evicted_at.pop(model, -math.inf) < BACK_AND_FORTH_S:
            families.lost.labels(worker, label).inc(load_s)
        families.loads.labels(worker, label, tier, reason).inc()
        families.load_duration.labels(label, tier).observe(load_s)

    def evicted(self, worker: str, model: str, reason: str) -> None:
        """A model has been unloaded."""
        self._known(worker).evicted_at[model] = self._monotonic()
        self._placement.evictions.labels(worker, self._labels.of(model), reason).inc()

    def claim_lost(self, worker: str) -> None:
        """A load that the plan gave this worker went to another one."""
        self._placement.claims_lost.labels(worker).inc()

    def reaped(self) -> None:
        """Another worker's lease ran out, and this one has tidied up after it."""
        self._placement.workers_lost.inc()

    def handed_back(self, worker: str, deliveries: int) -> None:
        """So many deliveries that consumers brought were given back unstarted."""
        self._placement.handed_back.labels(worker).inc(deliveries)

    def hoards(self, worker: str, in_hand: Callable[[], int]) -> None:
        """How many unstarted deliveries a worker has; asked at every scrape."""
        self._known(worker).in_hand = in_hand

    def lagged(self, lag_s: float) -> None:
        """The event loop was so late."""
        self._lag.observe(lag_s)

    def report(self, report: WorkerReport, host_cache_bytes: int = 0) -> None:
        """Set every gauge of this worker. Models that are gone since its last report leave no series behind.

        ``host_cache_bytes`` is what the weights of ``report.cached`` take.
        """
        worker, gpu, known = report.worker, report.gpu, self._known(report.worker)
        known.gpu, known.reported_at, known.lease_s = gpu.uuid, self._monotonic(), report.lease_s
        known.time.loading(report.loading is not None, known.reported_at)
        families = self._gpus
        families.up.labels(worker).set(1)
        families.loading.labels(worker, gpu.uuid).set(report.as_of - report.loading.loaded_at if report.loading else 0)
        for family, value in (
            (families.total, gpu.total_bytes),
            (families.used, gpu.used_bytes),
            (families.free, gpu.free_bytes),
            (families.foreign, gpu.foreign_bytes),
            (families.unreturned, gpu.unreturned_bytes),
            (families.host_cache, host_cache_bytes),
            # Where the driver cannot say, Prometheus shows "not a number" rather than the last number.
            (families.utilization, math.nan if gpu.utilization is None else gpu.utilization),
        ):
            family.labels(worker, gpu.uuid).set(value)
        self._show_residents(known, report)

    def gone(self, worker: str) -> None:
        """The worker has stopped or lost its GPU, and the process goes on with others: only ``worker_up`` 0 is left."""
        self._gpus.up.labels(worker).set(0)
        known = self._workers.pop(worker, None)
        if known is not None:
            self._hide(worker, known)

    def exposition(self) -> bytes:
        """Everything, in Prometheus' text format (``CONTENT_TYPE``). A worker whose reports have stopped for as long as
        its lease is gone: others may have its GPU by now.
        """
        now = self._monotonic()
        for worker, known in self._workers.items():
            if known.reported_at is None:
                continue
            if now - known.reported_at > known.lease_s:
                self._gpus.up.labels(worker).set(0)
                self._hide(worker, known)
                continue
            for use, seconds in known.time.take(now).items():
                self._gpus.seconds.labels(worker, known.gpu, use).inc(seconds)
            if known.in_hand:
                self._placement.hoarded.labels(worker).set(known.in_hand())
        tallies = (*self._jobs.tallies, self._placement.load_duration)
        return generate_latest(self._registry) + "".join(family.text() for family in tallies).encode()

    def _hide(self, worker: str, known: _Worker) -> None:
        """Take its series away, until it reports again."""
        if known.reported_at is None:
            return
        for label in known.shown:
            self._gpus.resident.remove(worker, known.gpu, label)
            self._gpus.state.remove(worker, known.gpu, label)
        for family in self._gpus.by_gpu:
            family.remove(worker, known.gpu)
        self._placement.hoarded.remove(worker)
        known.reported_at, known.shown = None, {}

    def _show_residents(self, known: _Worker, report: WorkerReport) -> None:
        worker, uuid, held = report.worker, report.gpu.uuid, dict[str, int]()
        states: dict[str, int] = {}
        for resident in report.residents:
            label = self._labels.of(resident.model)
            held[label] = held.get(label, 0) + resident.footprint_bytes
            states[label] = _STATES[resident.state, resident.running > 0]
        for label, footprint_bytes in held.items():
            self._gpus.resident.labels(worker, uuid, label).set(footprint_bytes)
            self._gpus.state.labels(worker, uuid, label).set(states[label])
        for label in known.shown.keys() - held.keys():
            self._gpus.resident.remove(worker, uuid, label)
            self._gpus.state.remove(worker, uuid, label)
        known.shown = held

    def _known(self, worker: str) -> _Worker:
        known = self._workers.get(worker)
        if known is None:
            known = self._workers[worker] = _Worker(GpuTime(self._monotonic()))
            # A series that begins with its first event has no rate at that event.
            self._placement.claims_lost.labels(worker)
            self._placement.handed_back.labels(worker)
        return known


_STATES = {
    (ResidencyState.LOADING, False): 1,
    (ResidencyState.READY, False): 2,
    (ResidencyState.READY, True): 3,
    (ResidencyState.DRAINING, False): 4,
    (ResidencyState.DRAINING, True): 4,
    (ResidencyState.LOADING, True): 1,
}
"""Values of ``model_resident_state``: what the state timeline of the dashboard shows."""
