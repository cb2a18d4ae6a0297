"""Prometheus metrics of the dispatcher: counters as things happen, gauges from the stores when somebody asks.

Names are the public contract. The registry is our own: two applications in one process do not meet.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from affinity.errors import BrokerUnavailable, QueueFull, StoreUnavailable
from affinity.io.ports import Clock
from affinity.series import OTHER, EveryModel, ModelLabels

CONTENT_TYPE = CONTENT_TYPE_LATEST

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class StoreGauges:
    """What the store says: by model, by worker, by code. ``unplaceable`` are models in demand that no live GPU can hold
    or all of them have given up on; ``warnings`` count settings of the store that can lose jobs. ``gpu_s``: GPU seconds
    charged to each tenant.
    """

    queued: Mapping[str, int]
    oldest_wait_s: Mapping[str, float]
    holders: Mapping[str, int]
    unplaceable: Mapping[str, bool]
    workers_up: Mapping[str, bool]
    dead_letters: Mapping[str, int]
    warnings: int = 0
    gpu_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BrokerGauges:
    """What the broker says; ``None`` where it has no such queue."""

    fallback_depth: int | None
    dead_letter_depth: int | None


class DispatcherMetrics:
    """``models`` are the names of the catalogue; each has its series from the start, so that no rate is missing.

    ``labels`` bounds how many of them are told apart.
    """

    def __init__(self, models: Iterable[str], labels: ModelLabels | None = None) -> None:
        self._registry = registry = CollectorRegistry()
        self._labels = labels or EveryModel()
        self._produced = Counter("messages_produced_total", "Jobs accepted.", ["model"], registry=registry)
        self._cancelled = Counter(
            "jobs_cancelled_total",
            "Jobs cancelled, by whether they were queued or running.",
            ["model", "was"],
            registry=registry,
        )
        self._requests = Histogram(
            "http_request_duration_seconds",
            "Time from the first byte of a request to the last of its answer, waiting included.",
            ["method", "route", "status"],
            buckets=_BUCKETS_S,
            registry=registry,
        )
        self._refused = Counter(
            "jobs_refused_total", "Jobs that were not accepted, by the answer's code.", ["code"], registry=registry
        )
        self._lag = Histogram(
            "event_loop_lag_seconds",
            "How late the process's event loop was, twice a second.",
            buckets=_LAG_S,
            registry=registry,
        )
        self._gauges = _LastScrape(self._labels)
        registry.register(self._gauges)
        for model in models:
            self._produced.labels(self._labels.of(model))
            for was in ("queued", "running"):
                self._cancelled.labels(self._labels.of(model), was)
        for code in (QueueFull.code, BrokerUnavailable.code, StoreUnavailable.code):
            self._refused.labels(code)

    def produced(self, model: str) -> None:
        """A job was accepted."""
        self._produced.labels(self._labels.of(model)).inc()

    def refused(self, code: str) -> None:
        """A job was not accepted. ``code`` is one of the error tree's."""
        self._refused.labels(code).inc()

    def lagged(self, lag_s: float) -> None:
        """The event loop was so late."""
        self._lag.observe(lag_s)

    def cancelled(self, model: str, was: str) -> None:
        """A job was cancelled that was ``queued`` or ``running``."""
        self._cancelled.labels(self._labels.of(model), was).inc()

    def requested(self, method: str, route: str, status: int, took_s: float) -> None:
        """A request was answered. ``route`` is a template, so that clients cannot make series."""
        self._requests.labels(method if method in _METHODS else "other", route, str(status)).observe(took_s)

    def render(self, store: StoreGauges | None, broker: BrokerGauges | None) -> bytes:
        """The whole exposition. ``None``: it did not answer, and its series are left out rather than wrong."""
        self._gauges.store, self._gauges.broker = store, broker
        return generate_latest(self._registry)


class RequestTimer:
    """Plain ASGI: measures every request, those other layers refuse included."""

    def __init__(self, app: ASGIApp, metrics: DispatcherMetrics, clock: Clock) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # what the server answers where the application raised
        began_s = self._clock.monotonic()

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.requested(scope["method"], route, status, self._clock.monotonic() - began_s)


class _LastScrape(Collector):
    """Makes series of what the last scrape found. No await lies between finding and rendering, so nobody mixes two."""

    def __init__(self, labels: ModelLabels) -> None:
        self._labels = labels
        self.store: StoreGauges | None = None
        self.broker: BrokerGauges | None = None

    def collect(self) -> Iterator[Metric]:
        store, broker = self.store, self.broker
        yield _gauge("affinity_store_up", "1 if Redis answered this scrape.", store is not None)
        yield _gauge("affinity_broker_up", "1 if RabbitMQ answered this scrape.", broker is not None)
        if broker:
            yield _gauge("fallback_depth", "Jobs in the fallback queue.", broker.fallback_depth)
            yield _gauge("dead_letter_depth", "Deliveries in the dead-letter queue.", broker.dead_letter_depth)
        if store:
            yield _gauge("affinity_store_warnings", "Settings of Redis that can lose jobs.", store.warnings)
            waits = store.oldest_wait_s
            yield self._by_model("model_queue_depth", "Queued jobs.", store.queued, sum)
            yield self._by_model("model_oldest_wait_seconds", "Wait of the oldest queued job.", waits, max)
            yield self._by_model("model_holders", "GPUs on which the model is ready or loading.", store.holders, sum)
            unplaceable = "1 while jobs wait for a model that no live GPU can hold or load, else 0."
            yield self._by_model("model_unplaceable", unplaceable, store.unplaceable, max)
            yield _labelled("dead_letters", "Dead letters, by why they gave up.", "code", store.dead_letters)
            used = CounterMetricFamily(
                "affinity_tenant_gpu_seconds", "GPU seconds charged to a tenant, loads included.", labels=["tenant"]
            )
            for tenant, seconds in store.gpu_s.items():
                used.add_metric([tenant], seconds)
            yield used
            yield _labelled("worker_up", "1 while the worker's lease is held, else 0.", "worker", store.workers_up)

    def _by_model(
        self, name: str, help_text: str, values: Mapping[str, float], together: Callable[[list[float]], float]
    ) -> Metric:
        """``together`` makes one value of those of all models that have no series of their own."""
        own = {model: value for model, value in values.items() if self._labels.of(model) == model}
        rest = [value for model, value in values.items() if model not in own]
        return _labelled(name, help_text, "model", {**own, OTHER: together(rest)} if rest else own)


def _gauge(name: str, help_text: str, value: float | None) -> Metric:
    return GaugeMetricFamily(name, help_text) if value is None else GaugeMetricFamily(name, help_text, value)


def _labelled(name: str, help_text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, help_text, labels=[label])
    for value_of, value in values.items():
        family.add_metric([value_of], value)
    return family
