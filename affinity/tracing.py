"""The port to traces: what of a job's way is told, and in which words. Who tells it is ``affinity.io.otel``.

Nothing here knows OpenTelemetry: where traces are off, nothing of it is imported, and every caller has ``None`` in the
place of a ``Tracing``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from affinity.job import Job, JobError, StartKind

TraceContext = Mapping[str, str]
"""Where a span belongs, as requests and messages carry it: the headers ``CARRIED``, those that are there."""

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"
QUEUED_AT = "affinity-queued-at"
"""Epoch seconds: when the wait of an attempt after the first began. Only we send it, and only where traces are on."""

CARRIED = (TRACEPARENT, TRACESTATE, QUEUED_AT)
NO_TRACE: TraceContext = MappingProxyType({})

Attributes = Mapping[str, str | int | float]
NO_ATTRIBUTES: Attributes = MappingProxyType({})


def context_in(headers: Mapping[str, object]) -> TraceContext:
    """What of a message's headers is trace context. A foreign client's may hold anything: only text is taken."""
    found = {name: value for name in CARRIED if isinstance(value := headers.get(name), str)}
    return found or NO_TRACE


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """One attempt of a job, once it is over. Instants are epoch seconds.

    ``job`` is as its start found it, so that ``attempts`` and ``losses`` say which attempt this was; ``context`` came
    with its delivery. ``started_at``: its batch began; ``exec_s``: on the GPU, ``None`` where it came to nothing.
    """

    job: Job
    context: TraceContext
    worker: str
    started_at: float
    ended_at: float
    load_s: float = 0.0
    exec_s: float | None = None
    start: StartKind | None = None
    error: JobError | None = None

    @property
    def ordinal(self) -> int:
        """1 for the job's first attempt in this life."""
        return max(1, self.job.attempts + self.job.losses)

    @property
    def queued_at(self) -> float:
        """When its wait began. Of one that came back at once that is not known: its load, or its batch."""
        if self.ordinal == 1:
            return max(0.0, min(self.job.created_at, self.started_at))
        try:
            said = float(self.context[QUEUED_AT])
        except (KeyError, ValueError):
            said = -1.0
        # A foreign client may have sent anything under that name.
        return said if self.job.created_at <= said <= self.started_at else self.started_at - self.load_s


class OpenSpan(Protocol):
    """A span that has begun."""

    context: TraceContext
    """What makes another span a child of this one, in this process or another."""

    def end(self, at: float, attributes: Attributes = NO_ATTRIBUTES, error: str = "") -> None:
        """It ends; with an ``error``, as one that failed."""


class Tracing(Protocol):
    """Where spans go. Never raises and never waits: a collector that is away costs spans, not jobs."""

    def received(self, name: str, at: float, parent: TraceContext) -> OpenSpan:
        """A request has begun."""

    def publishing(self, at: float, parent: TraceContext, job_id: str, model: str) -> OpenSpan:
        """A job is on its way to the broker."""

    def attempted(self, ended: EndedAttempt) -> None:
        """An attempt is over: ``attempt`` with ``wait``, ``load`` and ``exec`` in it, linked to the former attempt."""

    def close(self) -> None:
        """Send what is left. Takes seconds where nobody answers: call it from a thread."""
