"""How the process starts, what stops it from starting, and how it ends."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

from tests.support.dispatcher_process import Gate, StartDispatcher, environment

BAD = {
    "RABBITMQ_URL": "http://user:sekrit@broker",
    "REDIS_URL": "redis://:sekrit@store:port",
    "LOG_LEVEL": "loud",
    "AFFINITY_API_KEYS": "sekrit,",
    "DISPATCHER_PORT": "70000",
}


def run(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment(**settings), capture_output=True, text=True, timeout=60, check=False)


def test_bad_settings_end_the_process_with_exit_2_and_all_are_named():
    ended = run("-m", "dispatcher", **BAD)

    first, *lines = ended.stderr.splitlines()
    assert (ended.returncode, first) == (2, f"{len(BAD)} bad settings:")
    assert {line.split(":")[0].strip() for line in lines} == set(BAD)
    assert "sekrit" not in ended.stdout + ended.stderr


def test_an_empty_variable_counts_as_not_set():
    program = "from dispatcher.settings import *; s = DispatcherSettings(); print(s.dispatcher_port, s.api_key_hashes)"

    shown = run("-c", program, DISPATCHER_PORT="", AFFINITY_API_KEYS="", RABBITMQ_URL="")

    assert shown.stdout == "5000 ()\n"


def test_a_broken_catalogue_is_exit_2_and_says_what_to_mend(tmp_path: Path):
    catalog = tmp_path / "catalog.toml"
    catalog.write_text('[[model]]\nname = "m"\nruntime = "steam"\n')

    ended = run("-m", "dispatcher", MODELS_CATALOG=str(catalog))

    assert ended.returncode == 2
    assert "runtime" in ended.stderr
    assert str(catalog) in ended.stderr


def test_a_port_that_is_taken_is_exit_2_and_names_the_settings():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = run("-m", "dispatcher", DISPATCHER_PORT=str(taken.getsockname()[1]))

    assert ended.returncode == 2
    assert "DISPATCHER_PORT" in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_sigterm_answers_waiting_clients_and_exits_0(start_dispatcher: StartDispatcher):
    running = await start_dispatcher(LOG_LEVEL="debug")
    await running.logged("broker.connected")
    job = {"model": "echo", "input": 1, "id": "j1"}
    asking = asyncio.create_task(running.http.post("/jobs", json=job, headers={"Prefer": "wait=60"}))
    await running.logged("job.published")

    code = await running.terminate()

    assert (await asking).status_code == 202
    assert code == 0


async def test_it_starts_and_says_what_is_away_and_works_once_all_is_there(
    start_dispatcher: StartDispatcher, gates: dict[str, Gate]
):
    broker, store = gates["broker"], gates["store"]
    running = await start_dispatcher(RABBITMQ_URL=broker.url, REDIS_URL=store.url)
    job = {"model": "echo", "input": 1, "id": "j1"}

    live, ready = [await running.http.get(f"/health/{name}") for name in ("live", "ready")]
    assert (live.status_code, ready.status_code) == (200, 503)
    assert [fault["field"] for fault in ready.json()["errors"]] == ["broker", "store"]
    no_store = await running.http.post("/jobs", json=job)
    assert (no_store.status_code, no_store.json()["code"]) == (503, "store_unavailable")

    await store.open()
    no_broker = await running.http.post("/jobs", json=job)
    assert (no_broker.status_code, no_broker.json()["code"]) == (503, "broker_unavailable")
    assert int(no_broker.headers["retry-after"]) >= 1
    assert (await running.http.get("/jobs")).json()["jobs"] == []

    await broker.open()
    await running.logged("broker.connected")
    assert (await running.http.post("/jobs", json=job)).status_code == 202
    assert (await running.http.get("/health/ready")).json()["status"] == "ready"
    assert await running.terminate() == 0


async def test_without_keys_it_says_so_loudly_and_no_secret_is_ever_logged(start_dispatcher: StartDispatcher):
    running = await start_dispatcher(
        RABBITMQ_URL="amqp://user:sekrit@127.0.0.1:1/", REDIS_URL="redis://:sekrit@127.0.0.1:1/"
    )

    seen = [await running.logged("server.unavailable") for _ in range(2)]
    lines = [*seen, *running.log]
    await running.terminate()

    assert {line["server"] for line in seen} == {"broker", "store"}
    assert "sekrit" not in str(lines)
