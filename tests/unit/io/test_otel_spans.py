"""Spans of attempts as OpenTelemetry has them: parents, links and instants, without a collector."""

import subprocess
import sys
from dataclasses import replace

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from affinity.io.otel import open_tracing
from affinity.io.otel_spans import NamedIds, SpanTeller
from affinity.job import Job, JobError, JobSpec, JobState, StartKind
from affinity.tracing import NO_TRACE, QUEUED_AT, EndedAttempt, context_in

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
JOB = Job(JobSpec("j1", "m", {}), JobState.RUNNING, created_at=100.0, attempts=1)
ENDED = EndedAttempt(JOB, NO_TRACE, "w1", started_at=103.0, ended_at=105.0, load_s=2.0, exec_s=1.5)


class Worker:
    """A process that traces; another has another generator of ids."""

    def __init__(self) -> None:
        ids, self._seen = NamedIds(), InMemorySpanExporter()
        provider = TracerProvider(id_generator=ids, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._seen))
        self.teller = SpanTeller(provider, ids)

    def tell(self, ended: EndedAttempt) -> dict[str, ReadableSpan]:
        """An attempt's spans by name."""
        self._seen.clear()
        self.teller.attempted(ended)
        return {span.name: span for span in self._seen.get_finished_spans()}


def ids(span: ReadableSpan) -> tuple[int, int]:
    return span.context.trace_id, span.context.span_id


def instants(span: ReadableSpan) -> tuple[float, float]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time / 1e9, span.end_time / 1e9


def test_an_attempt_is_its_wait_its_load_and_its_time_on_the_gpu() -> None:
    spans = Worker().tell(replace(ENDED, context={"traceparent": PARENT}, start=StartKind.COLD))
    assert {name: instants(span) for name, span in spans.items()} == {
        "attempt": (100.0, 105.0),
        "wait": (100.0, 101.0),
        "load": (101.0, 103.0),
        "exec": (103.0, 104.5),
    }
    assert {f"{span.context.trace_id:032x}" for span in spans.values()} == {TRACE}
    assert spans["attempt"].parent is not None
    assert spans["attempt"].parent.span_id == 0xB7AD6B7169203331


def test_each_attempt_is_linked_to_the_one_before_it_on_another_worker() -> None:
    first = Worker().tell(replace(ENDED, exec_s=None, error=JobError("job_timeout", "too long")))["attempt"]
    lost = replace(JOB, attempts=1, losses=1)
    second = Worker().tell(replace(ENDED, job=lost))["attempt"]
    third = Worker().tell(replace(ENDED, job=replace(lost, attempts=2)))["attempt"]
    assert [link.context.span_id for link in second.links] == [first.context.span_id]
    assert [link.context.span_id for link in third.links] == [second.context.span_id]
    assert len({ids(span)[0] for span in (first, second, third)}) == 1, "untraced, and one trace all the same"
    assert first.status.is_ok is False
    assert (first.links, second.status.is_ok) == ((), True)


def test_another_life_and_another_job_of_that_id_are_other_traces() -> None:
    worker = Worker()
    spans = [
        worker.tell(replace(ENDED, job=job))["attempt"]
        for job in (JOB, replace(JOB, created_at=200.0), replace(JOB, spec=JobSpec("j2", "m", {})))
    ]
    assert len({ids(span)[0] for span in spans}) == 3
    again = worker.tell(replace(ENDED, job=replace(JOB, life=1), context={"traceparent": PARENT}))["attempt"]
    assert again.context.span_id not in {span.context.span_id for span in spans}


def test_a_trace_that_its_caller_did_not_sample_is_not_told() -> None:
    worker = Worker()
    assert worker.tell(replace(ENDED, context={"traceparent": PARENT.removesuffix("01") + "00"})) == {}
    span = worker.teller.publishing(1.0, {"traceparent": PARENT.removesuffix("01") + "00"}, "j1", "m")
    assert span.context["traceparent"].startswith(f"00-{TRACE}")
    assert span.context["traceparent"].endswith("-00"), "nor by anybody who gets it next"


@pytest.mark.parametrize("header", ["", "00-zz", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "\x00" * 5000])
def test_a_header_that_is_none_is_as_good_as_no_header(header: str) -> None:
    assert set(Worker().tell(replace(ENDED, context={"traceparent": header}))) == {"attempt", "wait", "load", "exec"}


def test_of_a_messages_headers_only_text_is_taken() -> None:
    assert context_in({"traceparent": PARENT, "tracestate": b"x", "other": "y"}) == {"traceparent": PARENT}
    assert context_in({"traceparent": 7}) is NO_TRACE


@pytest.mark.parametrize(
    ("said", "began"),
    [("102.5", 102.5), ("later", 101.0), ("nan", 101.0), ("-inf", 101.0), ("1e9", 101.0), ("7", 101.0)],
)
def test_the_wait_of_a_retry_begins_when_it_was_put_back_if_that_is_known(said: str, began: float) -> None:
    again = replace(ENDED, job=replace(JOB, attempts=2), context={QUEUED_AT: said})
    assert again.queued_at == began
    assert instants(Worker().tell(again)["attempt"])[0] == began


def test_no_endpoint_no_traces() -> None:
    assert open_tracing(None, "worker") is None
    assert open_tracing("", "dispatcher") is None


@pytest.mark.parametrize("service", ["dispatcher", "worker"])
def test_a_service_that_is_to_trace_and_cannot_says_what_to_install(service: str) -> None:
    start = (
        "import os, runpy, sys; sys.modules['opentelemetry.sdk.trace'] = None; "
        "os.environ |= {'OTEL_EXPORTER_OTLP_ENDPOINT': 'http://x', 'WORKER_GPU': 'simulated'}; "
        f"runpy.run_module('{service}', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'affinity-dispatcher[tracing]'" in done.stderr
