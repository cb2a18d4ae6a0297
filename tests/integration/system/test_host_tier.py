"""The host tier with real processes: what left the GPU comes back from the host's memory, within its bound."""

import httpx
import redis
from prometheus_client.parser import text_string_to_metric_families

from affinity.fleet import GIB, WorkerReport
from affinity.topology import Keys
from affinity.wire import decode_report
from tests.support.system import System, until

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


def test_an_evicted_model_comes_back_from_the_host_faster_than_from_disk_and_the_fleet_knows(system: System) -> None:
    system.start_worker("w1", WORKER_HOST_CACHE_GIB="32")
    first = system.run("a", {})
    system.run("b", {})
    until(lambda: report(system).cached == ("a",), "a is reported as cached")
    again = system.run("a", {})
    assert (first["start"], again["start"]) == ("cold", "cold")
    assert first["load_s"] >= LOAD_S
    assert again["load_s"] < LOAD_S / 2
    assert (loads(system, "a"), loads(system, "b")) == ((1, 1), (1, 0))
    assert [event["tier"] for event in system.events("model.resident")] == ["disk", "disk", "host"]
    until(lambda: set(report(system).cached) == {"a", "b"}, "both have their weights on the host")
    assert sample(system, "host_cache_bytes") == 32 * GIB
    until(lambda: report(system).gpu.used_bytes == 16 * GIB, "what b had on the GPU is free")


def test_the_cache_keeps_to_its_bound_and_drops_what_was_evicted_longest_ago(system: System) -> None:
    system.start_worker("w1", WORKER_HOST_CACHE_GIB="26")
    for model in ("a", "b", "c"):
        system.run(model, {})
    until(lambda: report(system).cached == ("b",), "b has pushed a out")
    assert sample(system, "host_cache_bytes") == 16 * GIB
    system.run("a", {})
    assert loads(system, "a") == (2, 0)


def test_without_the_setting_nothing_is_kept(system: System) -> None:
    system.start_worker("w1")
    for model in ("a", "b", "a"):
        system.run(model, {})
    assert (loads(system, "a"), report(system).cached, sample(system, "host_cache_bytes")) == ((2, 0), (), 0)


def test_the_death_of_the_executor_empties_the_cache(system: System) -> None:
    system.start_worker("w1", WORKER_HOST_CACHE_GIB="32")
    system.run("a", {})
    system.run("b", {})
    until(lambda: report(system).cached == ("a",), "a is cached")
    assert system.run("b", {"fail": "crash"}, max_attempts=1)["state"] == "failed"
    until(lambda: report(system).cached == () and not report(system).residents, "all of it is gone, and said so")
    assert sample(system, "host_cache_bytes") == 0
    assert system.run("a", {})["state"] == "succeeded"
    assert loads(system, "a") == (2, 0)
