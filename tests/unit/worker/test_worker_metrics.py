"""The worker's metrics, read as Prometheus reads them."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from affinity.fleet import Gpu, Residency, ResidencyState, WorkerReport
from affinity.job import StartKind
from affinity.series import ModelLabels
from worker.metrics import WorkerMetrics
from worker.tally import Tallies


def report(worker: str = "w", *models: tuple[str, int], utilization: float | None = 0.5) -> WorkerReport:
    residents = tuple(Residency(model, ResidencyState.READY, size, 0.0, 0.0) for model, size in models)
    gpu = Gpu(f"GPU-{worker}", 0, "H100", 1000, used_bytes=300, foreign_bytes=100, utilization=utilization)
    return WorkerReport(worker, "node", 1, 1, 0.0, gpu, residents)


def samples(metrics: WorkerMetrics, name: str) -> dict[tuple[str, ...], float]:
    """Values by labels' values, in the order of the labels' names."""
    families = text_string_to_metric_families(metrics.exposition().decode())
    found = [sample for family in families for sample in family.samples if sample.name == name]
    return {tuple(value for _, value in sorted(sample.labels.items())): sample.value for sample in found}


def test_a_report_sets_what_prometheus_sees_of_the_gpu():
    metrics = WorkerMetrics()
    metrics.report(report("w", ("a", 200)), host_cache_bytes=70)
    assert samples(metrics, "host_cache_bytes") == {("GPU-w", "w"): 70}
    for name, value in (("total", 1000), ("used", 300), ("free", 700), ("foreign", 100)):
        assert samples(metrics, f"gpu_memory_{name}_bytes") == {("GPU-w", "w"): value}
    assert samples(metrics, "gpu_utilization_ratio") == {("GPU-w", "w"): 0.5}
    assert samples(metrics, "model_resident_bytes") == {("GPU-w", "a", "w"): 200}
    assert samples(metrics, "worker_up") == {("w",): 1}


def test_a_model_that_left_takes_its_series_with_it_and_other_workers_keep_theirs():
    metrics = WorkerMetrics()
    metrics.report(report("w", ("a", 200), ("b", 50)))
    metrics.report(report("v", ("a", 10)))
    metrics.report(report("w", ("b", 60)))
    assert samples(metrics, "model_resident_bytes") == {("GPU-w", "b", "w"): 60, ("GPU-v", "a", "v"): 10}


def test_a_utilization_nobody_knows_is_not_the_last_known_one():
    metrics = WorkerMetrics()
    metrics.report(report("w"))
    metrics.report(report("w", utilization=None))
    assert math.isnan(samples(metrics, "gpu_utilization_ratio")["GPU-w", "w"])


def test_a_worker_that_is_gone_leaves_only_that_it_is_down():
    metrics = WorkerMetrics()
    metrics.report(report("w", ("a", 200)))
    metrics.report(report("v", ("a", 10)))
    metrics.gone("w")
    assert samples(metrics, "worker_up") == {("w",): 0, ("v",): 1}
    assert samples(metrics, "model_resident_bytes") == {("GPU-v", "a", "v"): 10}
    assert samples(metrics, "gpu_memory_used_bytes") == {("GPU-v", "v"): 300}
    assert samples(metrics, "host_cache_bytes") == {("GPU-v", "v"): 0}
    metrics.report(report("w", ("b", 1)))
    assert samples(metrics, "worker_up")[("w",)] == 1


def test_a_worker_may_go_before_its_first_report():
    metrics = WorkerMetrics()
    metrics.gone("w")
    assert samples(metrics, "worker_up") == {("w",): 0}


def test_jobs_are_counted_by_start_and_timed_by_phase():
    metrics = WorkerMetrics()
    metrics.served("m", StartKind.COLD, wait_s=3.0, load_s=2.0, exec_s=0.5)
    metrics.served("m", StartKind.WARM, wait_s=1.0, load_s=0.0, exec_s=0.5)
    assert samples(metrics, "messages_consumed_total") == {("m", "cold"): 1, ("m", "warm"): 1}
    assert samples(metrics, "message_processing_duration_seconds_sum") == {
        ("m", "wait"): 4.0,
        ("m", "load"): 2.0,
        ("m", "exec"): 1.0,
    }
    counts = samples(metrics, "message_processing_duration_seconds_count")
    assert counts["m", "load"] == 1, "a warm start has no load, and a zero would flatter the average"


def test_errors_loads_and_evictions_are_counted_under_their_public_names():
    metrics = WorkerMetrics()
    metrics.failed("m", "job_timeout")
    metrics.loaded("w", "m", "disk", "demand", 1.5)
    metrics.evicted("w", "m", "room")
    assert samples(metrics, "message_processing_errors_total") == {("job_timeout", "m"): 1}
    assert samples(metrics, "model_loads_total") == {("m", "demand", "disk", "w"): 1}
    assert samples(metrics, "model_load_duration_seconds_sum") == {("m", "disk"): 1.5}
    assert samples(metrics, "model_evictions_total") == {("m", "room", "w"): 1}


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("messages_consumed_total", {"model", "start"}),
        ("message_processing_duration_seconds_count", {"model", "phase"}),
        ("message_processing_errors_total", {"model", "code"}),
        ("gpu_memory_total_bytes", {"worker", "gpu"}),
        ("gpu_utilization_ratio", {"worker", "gpu"}),
        ("model_resident_bytes", {"worker", "gpu", "model"}),
        ("model_loads_total", {"worker", "model", "tier", "reason"}),
        ("model_load_duration_seconds_count", {"model", "tier"}),
        ("model_evictions_total", {"worker", "model", "reason"}),
        ("worker_up", {"worker"}),
        ("job_wait_seconds_count", {"start"}),
        ("gpu_seconds_total", {"worker", "gpu", "use"}),
        ("model_resident_state", {"worker", "gpu", "model"}),
    ],
)
def test_labels_are_the_public_ones(name: str, labels: set[str]):
    metrics = WorkerMetrics()
    metrics.served("m", StartKind.COLD, 1.0, 1.0, 1.0)
    metrics.failed("m", "code")
    metrics.loaded("w", "m", "disk", "demand", 1.0)
    metrics.evicted("w", "m", "room")
    metrics.report(report("w", ("a", 1)))
    families = text_string_to_metric_families(metrics.exposition().decode())
    (found,) = [sample for family in families for sample in family.samples if sample.name == name][:1]
    assert set(found.labels) == labels


class Monotonic:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_time_of_a_gpu_is_running_loading_or_neither_and_adds_up():
    clock = Monotonic()
    metrics = WorkerMetrics(monotonic=clock)
    loading = Residency("m", ResidencyState.LOADING, 1, 0.0, 0.0)
    metrics.report(report("w"))
    clock.now += 1.0
    metrics.report(replace(report("w"), residents=(loading,)))
    clock.now += 2.0
    metrics.batch_began("w", "a", cold=True)  # Beside the load: that time is the jobs'.
    clock.now += 4.0
    metrics.report(report("w", ("m", 1)))
    clock.now += 0.5
    metrics.batch_ended("w")
    clock.now += 0.25
    seconds = {use: value for (_, use, _), value in samples(metrics, "gpu_seconds_total").items()}
    assert seconds == {"idle": 1.25, "load": 2.0, "exec": 4.5}
    clock.now += 1.0
    assert samples(metrics, "gpu_seconds_total")["GPU-w", "idle", "w"] == 2.25


def test_a_batch_that_finds_its_model_there_saves_a_load_and_a_reload_soon_after_an_eviction_is_lost():
    clock = Monotonic()
    metrics = WorkerMetrics(monotonic=clock)
    metrics.loaded("w", "m", "disk", "first-copy", 3.0)
    for cold in (True, False, False):
        metrics.batch_began("w", "m", cold)
        metrics.batch_ended("w")
    assert samples(metrics, "affinity_saved_seconds_total") == {("m", "w"): 6.0}
    metrics.evicted("w", "m", "room")
    clock.now += 599.0
    metrics.loaded("w", "m", "host", "first-copy", 0.5)
    metrics.evicted("w", "m", "room")
    clock.now += 601.0
    metrics.loaded("w", "m", "disk", "first-copy", 3.0)
    assert samples(metrics, "affinity_lost_seconds_total") == {("m", "w"): 0.5}


def test_a_worker_that_reports_no_more_is_gone_after_its_lease():
    clock = Monotonic()
    metrics = WorkerMetrics(monotonic=clock)
    metrics.hoards("w", lambda: 3)
    metrics.report(report("w", ("a", 200)))
    clock.now += report("w").lease_s
    assert samples(metrics, "hoarded_deliveries") == {("w",): 3}
    clock.now += 0.1
    assert samples(metrics, "worker_up") == {("w",): 0}
    for name in ("gpu_memory_used_bytes", "model_resident_bytes", "model_resident_state", "hoarded_deliveries"):
        assert samples(metrics, name) == {}
    metrics.report(report("w", ("a", 200)))
    assert samples(metrics, "worker_up") == {("w",): 1}
    assert samples(metrics, "hoarded_deliveries") == {("w",): 3}


def test_models_without_series_of_their_own_are_counted_and_added_together():
    metrics = WorkerMetrics(ModelLabels(["a", "b", "c"], pinned=["c"], most=2))
    for model in ("a", "b", "c", 'no"such\nmodel<b>'):
        metrics.served(model, StartKind.WARM, 0.0, 0.0, 0.0)
    metrics.report(report("w", ("a", 1), ("b", 10), ("x", 100)))
    assert samples(metrics, "messages_consumed_total") == {
        **{(model, "cold"): 0 for model in ("a", "c", "other")},
        ("a", "warm"): 1,
        ("c", "warm"): 1,
        ("other", "warm"): 2,
    }
    assert samples(metrics, "model_resident_bytes") == {("GPU-w", "a", "w"): 1, ("GPU-w", "other", "w"): 110}


def test_a_name_with_quotes_newlines_and_markup_comes_back_as_it_was():
    name = 'a"b\\c\nd<script>'
    metrics = WorkerMetrics()
    metrics.failed(name, "job_failed")
    assert samples(metrics, "message_processing_errors_total") == {("job_failed", name): 1}


@given(st.lists(st.floats(0, 2000) | st.sampled_from([0.001, 0.25, 5.0])), st.text(max_size=8))
def test_a_tally_is_written_as_a_histogram_is(values: list[float], label: str):
    label = label.encode("utf-8", "replace").decode()
    bounds = (0.001, 0.25, 5.0, 60.0)
    registry = CollectorRegistry()
    tallies = Tallies("h", "meaning", ("l",), bounds)
    histogram = Histogram("h", "meaning", ("l",), buckets=bounds, registry=registry)
    tally, child = tallies.labels(label), histogram.labels(label)
    for value in values:
        tally.observe(value)
        child.observe(value)
    (ours,) = text_string_to_metric_families(tallies.text())
    theirs, _ = text_string_to_metric_families(generate_latest(registry).decode())
    assert (ours.name, ours.type, ours.documentation) == (theirs.name, theirs.type, theirs.documentation)
    assert {(s.name, *sorted(s.labels.items()), s.value) for s in ours.samples} == {
        (s.name, *sorted(s.labels.items()), s.value) for s in theirs.samples
    }
