"""A real system under a real Prometheus: every query of a panel, rule or variable gives data.

Or it is listed here as empty, with the reason.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from deploy.local.monitor import Monitor
from deploy.local.ports import free_ports
from tests.support.prometheus import RULE_FILES, RULES, metrics_in, program
from tests.support.system import System, running_system, until

ROOT = Path(__file__).parents[3]
DASHBOARDS = ROOT / "deploy" / "grafana" / "dashboards"
SCRAPE_S = 0.5

# Panels that have no value here, and why.
EMPTY = {"Utilization": "a simulated GPU has no driver that could say, so its series are not numbers"}
MAY_BE_EMPTY = {"Alerts that fire": "whether something of MAY_FIRE does depends on the machine"}
# What alerts read and is not there, and why.
ABSENT = dict.fromkeys(
    ("redis_up", "redis_memory_used_bytes", "redis_memory_max_bytes"),
    "they are a Redis exporter's: a container of the compose file, which does not run here",
) | dict.fromkeys(
    ("rabbitmq_alarms_memory_used_watermark", "rabbitmq_alarms_free_disk_space_watermark"),
    "they are those of a plugin that private brokers do without",
)
MAY_FIRE = {
    "DeadLetters": "a job is made to fail; whether that is 15 minutes after the first scrape depends on nothing here",
    "ErrorBudgetBurn": "five models are loaded for a handful of jobs: the affinity objective is missed on purpose",
    "StoreMisconfigured": "tests may be given a server whose settings are not ours",
    "EventLoopLate": "a test machine may be short of CPU",
    "Thrashing": "loads outweigh so few jobs",
}


@pytest.fixture(scope="module")
def watched(
    rabbitmq_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[System, httpx.Client]]:
    """Jobs of every kind have run, and Prometheus has seen them."""
    program("prometheus")
    folder = tmp_path_factory.mktemp("monitored")
    with running_system(rabbitmq_url, redis_url, f"m{folder.stat().st_ino}", folder) as system:
        system.start_worker("w1", WORKER_SIMULATED_VRAM_GIB="14", WORKER_HOST_CACHE_GIB="1")
        system.start_worker("w2", WORKER_SIMULATED_VRAM_GIB="14")
        monitor = Monitor(folder, str(system.http.base_url), "", system.warden)
        monitor.start({}, 19090, SCRAPE_S)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{monitor.port}", timeout=30.0) as prometheus:
                until(lambda: len(value_of(prometheus, "up == 1")) == 3, "all are scraped")
                run_jobs(system)
                until(lambda: settled(system, prometheus), "Prometheus has seen the last job")
                yield system, prometheus
        finally:
            monitor.stop()


def run_jobs(system: System) -> None:
    for _ in range(2):
        for model in ("synthetic-a", "synthetic-b", "synthetic-c", "synthetic-b", "synthetic-c", "echo", "echo"):
            system.run(model, {})
    assert system.run("synthetic-a", {"fail": "error"}, max_attempts=1)["state"] == "failed"
    assert system.run("synthetic-a", {"fail": "crash"}, max_attempts=2)["state"] == "failed"
    assert system.post("nobody", {}).status_code == 404
    slow = [system.post("echo", {"processing_time": 2}).json()["id"] for _ in range(8)]
    assert system.http.delete(f"/jobs/{slow[-1]}").status_code == 200
    for job_id in slow:
        system.ended(job_id)


def settled(system: System, prometheus: httpx.Client) -> bool:
    """Two scrapes after the last job, and the rules have been evaluated over them."""
    ended = system.http.get("/jobs?limit=500").json()["jobs"]
    counted = sum(float(one["value"][1]) for one in value_of(prometheus, "messages_consumed_total"))
    ran = [job for job in ended if job["state"] in {"succeeded", "failed"}]
    return counted >= len(ran) - 2 and bool(value_of(prometheus, "affinity:hit_ratio:rate5m"))


def value_of(prometheus: httpx.Client, query: str) -> list[dict[str, Any]]:
    answer = prometheus.get("/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", f"{query}: {answer.get('error')}"
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def put_in(expr: str) -> str:
    """A panel's expression as Grafana sends it with everything chosen."""
    return re.sub(r"\$(worker|gpu|model)\b", ".*", expr).replace("$__rate_interval", "1m")


def panels() -> dict[str, list[str]]:
    """Title -> expressions, over all dashboards."""
    found: dict[str, list[str]] = {}
    for path in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            for target in panel.get("targets", ()):
                found.setdefault(f"{path.stem}: {panel['title']}", []).append(target["expr"])
    return found


def in_a_range(prometheus: httpx.Client, expr: str) -> bool:
    """Whether it had a number at any moment of the last 10 minutes: what waits is gone once it has run."""
    ago = float(prometheus.get("/api/v1/query", params={"query": "time()"}).json()["data"]["result"][1])
    asked = {"query": expr, "start": ago - 600, "end": ago, "step": 1}
    answer = prometheus.get("/api/v1/query_range", params=asked).json()
    assert answer["status"] == "success", f"{expr}: {answer.get('error')}"
    return any(value != "NaN" for series in answer["data"]["result"] for _, value in series["values"])


def test_every_panel_has_data_or_a_reason_why_not(watched: tuple[System, httpx.Client]) -> None:
    _, prometheus = watched
    empty = {
        (title, expr) for title, exprs in panels().items() for expr in exprs if not in_a_range(prometheus, put_in(expr))
    }
    assert {title.split(": ")[1] for title, _ in empty} - set(MAY_BE_EMPTY) == set(EMPTY), sorted(empty)


def test_every_recording_has_a_value_and_no_alert_fires_without_a_reason(
    watched: tuple[System, httpx.Client],
) -> None:
    _, prometheus = watched
    documents = [yaml.safe_load((RULES / name).read_text(encoding="utf-8")) for name in RULE_FILES]
    rules = [rule for document in documents for group in document["groups"] for rule in group["rules"]]
    empty = {rule["record"] for rule in rules if "record" in rule and not in_a_range(prometheus, rule["record"])}
    assert empty == set()
    health = prometheus.get("/api/v1/rules").json()["data"]["groups"]
    broken = {rule["name"]: rule["lastError"] for group in health for rule in group["rules"] if rule["health"] == "err"}
    assert broken == {}
    read = {metric for rule in rules if "alert" in rule for metric in metrics_in(rule["expr"])}
    assert {metric for metric in read if not in_a_range(prometheus, metric)} == set(ABSENT)
    firing = {one["metric"]["alertname"] for one in value_of(prometheus, 'ALERTS{alertstate="firing"}')}
    assert firing <= set(MAY_FIRE)


def test_every_variable_has_values(watched: tuple[System, httpx.Client]) -> None:
    _, prometheus = watched
    for metric, label in (("gpu_memory_total_bytes", "worker"), ("gpu_memory_total_bytes", "gpu")):
        assert len({one["metric"][label] for one in value_of(prometheus, metric)}) == 2
    assert "synthetic-a" in {one["metric"]["model"] for one in value_of(prometheus, "model_queue_depth")}


def test_the_time_of_a_gpu_adds_up_to_all_of_it(watched: tuple[System, httpx.Client]) -> None:
    _, prometheus = watched
    for one in value_of(prometheus, "sum by (worker) (rate(gpu_seconds_total[15s]))"):
        assert float(one["value"][1]) == pytest.approx(1.0, abs=0.1), one["metric"]


def test_a_dead_workers_series_go_with_it(watched: tuple[System, httpx.Client]) -> None:
    system, prometheus = watched
    system.workers["w2"].kill()
    until(lambda: not value_of(prometheus, 'gpu_memory_used_bytes{worker="w2"}'), "its memory is no longer told")
    until(lambda: not value_of(prometheus, 'worker_up{worker="w2"}'), "and it is forgotten after its lease")
    until(lambda: value_of(prometheus, "sum(workers_lost_total) >= 1"), "who tidied up has counted it")


def test_make_monitor_prints_addresses_that_answer_and_stops_when_told(
    watched: tuple[System, httpx.Client], tmp_path: Path
) -> None:
    system, _ = watched
    command = [sys.executable, "-m", "deploy.local.monitor", "--url", str(system.http.base_url)]
    with subprocess.Popen(
        [*command, "--directory", str(tmp_path), "--port", "19190"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        try:
            assert running.stdout is not None
            said = [running.stdout.readline() for _ in range(6)]
            alerts = next(line.split()[2] for line in said if " alerts " in line)
            address = alerts.removesuffix("/alerts")
            until(lambda: "affinity-worker" in jobs_up(address), "it scrapes the workers")
        finally:
            running.terminate()
        rest = running.stdout.read()
    assert (running.returncode, rest.splitlines()[-1]) == (0, "[monitor] stopped")


def jobs_up(address: str) -> set[str]:
    with httpx.Client(base_url=address) as prometheus:
        return {one["metric"]["job"] for one in value_of(prometheus, "up == 1")}


def test_make_monitor_says_what_is_missing_where_no_system_runs(tmp_path: Path) -> None:
    program("prometheus")
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "deploy.local.monitor", "--url", f"http://127.0.0.1:{port}"]
    ran = subprocess.run(
        [*command, "--directory", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 1
    assert "Is the system up" in ran.stderr
