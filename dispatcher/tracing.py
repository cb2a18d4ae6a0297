"""Traces of what is handed in: a span for each request that may publish jobs, one for each job's way to the broker.

Only where traces are on: ``__main__`` puts these two around the application and the publisher, or leaves them out.
"""

from contextvars import ContextVar
from typing import Any, cast

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from affinity.io.ports import Clock, Publisher
from affinity.job import JobSpec
from affinity.tracing import NO_TRACE, TRACEPARENT, TRACESTATE, TraceContext, Tracing

TRACED = frozenset({"/jobs", "/jobs/batch", "/produce", "/batch-produce"})
"""What is handed in by POST. Everything else is looks, which would bury the jobs."""

_request: ContextVar[TraceContext | None] = ContextVar("request's trace", default=None)
_HEADERS = {TRACEPARENT.encode(): TRACEPARENT, TRACESTATE.encode(): TRACESTATE}


class TracedRequests:
    """Plain ASGI around the application. A caller's own trace is continued."""

    def __init__(self, app: ASGIApp, tracing: Tracing, clock: Clock) -> None:
        self._app = app
        self._tracing = tracing
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in TRACED:
            await self._app(scope, receive, send)
            return
        status = 500  # what the server answers where the application raised

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        span = self._tracing.received(f"POST {scope['path']}", self._clock.now(), _context_in(scope))
        token = _request.set(span.context)
        try:
            await self._app(scope, receive, noting)
        finally:
            _request.reset(token)
            attributes = {"http.request.method": "POST", "http.route": scope["path"]}
            span.end(
                self._clock.now(),
                {**attributes, "http.response.status_code": status},
                str(status) if status >= 500 else "",
            )


def traced(publisher: Publisher, tracing: Tracing, clock: Clock) -> Publisher:
    """That publisher, with its publishes traced."""
    return cast(Publisher, TracedPublisher(publisher, tracing, clock))


class TracedPublisher:
    """A ``Publisher``: what is published within a traced request takes its trace along, the rest is as it was."""

    def __init__(self, publisher: Publisher, tracing: Tracing, clock: Clock) -> None:
        self._publisher = publisher
        self._tracing = tracing
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        """All else that a publisher can do."""
        return getattr(self._publisher, name)

    async def publish(self, spec: JobSpec, created_at: float, trace: TraceContext = NO_TRACE) -> None:
        """See the port."""
        within = _request.get()
        if within is None:
            # Put back from the outbox or the dead letters: its request is over. Its attempts have a trace of their own.
            await self._publisher.publish(spec, created_at, trace)
            return
        span = self._tracing.publishing(self._clock.now(), within, spec.id, spec.model)
        error = "unconfirmed"
        try:
            await self._publisher.publish(spec, created_at, span.context)
            error = ""
        finally:
            span.end(self._clock.now(), error=error)


def _context_in(scope: Scope) -> TraceContext:
    return {_HEADERS[name]: value.decode("latin-1") for name, value in scope["headers"] if name in _HEADERS}
