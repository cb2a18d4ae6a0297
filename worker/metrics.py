"""What a worker process tells Prometheus. One registry per process, for all its GPUs; names are a public contract."""

import math

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from affinity.fleet import WorkerReport
from affinity.job import StartKind

CONTENT_TYPE = CONTENT_TYPE_LATEST

_JOB_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_LOAD_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)


class WorkerMetrics:
    """Counters grow with what happens; gauges are set from each report, so both say the same as ``GET /workers``."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._seen: dict[str, tuple[str, frozenset[str]]] = {}  # worker -> its GPU and residents at the last report
        self._make_job_metrics()
        self._make_gpu_metrics()

    def served(self, model: str, start: StartKind, wait_s: float, load_s: float, exec_s: float) -> None:
        """A job has ended here, with a result or an error. ``load_s`` only counts for a cold start."""
        self._consumed.labels(model, str(start)).inc()
        self._duration.labels(model, "wait").observe(wait_s)
        if start is StartKind.COLD:
            self._duration.labels(model, "load").observe(load_s)
        self._duration.labels(model, "exec").observe(exec_s)

    def failed(self, model: str, code: str) -> None:
        """An attempt, or a delivery, has ended with this error of the tree."""
        self._errors.labels(model, code).inc()

    def loaded(self, worker: str, model: str, tier: str, reason: str, load_s: float) -> None:
        """A model has become resident. ``tier`` is where its weights came from, ``reason`` why it was loaded."""
        self._loads.labels(worker, model, tier, reason).inc()
        self._load_duration.labels(model, tier).observe(load_s)

    def evicted(self, worker: str, model: str, reason: str) -> None:
        """A model has been unloaded."""
        self._evictions.labels(worker, model, reason).inc()

    def report(self, report: WorkerReport, host_cache_bytes: int = 0) -> None:
        """Set every gauge of this worker. Models that are gone since its last report leave no series behind.

        ``host_cache_bytes`` is what the weights of ``report.cached`` take.
        """
        worker, gpu = report.worker, report.gpu
        self._up.labels(worker).set(1)
        self._total.labels(worker, gpu.uuid).set(gpu.total_bytes)
        self._used.labels(worker, gpu.uuid).set(gpu.used_bytes)
        self._free.labels(worker, gpu.uuid).set(gpu.free_bytes)
        self._foreign.labels(worker, gpu.uuid).set(gpu.foreign_bytes)
        self._host_cache.labels(worker, gpu.uuid).set(host_cache_bytes)
        # Where the driver cannot say, Prometheus shows "not a number" rather than the last number.
        self._utilization.labels(worker, gpu.uuid).set(math.nan if gpu.utilization is None else gpu.utilization)
        held = {resident.model: resident.footprint_bytes for resident in report.residents}
        for model, footprint_bytes in held.items():
            self._resident.labels(worker, gpu.uuid, model).set(footprint_bytes)
        _, before = self._seen.get(worker, (gpu.uuid, frozenset[str]()))
        for model in before - held.keys():
            self._resident.remove(worker, gpu.uuid, model)
        self._seen[worker] = (gpu.uuid, frozenset(held))

    def gone(self, worker: str) -> None:
        """The worker has stopped or lost its GPU, and the process goes on with others: only ``worker_up`` 0 is left."""
        self._up.labels(worker).set(0)
        seen = self._seen.pop(worker, None)
        if seen is None:
            return
        uuid, models = seen
        for model in models:
            self._resident.remove(worker, uuid, model)
        for gauge in (self._total, self._used, self._free, self._foreign, self._utilization, self._host_cache):
            gauge.remove(worker, uuid)

    def exposition(self) -> bytes:
        """Everything, in Prometheus' text format (``CONTENT_TYPE``)."""
        return generate_latest(self._registry)

    def _make_job_metrics(self) -> None:
        registry = self._registry
        self._consumed = Counter(
            "messages_consumed", "Jobs that ended here, well or not.", ("model", "start"), registry=registry
        )
        self._duration = Histogram(
            "message_processing_duration_seconds",
            "Seconds of a job that ended here: waiting, loading its model (cold starts only), on the GPU.",
            ("model", "phase"),
            buckets=_JOB_SECONDS,
            registry=registry,
        )
        self._errors = Counter(
            "message_processing_errors",
            "Attempts and deliveries that ended with an error.",
            ("model", "code"),
            registry=registry,
        )
        self._loads = Counter(
            "model_loads", "Models that became resident.", ("worker", "model", "tier", "reason"), registry=registry
        )
        self._load_duration = Histogram(
            "model_load_duration_seconds",
            "Seconds from the start of a load until the model is ready.",
            ("model", "tier"),
            buckets=_LOAD_SECONDS,
            registry=registry,
        )
        self._evictions = Counter(
            "model_evictions", "Models that were unloaded.", ("worker", "model", "reason"), registry=registry
        )

    def _make_gpu_metrics(self) -> None:
        def of_gpu(name: str, meaning: str, *more: str) -> Gauge:
            return Gauge(name, meaning, ("worker", "gpu", *more), registry=self._registry)

        self._up = Gauge(
            "worker_up", "1 while this process serves the worker's GPU, else 0.", ("worker",), registry=self._registry
        )
        self._total = of_gpu("gpu_memory_total_bytes", "Memory of the GPU.")
        self._used = of_gpu("gpu_memory_used_bytes", "Memory in use, by whomever.")
        self._free = of_gpu("gpu_memory_free_bytes", "Memory nobody uses.")
        self._foreign = of_gpu("gpu_memory_foreign_bytes", "Memory that other processes use.")
        self._utilization = of_gpu("gpu_utilization_ratio", "Share of time the GPU was busy lately, 0 to 1.")
        self._host_cache = of_gpu("host_cache_bytes", "Host memory that holds weights, ready to be copied.")
        self._resident = of_gpu("model_resident_bytes", "Memory that is accounted to a resident model.", "model")
