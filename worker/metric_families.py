"""The metric families of a worker: name, meaning, labels and buckets, and nothing else. Names are a public contract."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from worker.tally import Tallies

_JOB_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_LOAD_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class JobFamilies:
    """About jobs, and the process that handles them. ``tallies`` are those that no registry has."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.consumed = Counter(
            "messages_consumed", "Jobs that ended here, well or not.", ("model", "start"), registry=registry
        )
        self.duration = Tallies(
            "message_processing_duration_seconds",
            "Seconds of a job that ended here: waiting, loading its model (cold starts only), on the GPU.",
            ("model", "phase"),
            _JOB_SECONDS,
        )
        self.wait = Tallies(
            "job_wait_seconds",
            "Seconds from a job's creation to the start of the attempt that ended it, by kind of start.",
            ("start",),
            _JOB_SECONDS,
        )
        self.errors = Counter(
            "message_processing_errors",
            "Attempts and deliveries that ended with an error.",
            ("model", "code"),
            registry=registry,
        )
        self.given_up = Counter(
            "jobs_failed", "Accepted jobs that failed for good.", ("model", "code"), registry=registry
        )
        self.cancelled = Counter(
            "cancelled_runs",
            "Jobs cancelled while they ran here, by whether their batch was stopped for it or ran out.",
            ("model", "end"),
            registry=registry,
        )
        self.retries = Counter(
            "job_retries", "Attempts after which the job was queued again.", ("model", "code"), registry=registry
        )
        self.lag = Tallies(
            "event_loop_lag_seconds",
            "How late the process's event loop was, twice a second.",
            (),
            _LAG_SECONDS,
        )
        self.tallies = (self.duration, self.wait, self.lag)


class PlacementFamilies:
    """About who holds what, and what that costs and saves. ``load_duration`` is in no registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def of_worker(name: str, meaning: str, *more: str) -> Counter:
            return Counter(name, meaning, ("worker", *more), registry=registry)

        self.loads = of_worker("model_loads", "Models that became resident.", "model", "tier", "reason")
        self.load_duration = Tallies(
            "model_load_duration_seconds",
            "Seconds from the start of a load until the model is ready.",
            ("model", "tier"),
            _LOAD_SECONDS,
        )
        self.evictions = of_worker("model_evictions", "Models that were unloaded.", "model", "reason")
        self.saved = of_worker(
            "affinity_saved_seconds",
            "Seconds of loading saved: each batch that found its model resident counts that model's last load here.",
            "model",
        )
        self.lost = of_worker(
            "affinity_lost_seconds",
            "Seconds of loading lost: loads of a model that the same GPU had evicted less than 10 minutes before.",
            "model",
        )
        self.claims_lost = of_worker(
            "load_claims_lost", "Loads this worker was about to begin that another one had claimed or finished first."
        )
        self.handed_back = of_worker(
            "deliveries_handed_back", "Deliveries that consumers brought here and that were given back unstarted."
        )
        self.hoarded = Gauge(
            "hoarded_deliveries",
            "Deliveries in this worker's hand that no batch has started.",
            ("worker",),
            registry=registry,
        )
        self.workers_lost = Counter(
            "workers_lost", "Workers whose lease ran out and that this process has tidied up after.", registry=registry
        )


class GpuFamilies:
    """About GPUs and their memory. ``by_gpu`` are those with the labels worker and gpu only."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def of_gpu(name: str, meaning: str, *more: str) -> Gauge:
            return Gauge(name, meaning, ("worker", "gpu", *more), registry=registry)

        self.up = Gauge(
            "worker_up", "1 while this process serves the worker's GPU, else 0.", ("worker",), registry=registry
        )
        self.total = of_gpu("gpu_memory_total_bytes", "Memory of the GPU.")
        self.used = of_gpu("gpu_memory_used_bytes", "Memory in use, by whomever.")
        self.free = of_gpu("gpu_memory_free_bytes", "Memory nobody uses.")
        self.foreign = of_gpu("gpu_memory_foreign_bytes", "Memory that other processes use.")
        self.unreturned = of_gpu(
            "gpu_memory_unreturned_bytes", "Memory our executor still holds that no resident model accounts for."
        )
        self.utilization = of_gpu("gpu_utilization_ratio", "Share of time the GPU was busy lately, 0 to 1.")
        self.host_cache = of_gpu("host_cache_bytes", "Host memory that holds weights, ready to be copied.")
        self.loading = of_gpu("gpu_load_age_seconds", "Seconds since the load under way began; 0 where there is none.")
        self.by_gpu = (
            *(self.total, self.used, self.free, self.foreign, self.unreturned),
            *(self.utilization, self.host_cache, self.loading),
        )
        self.resident = of_gpu("model_resident_bytes", "Memory that is accounted to a resident model.", "model")
        self.state = of_gpu(
            "model_resident_state", "A resident's state: 1 loading, 2 ready, 3 running jobs, 4 leaving.", "model"
        )
        self.seconds = Counter(
            "gpu_seconds",
            "Seconds of the GPU by use: exec (a batch runs), load (it loads and nothing runs), idle. Sums to all time.",
            ("worker", "gpu", "use"),
            registry=registry,
        )
