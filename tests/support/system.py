"""The real thing: a dispatcher and workers as processes, against real servers, in a namespace of their own."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pika
import redis

from affinity.topology import Keys, Topology
from deploy.local.child import Child
from deploy.local.ports import free_ports
from deploy.local.warden import Warden

REPOSITORY = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60.0
POLL_S = 0.02

QUICK = {"WORKER_HEARTBEAT_S": "0.3", "WORKER_LEASE_S": "1.5", "WORKER_GRACE_S": "5"}
"""Leases short enough for a test to see one run out, long enough for a busy machine to renew them."""


@dataclass(slots=True)
class System:
    """What ``running_system`` yields. Job bodies and answers are those of the public contract.

    ``workers`` are the newest processes by name, ``started`` all there ever were.
    """

    rabbitmq_url: str
    redis_url: str
    namespace: str
    logs: Path
    warden: Warden
    settings: Mapping[str, str] = field(default_factory=dict)
    workers: dict[str, Child] = field(default_factory=dict)
    started: list[Child] = field(default_factory=list)
    http: httpx.Client = field(default_factory=httpx.Client)

    def start_dispatcher(self) -> None:
        """Start it on a free port and wait until it is ready."""
        (port,) = free_ports(1)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=70.0)
        self._start("dispatcher", {"DISPATCHER_PORT": str(port)})
        until(lambda: self._status("/health/ready") == 200, f"the dispatcher is ready; log: {self.logs}")

    def start_worker(self, name: str, **settings: str) -> Child:
        """Start a worker with a simulated GPU and wait until the fleet knows it."""
        child = self.launch_worker(name, **settings)
        until(lambda: name in self.fleet(), f"{name} has joined; log: {child.last_lines()}")
        return child

    def launch_worker(self, name: str, **settings: str) -> Child:
        """Start a worker and do not wait."""
        own = {"WORKER_ID": name, "WORKER_GPU": "simulated", "WORKER_METRICS_PORT": "0", **settings}
        self.workers[name] = self._start("worker", own, name)
        return self.workers[name]

    def post(self, model: str, value: object, wait_s: float = 0, **fields: object) -> httpx.Response:
        """POST one job."""
        headers = {"Prefer": f"wait={wait_s:g}"} if wait_s else {}
        return self.http.post("/jobs", json={"model": model, "input": value, **fields}, headers=headers)

    def run(self, model: str, value: object, wait_s: float = 60, **fields: object) -> dict[str, Any]:
        """POST one job and wait for its end."""
        answer = self.post(model, value, wait_s, **fields)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def job(self, job_id: str) -> dict[str, Any]:
        """One job as it stands."""
        return dict(self.http.get(f"/jobs/{job_id}").json())

    def ended(self, job_id: str, within_s: float = 30.0) -> dict[str, Any]:
        """One job, once it has ended."""
        over = ("succeeded", "failed", "cancelled", "expired")
        until(lambda: self.job(job_id).get("state") in over, f"{job_id} has ended", within_s)
        return self.job(job_id)

    def fleet(self) -> dict[str, Any]:
        """Workers by id."""
        return {worker["id"]: worker for worker in self.http.get("/workers").json()["workers"]}

    def residents(self, worker: str) -> set[str]:
        """Models that can serve on one worker."""
        found = self.fleet().get(worker, {"residents": []})
        return {resident["model"] for resident in found["residents"] if resident["state"] == "ready"}

    def events(self, kind: str) -> list[dict[str, str]]:
        """What the event stream holds of one kind, oldest first."""
        with redis.Redis.from_url(self.redis_url, decode_responses=True) as client:
            entries = [fields for _, fields in client.xrange(Keys(self.namespace).events)]
        return [fields for fields in entries if fields["kind"] == kind]

    @contextmanager
    def watched_fallback(self) -> Iterator[Callable[[], list[str]]]:
        """Ids of the jobs that the broker sends to fallback: a queue of our own gets a copy of each."""
        exchange = Topology(self.namespace).fallback
        with pika.BlockingConnection(pika.URLParameters(self.rabbitmq_url)) as connection:
            channel = connection.channel()
            queue = str(channel.queue_declare("", exclusive=True).method.queue)
            channel.queue_bind(queue, exchange)
            seen: list[str] = []

            def ids() -> list[str]:
                while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
                    seen.append(json.loads(got[2])["id"])
                return seen

            yield ids

    def stop(self) -> None:
        """Stop everything, workers first."""
        for child in reversed(self.started):
            child.stop()
        self.http.close()

    def _status(self, path: str) -> int:
        try:
            return self.http.get(path).status_code
        except httpx.TransportError:
            return 0

    def _start(self, module: str, own: Mapping[str, str], name: str | None = None) -> Child:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("WORKER_", "DISPATCHER_", "AFFINITY_"))}
        env = {
            **inherited,
            **QUICK,
            "RABBITMQ_URL": self.rabbitmq_url,
            "REDIS_URL": self.redis_url,
            "AFFINITY_NAMESPACE": self.namespace,
            **self.settings,
            **own,
        }
        label = name or module
        child = Child(
            label,
            (sys.executable, "-m", module),
            env=env,
            log_path=self.logs / f"{label}.log",
            warden=self.warden,
            cwd=REPOSITORY,
        )
        self.started.append(child)
        return child


@contextmanager
def running_system(rabbitmq_url: str, redis_url: str, namespace: str, logs: Path, **settings: str) -> Iterator[System]:
    """A ready dispatcher and no workers yet. ``settings`` go to every process."""
    with Warden() as warden:
        system = System(rabbitmq_url, redis_url, namespace, logs, warden, settings)
        try:
            system.start_dispatcher()
            yield system
        finally:
            system.stop()


def until(true: Callable[[], object], what: str, within_s: float = START_TIMEOUT_S) -> None:
    """Wait until ``true()`` is; fails naming ``what`` after ``within_s`` seconds.

    The processes under test are watched through their public interface, which has no event for most of this.
    """
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within_s:g} s: {what}")
        time.sleep(POLL_S)
