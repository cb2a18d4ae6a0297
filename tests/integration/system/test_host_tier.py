"""The host tier with real processes: what left the GPU comes back from the host's memory, within its bound."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis
from prometheus_client.parser import text_string_to_metric_families

from affinity.fleet import GIB, WorkerReport
from affinity.topology import Keys
from affinity.wire import decode_report
from tests.support.system import System, running_system, until

LOAD_S, RELOAD_S = 0.8, 0.05

CATALOGUE = "".join(
    f"""
[[model]]
name = "{name}"
runtime = "synthetic"
vram_gib = {gib}
options = {{ load_s = {LOAD_S}, reload_s = {RELOAD_S} }}
"""
    for name, gib in (("a", 16), ("b", 16), ("c", 10))
)


@pytest.fixture
def fleet(rabbitmq_url: str, redis_url: str, namespace: str, tmp_path: Path) -> Iterator[System]:
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text(CATALOGUE)
    with running_system(rabbitmq_url, redis_url, namespace, tmp_path, MODELS_CATALOG=str(catalogue)) as running:
        yield running


def report(system: System, worker: str = "w1") -> WorkerReport:
    with redis.Redis.from_url(system.redis_url, decode_responses=True) as client:
        return decode_report(str(client.get(Keys(system.namespace).report(worker))))


def sample(system: System, name: str, **labels: str) -> float:
    text = httpx.get(report(system).metrics_url).text
    families = text_string_to_metric_families(text)
    found = [s for family in families for s in family.samples if s.name == name and labels.items() <= s.labels.items()]
    return sum(s.value for s in found)


def loads(system: System, model: str) -> tuple[float, float]:
    """From disk, from the host."""
    disk, host = (sample(system, "model_loads_total", model=model, tier=tier) for tier in ("disk", "host"))
    return disk, host


def test_an_evicted_model_comes_back_from_the_host_faster_than_from_disk_and_the_fleet_knows(fleet: System) -> None:
    fleet.start_worker("w1", WORKER_HOST_CACHE_GIB="32")
    first = fleet.run("a", {})
    fleet.run("b", {})
    until(lambda: report(fleet).cached == ("a",), "a is reported as cached")
    again = fleet.run("a", {})
    assert (first["start"], again["start"]) == ("cold", "cold")
    assert first["load_s"] >= LOAD_S
    assert again["load_s"] < LOAD_S / 2
    assert (loads(fleet, "a"), loads(fleet, "b")) == ((1, 1), (1, 0))
    assert [event["tier"] for event in fleet.events("model.resident")] == ["disk", "disk", "host"]
    until(lambda: set(report(fleet).cached) == {"a", "b"}, "both have their weights on the host")
    assert sample(fleet, "host_cache_bytes") == 32 * GIB
    until(lambda: report(fleet).gpu.used_bytes == 16 * GIB, "what b had on the GPU is free")


def test_the_cache_keeps_to_its_bound_and_drops_what_was_evicted_longest_ago(fleet: System) -> None:
    fleet.start_worker("w1", WORKER_HOST_CACHE_GIB="26")
    for model in ("a", "b", "c"):
        fleet.run(model, {})
    until(lambda: report(fleet).cached == ("b",), "b has pushed a out")
    assert sample(fleet, "host_cache_bytes") == 16 * GIB
    fleet.run("a", {})
    assert loads(fleet, "a") == (2, 0)


def test_without_the_setting_nothing_is_kept(fleet: System) -> None:
    fleet.start_worker("w1")
    for model in ("a", "b", "a"):
        fleet.run(model, {})
    assert (loads(fleet, "a"), report(fleet).cached, sample(fleet, "host_cache_bytes")) == ((2, 0), (), 0)


def test_the_death_of_the_executor_empties_the_cache(fleet: System) -> None:
    fleet.start_worker("w1", WORKER_HOST_CACHE_GIB="32")
    fleet.run("a", {})
    fleet.run("b", {})
    until(lambda: report(fleet).cached == ("a",), "a is cached")
    assert fleet.run("b", {"fail": "crash"}, max_attempts=1)["state"] == "failed"
    until(lambda: report(fleet).cached == () and not report(fleet).residents, "all of it is gone, and said so")
    assert sample(fleet, "host_cache_bytes") == 0
    assert fleet.run("a", {})["state"] == "succeeded"
    assert loads(fleet, "a") == (2, 0)
