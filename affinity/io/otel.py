"""Whether traces are told at all. The only module that others import for it: OpenTelemetry is an optional package."""

from affinity.tracing import Tracing

ADVICE = (
    "OTEL_EXPORTER_OTLP_ENDPOINT asks for traces, but OpenTelemetry is not installed: "
    "pip install 'affinity-dispatcher[tracing]', or unset it"
)


class TracingUnavailable(Exception):
    """Traces are asked for and cannot be told. The message says what to do."""


def open_tracing(endpoint: str | None, service: str) -> Tracing | None:
    """Where to tell traces; ``None`` where no ``endpoint`` asks for any. ``service`` is ``dispatcher`` or ``worker``.

    The address itself, and everything else that the standard variables ``OTEL_*`` say, is read by OpenTelemetry. Raises
    ``TracingUnavailable``.
    """
    if not endpoint:
        return None
    try:
        from affinity.io.otel_spans import SpanTeller  # noqa: PLC0415 - it imports what may not be there
    except ImportError as error:
        raise TracingUnavailable(f"{ADVICE} ({error})") from error
    return SpanTeller.exporting(service)
