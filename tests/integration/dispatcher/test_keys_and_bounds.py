"""Keys that change while the process runs, and bounds on real queues, with real servers."""

import asyncio
import hashlib
import json
import signal
import time
from pathlib import Path

import pytest

from affinity.io.job_store import RedisJobStore
from affinity.io.redis_client import RedisLink
from affinity.job import Attempt
from affinity.topology import Keys
from tests.integration.dispatcher.test_start_and_stop import run
from tests.support.dispatcher_process import DispatcherProcess, StartDispatcher


def keys_file(path: Path, **tenants: str) -> Path:
    """One key each."""
    blocks = [
        f"[[tenant]]\nname = '{name}'\nkeys = ['{hashlib.sha256(key.encode()).hexdigest()}']\nmax_queued = 5\n"
        for name, key in tenants.items()
    ]
    path.write_text("\n".join(blocks))
    return path


def with_key(key: str) -> dict[str, str]:
    return {"X-API-Key": key}


async def ready(dispatcher: DispatcherProcess) -> DispatcherProcess:
    """Once it takes jobs."""
    for _ in range(600):
        if (await dispatcher.http.get("/health/ready")).status_code == 200:
            return dispatcher
        await asyncio.sleep(0.05)
    pytest.fail("the dispatcher did not become ready")


@pytest.mark.parametrize("told", [True, False])
async def test_keys_change_without_a_restart(start_dispatcher: StartDispatcher, tmp_path: Path, told: bool):
    path = keys_file(tmp_path / "keys", acme="old-key")
    dispatcher = await start_dispatcher(AFFINITY_API_KEYS_FILE=str(path))
    assert (await dispatcher.http.get("/jobs", headers=with_key("old-key"))).status_code == 200

    keys_file(path, acme="new-key")
    if told:
        dispatcher.process.send_signal(signal.SIGHUP)
    await dispatcher.logged("keys.read", keys=1)

    assert (await dispatcher.http.get("/jobs", headers=with_key("new-key"))).status_code == 200
    assert (await dispatcher.http.get("/jobs", headers=with_key("old-key"))).status_code == 401
    assert await dispatcher.terminate() == 0
    assert "-key" not in json.dumps(dispatcher.log)


async def test_a_bad_file_at_a_change_is_logged_and_the_old_keys_open(
    start_dispatcher: StartDispatcher, tmp_path: Path
):
    path = keys_file(tmp_path / "keys", acme="a-key")
    dispatcher = await start_dispatcher(AFFINITY_API_KEYS_FILE=str(path))

    path.write_text("[[tenant]]\nname = 'acme'\nkeys = ['a-key']\n")
    line = await dispatcher.logged("keys.unreadable")

    assert "tenant.0.keys.0" in line["reason"]
    assert (await dispatcher.http.get("/jobs", headers=with_key("a-key"))).status_code == 200


def test_a_bad_file_at_the_start_is_a_bad_setting(tmp_path: Path):
    (tmp_path / "keys").write_text("[[tenant]]\nname = 'acme'\nkeys = ['sekrit']\n")

    ended = run("-m", "dispatcher", AFFINITY_API_KEYS_FILE=str(tmp_path / "keys"))

    assert ended.returncode == 2
    assert "AFFINITY_API_KEYS_FILE: tenant.0.keys.0" in ended.stderr
    assert "sekrit" not in ended.stderr


async def test_a_crowd_of_one_tenant_is_bounded_in_all_dispatchers_and_another_tenant_gets_through(
    start_dispatcher: StartDispatcher, tmp_path: Path
):
    path = keys_file(tmp_path / "keys", acme="a-key", other="o-key")
    fleet = [await ready(await start_dispatcher(AFFINITY_API_KEYS_FILE=str(path))) for _ in range(2)]

    async def post(number: int, key: str) -> int:
        body = {"model": "echo", "input": number}
        return (await fleet[number % 2].http.post("/jobs", json=body, headers=with_key(key))).status_code

    statuses = await asyncio.gather(*(post(number, "a-key") for number in range(40)))

    assert sorted(statuses) == [202] * 5 + [429] * 35
    assert await post(0, "o-key") == 202
    found = (await fleet[0].http.get("/jobs", headers=with_key("a-key"))).json()["jobs"]
    assert len(found) == 5


async def test_who_is_refused_comes_back_as_fast_as_the_queue_empties(
    start_dispatcher: StartDispatcher, redis_url: str, namespace: str
):
    dispatcher = await ready(await start_dispatcher(DISPATCHER_MAX_QUEUED_PER_MODEL="30"))
    bodies = [{"id": f"j{number}", "model": "echo", "input": number} for number in range(30)]
    for body in bodies:
        assert (await dispatcher.http.post("/jobs", json=body)).status_code == 202
    link = RedisLink(redis_url)
    store = RedisJobStore(link, Keys(namespace))
    began_s = time.monotonic()
    for body in bodies[:10]:  # About two a second start, as workers would make them.
        job = await store.get(str(body["id"]))
        await store.start([(Attempt(job.id, f"token {job.id}", "w1", 1), job.spec, job.created_at)], time.time())
        await asyncio.sleep(0.5)
    took_s = time.monotonic() - began_s
    await link.close()

    for number in range(10):
        assert (await dispatcher.http.post("/jobs", json={"model": "echo", "input": number})).status_code == 202
    refused = [await dispatcher.http.post("/jobs", json={"model": "echo", "input": 0}) for _ in range(20)]

    assert {answer.status_code for answer in refused} == {429}
    last_s = int(refused[-1].headers["retry-after"])
    # Twenty in line for two places a second; the first sample may be from before the queue began to empty.
    assert 20 * took_s / 10 * 0.6 <= last_s <= 20 * took_s / 10 * 2.5
    assert int(refused[0].headers["retry-after"]) <= 3
