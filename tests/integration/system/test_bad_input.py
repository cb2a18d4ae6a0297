"""Bad input of every kind to a whole system: a clear error to whoever sent it, nothing lost, nobody else disturbed."""

import hashlib
import json
import os
import resource
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import pika
import pytest
from safetensors.numpy import save_file

from tests.support.processes import children_of
from tests.support.system import System, running_system, until

MIB = 2**20
CATALOGUE = """
[[model]]
name = "echo"
runtime = "synthetic"
vram_gib = 0.01
options = { echo = true }

[[model]]
name = "hungry"
runtime = "torch"
source = "hungry.safetensors"
vram_gib = 0.1
options = { class = "hungry_module:Model" }
"""
MODULE = '''
import torch


class Model(torch.nn.Module):
    """Takes memory until it is refused, or killed."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(1))

    def predict(self, inputs):
        taken = []
        while inputs[0].get("take") == "all":
            taken.append(b"x" * (32 * 2**20))
        return [len(taken) for _ in inputs]
'''
OPERATOR, ACME, OTHER = ("o" * 32, "a" * 32, "b" * 32)


@pytest.fixture(scope="module")
def system(rabbitmq_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A dispatcher with keys and a worker, for all of these: each has to leave it in order."""
    folder = tmp_path_factory.mktemp("bad-input")
    (folder / "catalogue.toml").write_text(CATALOGUE)
    (folder / "hungry_module.py").write_text(MODULE)
    save_file({"scale": np.ones(1, np.float32)}, folder / "hungry.safetensors")
    kinds = {"operator": [("op", OPERATOR)], "tenant": [("acme", ACME), ("other", OTHER)]}
    entries = [(kind, *one) for kind, all_of_it in kinds.items() for one in all_of_it]
    sums = [(kind, name, hashlib.sha256(key.encode()).hexdigest()) for kind, name, key in entries]
    (folder / "keys").write_text("\n".join(f"[[{k}]]\nname = '{n}'\nkeys = ['{s}']\n" for k, n, s in sums))
    settings = {
        "MODELS_CATALOG": str(folder / "catalogue.toml"),
        "AFFINITY_API_KEYS_FILE": str(folder / "keys"),
        "WORKER_LEASE_S": "0.8",
        "WORKER_HEARTBEAT_S": "0.2",
    }
    with running_system(rabbitmq_url, redis_url, f"t{secrets.token_hex(6)}", folder, **settings) as running:
        running.http.headers["Authorization"] = f"Bearer {OPERATOR}"
        running.start_worker("w1")
        yield running


@pytest.fixture(autouse=True)
def _somebody_else(system: System) -> Iterator[None]:
    """Whose job runs before, and whose next one runs after; and no process has ended meanwhile."""
    mine = system.run("echo", "before")
    yield
    assert system.job(mine["id"]) == mine
    assert system.run("echo", "after")["state"] == "succeeded"
    assert all(child.running for child in system.started)


@pytest.mark.parametrize("path", ["/jobs", "/jobs/j1", "/workers", "/dead-letters", "/events", "/orders/o", "/nowhere"])
def test_without_a_key_or_with_a_wrong_one_nothing_is_told(system: System, path: str) -> None:
    for headers in ({"Authorization": ""}, {"Authorization": "Bearer " + "x" * 32}, {"Authorization": "Basic " + ACME}):
        answer = system.http.get(path, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")


def test_another_tenants_job_is_unknown_by_every_route(system: System) -> None:
    mine = {"Authorization": f"Bearer {ACME}"}
    theirs = {"Authorization": f"Bearer {OTHER}"}
    assert system.http.post("/jobs", json={"model": "echo", "input": 1, "id": "acmes"}, headers=mine).is_success
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/explain"), ("GET", "/events")):
        answer = system.http.request(method, f"/jobs/acmes{path}", headers=theirs)
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown_job")
    assert system.http.get("/jobs", headers=theirs).json()["jobs"] == []
    assert system.http.get("/jobs/acmes", headers=mine).is_success


NAMES = ["a/b", "../../etc/passwd", "a\0b", "a\nb", "a b", "*", "#", "ü", "\N{PILE OF POO}", "\ufeff", "x" * 10_000_000]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:12]))
def test_a_name_with_anything_in_it_is_no_job_and_no_model(system: System, name: str) -> None:
    long = len(name) > 1000
    for body in ({"model": "echo", "input": 1, "id": name}, {"model": name, "input": 1}):
        answer = system.http.post("/jobs", json=body)
        assert answer.status_code in ((413, 422) if long else (404, 422))
        assert len(answer.content) < 1000, "it is not sent back"
    if long:
        return
    for path in (f"/jobs/{quote(name, safe='')}", f"/orders/{quote(name, safe='')}"):
        assert system.http.get(path).status_code == 404
    assert system.http.post(f"/models/{quote(name, safe='')}/load").status_code in (404, 422)
    assert system.http.post(f"/workers/{quote(name, safe='')}/drain").status_code in (404, 422)
    assert system.http.get("/dead-letters", params={"model": name}).status_code in (200, 422)


BOMBS: dict[str, Callable[[], bytes]] = {
    "lists": lambda: b'{"model": "echo", "input": ' + b"[" * 1_000_000,
    "closed lists": lambda: b'{"model": "echo", "input": ' + b"[" * 500_000 + b"]" * 500_000 + b"}",
    "objects": lambda: b'{"model": "echo", "input": ' + b'{"a":' * 200_000 + b"1" + b"}" * 200_000 + b"}",
    "a number of a million digits": lambda: b'{"model": "echo", "input": ' + b"9" * 1_000_000 + b"}",
    "a number beyond all": lambda: b'{"model": "echo", "input": 1, "ttl_s": 1e999}',
    "not utf-8": lambda: b'{"model": "echo", "input": "\xff\xfe"}',
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_json_that_is_a_bomb_is_refused_at_once(system: System, bomb: str) -> None:
    began = time.monotonic()
    answer = system.http.post("/jobs", content=BOMBS[bomb](), headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) in ((400, "malformed_json"), (422, "invalid_input"))
    assert time.monotonic() - began < 5.0


def test_a_line_or_a_header_without_end_is_cut_off(system: System) -> None:
    for start in (b"GET /jobs/", b"GET / HTTP/1.1\r\nHost: x\r\nIdempotency-Key: "):
        with socket.create_connection((system.http.base_url.host, system.http.base_url.port or 0), 30.0) as sent:
            try:
                for _ in range(10):
                    sent.sendall(b"x" * MIB)
                sent.sendall(b" HTTP/1.1\r\n\r\n" if start.endswith(b"/") else b"\r\n\r\n")
                answer = sent.recv(MIB)
            except (BrokenPipeError, ConnectionResetError):
                continue
            assert not answer or answer.split()[1][:1] == b"4", answer[:100]


def test_bodies_that_come_a_byte_at_a_time_hold_nobody_up(system: System) -> None:
    url = system.http.base_url
    head = f"POST /jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ACME}\r\nContent-Type: application/json\r\n"
    with ExitStack() as slow:
        connections = [
            slow.enter_context(socket.create_connection((url.host, url.port or 0), 30.0)) for _ in range(200)
        ]
        for connection in connections:
            connection.sendall(head.encode() + b"Content-Length: 1000\r\n\r\n{")
        began = time.monotonic()
        for number in range(20):
            for connection in connections[number::20]:
                connection.sendall(b" ")
            assert system.run("echo", number)["state"] == "succeeded"
        assert time.monotonic() - began < 20.0


FORGED: dict[str, object] = {
    "x-death": [{"queue": "nowhere", "reason": "rejected", "count": 2**62, "routing-keys": ["x"] * 50}],
    "x-first-death-reason": "maxlen",
    "x-last-death-reason": {"not": "a word"},
    "x-delivery-count": 10**9,
    "affinity-code": "';--",
    "affinity-parked": [1, 2, 3],
    "affinity-alone": {"a": "b"},
    "affinity-retry": b"\xff\x00",
    "affinity-life": "x" * 1000,
    "traceparent": "00-" + "0" * 32 + "-nonsense",
    "tracestate": "x" * 4096,
    "CC": ["*"],
}


def test_messages_with_forged_headers_are_jobs_or_dead_letters(system: System) -> None:
    bodies = {
        "forged": b'{"input": 1}',
        "tenant": b'{"input": 1, "tenant": "../acme"}',
        "deep": b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "number": b'{"input": 1, "max_attempts": 1e400}',
        "old": b'{"input": 1, "created_at": "9999-99-99T00:00:00Z"}',
        "x" * 200: b'{"input": 1}',
    }
    with pika.BlockingConnection(pika.URLParameters(system.rabbitmq_url)) as connection:
        channel = connection.channel()
        for message_id, body in bodies.items():
            properties = pika.BasicProperties(message_id=message_id, delivery_mode=2, headers=FORGED, priority=255)
            channel.basic_publish(f"{system.namespace}.jobs", "echo", body, properties)

    def letters() -> dict[str, str]:
        found = system.http.get("/dead-letters").json()["dead_letters"]
        return {letter["code"]: letter["error"]["message"] for letter in found if letter["kind"] == "message"}

    def of_messages() -> int:
        found = system.http.get("/dead-letters").json()["dead_letters"]
        return sum(letter["kind"] == "message" for letter in found)

    until(lambda: system.job("forged").get("state") == "succeeded", "the one that can be read is a job", 20.0)
    until(lambda: of_messages() == len(bodies) - 1, "all others are dead letters", 20.0)
    assert set(letters()) == {"undecodable_message"}


def executor_of(system: System) -> int:
    """The process id of the worker's executor."""
    worker = system.workers["w1"].pid
    until(lambda: children_of(worker), "the worker has an executor")
    return children_of(worker)[0]


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a_model_that_takes_all_memory_costs_its_own_job_only(system: System) -> None:
    system.run("hungry", {})
    pid = executor_of(system)
    size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    unlimited = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (size + 300 * MIB, unlimited[1]))
    job = system.run("hungry", {"take": "all"}, max_attempts=1)
    resource.prlimit(pid, resource.RLIMIT_AS, unlimited)
    assert (job["state"], job["error"]["code"]) == ("failed", "job_failed")
    assert "MemoryError" in job["error"]["message"]
    assert (executor_of(system), system.run("hungry", {})["start"]) == (pid, "warm")


def test_a_model_that_is_killed_for_its_memory_costs_its_own_job_and_the_executor(system: System) -> None:
    system.run("hungry", {})
    pid = executor_of(system)
    most = resident_bytes(pid) + 300 * MIB

    def kernel() -> None:
        """What the kernel does where there is no more."""
        while resident_bytes(pid) < most:
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kernel)
    killer.start()
    job = system.run("hungry", {"take": "all"}, max_attempts=1)
    killer.join()
    assert (job["state"], job["error"]["code"]) == ("failed", "attempts_exhausted")
    assert "SIGKILL" in job["error"]["message"]
    until(lambda: executor_of(system) != pid, "it has another executor")


def test_liveness_notices_an_executor_that_never_lets_go_of_a_model(system: System) -> None:
    system.run("hungry", {})
    health = system.fleet()["w1"]["metrics_url"].replace("/metrics", "/health/live")
    assert httpx.get(health).status_code == 200
    pid = executor_of(system)
    os.kill(pid, signal.SIGSTOP)
    try:
        assert system.http.post("/models/hungry/unload").status_code == 202
        until(lambda: httpx.get(health).status_code == 503, "it is noticed", 30.0)
        assert "unloading hungry has taken" in json.dumps(httpx.get(health).json()["workers"]["w1"])
        assert "w1" in system.fleet(), "its lease is renewed all the same"
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: httpx.get(health).status_code == 200, "it gets on", 10.0)
