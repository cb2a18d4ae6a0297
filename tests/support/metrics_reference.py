"""docs/metrics.md: written from the metrics themselves. ``python -m tests.support.metrics_reference`` after a change.

Both services' metrics are fed one of everything, and what Prometheus would see is put into a table.
"""

from pathlib import Path

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from affinity.fleet import Gpu, Residency, ResidencyState, WorkerReport
from affinity.job import StartKind
from dispatcher.metrics import BrokerGauges, DispatcherMetrics, StoreGauges
from worker.metrics import WorkerMetrics

FILE = Path(__file__).parents[2] / "docs" / "metrics.md"

_HEAD = """\
# Metrics

Written by `python -m tests.support.metrics_reference` from the code; a test keeps it in step. Dispatcher and workers
each answer `GET /metrics` without a key. What uses them: the dashboards and rules in [deploy](../deploy),
[slo.md](slo.md), [runbook.md](runbook.md).

* **Labels by model are bounded.** The first `AFFINITY_METRICS_MODELS` models of the catalogue (200; pinned ones first,
  then by name) have series of their own; all others, unknown names included, share `model="other"`. Every process makes
  the same choice.
* **Gauges of the dispatcher tell what is in the store and in the broker**, so several dispatchers tell the same: join
  them with `max`.
* **What is gone leaves no series.** A model that was evicted, a worker that left, and one whose reports have stopped
  for as long as its lease. Counters stay until their process ends.
* Names that end in `_total` are counters; histograms have `_bucket`, `_sum` and `_count`.
"""


def document() -> str:
    """The whole file."""
    tables = [("Dispatcher", _dispatcher()), ("Worker", _worker())]
    return _HEAD + "".join(f"\n## {title}\n\n{_table(text)}" for title, text in tables)


def _table(exposition: str) -> str:
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for family in sorted(text_string_to_metric_families(exposition), key=lambda one: one.name):
        if not family.name.endswith("_created"):
            labels = ", ".join(f"`{name}`" for name in _labels(family))
            name = f"{family.name}_total" if family.type == "counter" else family.name
            rows.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join(rows) + "\n"


def _labels(family: Metric) -> list[str]:
    return sorted({name for sample in family.samples for name in sample.labels} - {"le"})


def _dispatcher() -> str:
    metrics = DispatcherMetrics(["m"])
    metrics.requested("POST", "/jobs", 202, 0.1)
    one = {"m": 1}
    store = StoreGauges(one, {"m": 1.0}, one, {"m": False}, {"w": True}, {"job_failed": 1}, gpu_s={"acme": 1.0})
    return metrics.render(store, BrokerGauges(0, 0)).decode()


def _worker() -> str:
    metrics = WorkerMetrics()
    metrics.hoards("w", lambda: 0)
    metrics.loaded("w", "m", "disk", "first-copy", 1.0)
    metrics.evicted("w", "m", "room")
    metrics.loaded("w", "m", "disk", "first-copy", 1.0)
    metrics.batch_began("w", "m", cold=False)
    metrics.batch_ended("w")
    metrics.served("m", StartKind.COLD, 1.0, 1.0, 1.0)
    metrics.failed("m", "job_failed")
    metrics.gave_up("m", "job_failed")
    metrics.retried("m", "executor_died")
    metrics.claim_lost("w")
    metrics.handed_back("w", 1)
    metrics.cancelled("m", "stopped")
    resident = Residency("m", ResidencyState.READY, 1, 0.0, 0.0)
    metrics.report(WorkerReport("w", "n", 1, 1, 0.0, Gpu("g", 0, "H100", 2), (resident,)))
    return metrics.exposition().decode()


if __name__ == "__main__":
    FILE.write_text(document(), encoding="utf-8")
