"""A collector of traces: takes OTLP over HTTP as a real one does, and keeps the spans."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, slots=True)
class SeenSpan:
    """Ids in hexadecimal, instants in epoch seconds; ``links`` are the ids of spans."""

    service: str
    name: str
    kind: int
    trace: str
    span: str
    parent: str
    begin: float
    end: float
    failed: bool
    attributes: dict[str, str]
    links: tuple[str, ...]


@dataclass(slots=True)
class Collector:
    """``spans`` in order of arrival, ``raw`` is all that was sent."""

    url: str = ""
    spans: list[SeenSpan] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)

    def of(self, trace: str) -> dict[str, SeenSpan]:
        """A trace's spans by name; those of the later attempts as ``attempt 2``, ``wait 2``, ..."""
        mine = sorted((span for span in self.spans if span.trace == trace), key=lambda span: span.begin)
        attempts = [span.span for span in mine if span.name == "attempt"]
        found = {}
        for span in mine:
            own = span.span if span.name == "attempt" else span.parent
            number = attempts.index(own) + 1 if own in attempts else 1
            found[span.name if number == 1 else f"{span.name} {number}"] = span
        return found

    def take(self, body: bytes) -> None:
        """One export."""
        self.raw.append(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    values = {
                        each.key: each.value.string_value or str(each.value.int_value) for each in span.attributes
                    }
                    self.spans.append(
                        SeenSpan(
                            service=named["service.name"],
                            name=span.name,
                            kind=span.kind,
                            trace=span.trace_id.hex(),
                            span=span.span_id.hex(),
                            parent=span.parent_span_id.hex(),
                            begin=span.start_time_unix_nano / 1e9,
                            end=span.end_time_unix_nano / 1e9,
                            failed=span.status.code == 2,
                            attributes=values,
                            links=tuple(link.span_id.hex() for link in span.links),
                        )
                    )


@contextmanager
def collector() -> Iterator[Collector]:
    """One that listens on a free port."""
    found = Collector()

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            found.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Nothing to say."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
