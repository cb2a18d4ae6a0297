"""``Tracing`` by OpenTelemetry: spans with our own instants, sent by OTLP over HTTP from a thread of the SDK's.

The id of an attempt's span follows from its trace, its job and its number. So any worker can name the span of the
former attempt, and link to it, though it ran elsewhere and nothing of it came along with the delivery.
"""

import hashlib
import threading

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from affinity.tracing import NO_ATTRIBUTES, NO_TRACE, Attributes, EndedAttempt, TraceContext

CLOSE_WITHIN_S = 3.0
"""What the last spans get where their collector does not answer: as long as that, a stop takes longer."""

NANO = 1_000_000_000


class SpanTeller:
    """``provider`` must have been made with ``ids``. ``close_exporter`` ends an export that nobody answers."""

    def __init__(self, provider: TracerProvider, ids: "NamedIds", exporter: OTLPSpanExporter | None = None) -> None:
        self._provider = provider
        self._ids = ids
        self._exporter = exporter
        self._tracer = provider.get_tracer("affinity")
        self._propagator = TraceContextTextMapPropagator()

    @classmethod
    def exporting(cls, service: str) -> "SpanTeller":
        """Sends to where the standard variables say."""
        ids, exporter = NamedIds(), OTLPSpanExporter()
        # Ours first: what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say wins.
        named = Resource.create({SERVICE_NAME: f"affinity-{service}"}).merge(OTELResourceDetector().detect())
        provider = TracerProvider(resource=named, id_generator=ids, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(exporter))
        return cls(provider, ids, exporter)

    def received(self, name: str, at: float, parent: TraceContext) -> "OtelSpan":
        """See the port."""
        return self._open(name, SpanKind.SERVER, at, self._propagator.extract(dict(parent)), NO_ATTRIBUTES)

    def publishing(self, at: float, parent: TraceContext, job_id: str, model: str) -> "OtelSpan":
        """See the port."""
        attributes = {"affinity.job": job_id, "affinity.model": model, "messaging.system": "rabbitmq"}
        return self._open("publish", SpanKind.PRODUCER, at, self._propagator.extract(dict(parent)), attributes)

    def attempted(self, ended: EndedAttempt) -> None:
        """See the port."""
        parent = self._propagator.extract(dict(ended.context))
        trace_id = _trace_of(parent)
        if trace_id is None:  # Nobody traced its way here: every attempt finds the same trace by itself.
            trace_id = self._ids.next_trace = _number(f"{ended.job.id} {ended.job.created_at!r}", 16)
        links = []
        if ended.ordinal > 1:
            former = _attempt_id(trace_id, ended, ended.ordinal - 1)
            links.append(Link(SpanContext(trace_id, former, is_remote=True), {"affinity.link": "former attempt"}))
        self._ids.next_span = _attempt_id(trace_id, ended, ended.ordinal)
        attempt = self._tracer.start_span(
            "attempt",
            parent,
            SpanKind.CONSUMER,
            attributes=_attributes(ended),
            links=links,
            start_time=_ns(ended.queued_at),
        )
        self._ids.next_trace = self._ids.next_span = None
        if attempt.is_recording():
            self._phases(ended, set_span_in_context(attempt))
        OtelSpan(attempt, NO_TRACE).end(ended.ended_at, error=ended.error.code if ended.error else "")

    def close(self) -> None:
        """See the port."""
        hurry = threading.Timer(CLOSE_WITHIN_S, self._exporter.shutdown) if self._exporter else None
        if hurry:
            hurry.start()
        self._provider.shutdown()
        if hurry:
            hurry.cancel()

    def _phases(self, ended: EndedAttempt, within: Context) -> None:
        """A load ends when the batch that waited for it begins, as far as anybody is told."""
        began = max(ended.queued_at, ended.started_at - ended.load_s)
        phases = [("wait", ended.queued_at, began)]
        if ended.load_s:
            phases.append(("load", began, ended.started_at))
        if ended.exec_s is not None:
            phases.append(("exec", ended.started_at, ended.started_at + ended.exec_s))
        for name, start, end in phases:
            self._tracer.start_span(name, within, start_time=_ns(start)).end(_ns(end))

    def _open(self, name: str, kind: SpanKind, at: float, parent: Context, attributes: Attributes) -> "OtelSpan":
        span = self._tracer.start_span(name, parent, kind, attributes=attributes, start_time=_ns(at))
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(span))
        return OtelSpan(span, carrier)


class OtelSpan:
    """See ``tracing.OpenSpan``."""

    def __init__(self, span: Span, context: TraceContext) -> None:
        self.context = context
        self._span = span

    def end(self, at: float, attributes: Attributes = NO_ATTRIBUTES, error: str = "") -> None:
        """See the port."""
        for name, value in attributes.items():
            self._span.set_attribute(name, value)
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end(_ns(at))


class NamedIds(RandomIdGenerator):
    """Random ids, but for the next one, which may be given. The event loop's thread alone makes spans."""

    def __init__(self) -> None:
        self.next_trace: int | None = None
        self.next_span: int | None = None

    def generate_trace_id(self) -> int:
        """See the base."""
        given, self.next_trace = self.next_trace, None
        return given or super().generate_trace_id()

    def generate_span_id(self) -> int:
        """See the base."""
        given, self.next_span = self.next_span, None
        return given or super().generate_span_id()


def _trace_of(context: Context) -> int | None:
    found = get_current_span(context).get_span_context()
    return found.trace_id if found.is_valid else None


def _attempt_id(trace_id: int, ended: EndedAttempt, ordinal: int) -> int:
    return _number(f"{trace_id:x} {ended.job.id} {ended.job.life} {ordinal}", 8)


def _number(text: str, size: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size])


def _attributes(ended: EndedAttempt) -> dict[str, str | int]:
    found: dict[str, str | int] = {
        "affinity.job": ended.job.id,
        "affinity.model": ended.job.spec.model,
        "affinity.worker": ended.worker,
        "affinity.attempt": ended.ordinal,
        "messaging.system": "rabbitmq",
    }
    if ended.start:
        found["affinity.start"] = ended.start.value
    return found


def _ns(at: float) -> int:
    return round(at * NANO)
