"""Tenants share the GPUs' time by their weights, real servers and processes: nobody waits for another's backlog."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pika
import pytest
import redis

from affinity.topology import Keys, Topology
from tests.support.system import System, running_system, until

TENANTS = {"bulk": 1.0, "even": 1.0, "gold": 3.0}

CATALOG = """
[[model]]
name = "shared"
runtime = "synthetic"
source = "synthetic"
vram_gib = 1.0
max_batch = 4
timeout_s = 30
options = { load_s = 0.2, exec_s = 0.04 }

[[model]]
name = "other"
runtime = "synthetic"
source = "synthetic"
vram_gib = 1.0
max_batch = 1
timeout_s = 30
options = { load_s = 0.2, exec_s = 0.02 }

[[model]]
name = "slow-to-load"
runtime = "synthetic"
source = "synthetic"
vram_gib = 1.0
max_batch = 1
timeout_s = 30
options = { load_s = 1.5, exec_s = 0.01 }
"""


def key(tenant: str) -> dict[str, str]:
    return {"X-API-Key": f"{tenant}-key"}


@pytest.fixture(scope="module")
def system(rabbitmq_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A dispatcher with three tenants and an operator, and one worker."""
    path = tmp_path_factory.mktemp("shares")
    (path / "catalog.toml").write_text(CATALOG)
    blocks = [
        f"[[tenant]]\nname = '{name}'\nkeys = ['{hashed(name)}']\nshare = {share}\n" for name, share in TENANTS.items()
    ]
    (path / "keys").write_text("\n".join([*blocks, f"[[operator]]\nname = 'ops'\nkeys = ['{hashed('ops')}']\n"]))
    settings = {
        "MODELS_CATALOG": str(path / "catalog.toml"),
        "AFFINITY_API_KEYS_FILE": str(path / "keys"),
        "WORKER_SIMULATED_VRAM_GIB": "8",
    }
    with running_system(rabbitmq_url, redis_url, "shares", path, **settings) as running:
        running.http.headers.update(key("ops"))
        running.start_worker("w1")
        yield running


def hashed(tenant: str) -> str:
    return hashlib.sha256(f"{tenant}-key".encode()).hexdigest()


def submit(system: System, tenant: str, model: str, count: int) -> list[str]:
    """Ids of so many jobs."""
    answer = system.http.post(
        "/jobs/batch", json={"jobs": [{"model": model, "input": {"n": n}} for n in range(count)]}, headers=key(tenant)
    )
    assert answer.json()["accepted"] == count, answer.text[:500]
    return [job["id"] for job in answer.json()["jobs"]]


def wait_for(system: System, job_ids: list[str]) -> list[dict[str, Any]]:
    return [system.ended(job_id, 60.0) for job_id in job_ids]


def queued(system: System, tenant: str) -> int:
    with redis.Redis.from_url(system.redis_url) as client:
        return int(client.zcard(Keys(system.namespace).tenant_index(tenant, "queued")))


def charged(system: System) -> dict[str, float]:
    """All GPU seconds ever charged."""
    with redis.Redis.from_url(system.redis_url, decode_responses=True) as client:
        return {name: float(text.split()[2]) for name, text in client.hgetall(Keys(system.namespace).used).items()}


def forget_accounts(system: System) -> None:
    with redis.Redis.from_url(system.redis_url) as client:
        client.delete(Keys(system.namespace).used)


def contest(system: System, first: str, second: str, count: int) -> tuple[float, float]:
    """GPU seconds of each, from nothing to when one of them had no more jobs waiting."""
    forget_accounts(system)
    ids = submit(system, first, "shared", count)
    ids += submit(system, second, "other", count // 4) + submit(system, second, "shared", count)
    until(lambda: not (queued(system, first) and queued(system, second)), "one of them has no more jobs waiting")
    after = charged(system)
    for job_id in ids:
        system.http.delete(f"/jobs/{job_id}")
    until(lambda: not system.http.get("/jobs?state=queued").json()["jobs"], "nothing waits")
    until(lambda: not system.http.get("/jobs?state=running").json()["jobs"], "nothing runs")
    return after[first], after[second]


def test_a_few_jobs_do_not_wait_for_somebody_elses_backlog(system: System):
    wait_for(system, submit(system, "bulk", "shared", 1))
    submit(system, "bulk", "shared", 300)
    few = wait_for(system, submit(system, "even", "shared", 3))
    left = queued(system, "bulk")
    assert left > 200, "they came before most of a backlog that was there before them"
    assert max(job["wait_s"] for job in few) < 1.0
    until(lambda: not queued(system, "bulk"), "the backlog has been served")
    assert not system.http.get("/jobs?state=failed").json()["jobs"]


@pytest.mark.parametrize(("second", "share"), [("even", 1.0), ("gold", 3.0)])
def test_gpu_seconds_are_shared_by_weight_while_both_have_jobs_waiting(system: System, second: str, share: float):
    bulk_s, second_s = contest(system, "bulk", second, 160)
    assert bulk_s > 0.5
    assert second_s / bulk_s == pytest.approx(share, rel=0.15)


def test_whoever_causes_a_load_is_charged_for_it(system: System):
    forget_accounts(system)
    wait_for(system, submit(system, "even", "slow-to-load", 1))
    until(lambda: charged(system).get("even", 0.0) > 1.0, "the load is charged")
    assert charged(system)["even"] == pytest.approx(1.5, rel=0.3)
    assert charged(system).get("bulk", 0.0) == 0.0


def test_jobs_without_a_tenant_keep_their_queue_and_their_key(system: System):
    backlog = submit(system, "bulk", "shared", 200)
    with pika.BlockingConnection(pika.URLParameters(system.rabbitmq_url)) as connection:
        channel = connection.channel()
        channel.basic_publish(
            Topology(system.namespace).jobs_exchange,
            "shared",
            json.dumps({"input": {}}).encode(),
            pika.BasicProperties(message_id="foreign-1", delivery_mode=2),
        )
        named = {"id": "foreign-2", "input": {}, "tenant": "even"}
        channel.basic_publish(
            Topology(system.namespace).jobs_exchange,
            "shared",
            json.dumps(named).encode(),
            pika.BasicProperties(message_id="foreign-2", delivery_mode=2),
        )
    until(lambda: "state" in system.job("foreign-1"), "it is known")
    ended = wait_for(system, ["foreign-1", "foreign-2"])
    assert [job["state"] for job in ended] == ["succeeded", "succeeded"]
    assert queued(system, "bulk") > 0, "they took their turn"
    for job_id in backlog:
        system.http.delete(f"/jobs/{job_id}")


def test_a_lane_leaves_with_its_model_and_bindings_go_with_the_worker(system: System):
    wait_for(system, submit(system, "even", "shared", 2))
    report = Keys(system.namespace).report("w1")
    with redis.Redis.from_url(system.redis_url, decode_responses=True) as client:
        until(lambda: "shared@even" in json.loads(client.get(report) or "{}").get("owed", ()), "the lane is bound")
    with system.watched_fallback() as ids:
        wait_for(system, submit(system, "even", "shared", 2))
        assert ids() == [], "from then on its jobs come straight"
    system.workers["w1"].stop()
    with system.watched_fallback() as ids:
        (job_id,) = submit(system, "even", "shared", 1)
        until(lambda: job_id in ids(), "nobody has its lane bound any more")
    system.start_worker("w2")
    assert system.ended(job_id)["worker"] == "w2"
