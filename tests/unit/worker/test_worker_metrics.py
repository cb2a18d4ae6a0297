"""The worker's metrics, read as Prometheus reads them."""

import math

import pytest
from prometheus_client.parser import text_string_to_metric_families

from affinity.fleet import Gpu, Residency, ResidencyState, WorkerReport
from affinity.job import StartKind
from worker.metrics import WorkerMetrics


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
