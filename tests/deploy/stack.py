"""The compose stack of a run, under a project name, passwords and ports of its own."""

import secrets
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from deploy.local.ports import free_ports
from tests.deploy.engine import Engine, Failed, call
from tests.deploy.images import ROOT

HERE = Path(__file__).parent
PROJECT = "affinity-try"
SERVERS = ("rabbitmq", "redis")
LOOK_EVERY_S = 1.0
PASSES = 3


class Stack:
    """``docker-compose.gpu.yml`` with simulated GPUs; ``standins`` where its servers' images cannot be had."""

    def __init__(self, engine: Engine, folder: Path, *, standins: bool) -> None:
        self._engine = engine
        files = [ROOT / "docker-compose.gpu.yml", HERE / "gpus.yml", *([HERE / "standins.yml"] if standins else [])]
        self._files = [option for file in files for option in ("-f", str(file))]
        self._env_file = folder / "env"
        self._key = secrets.token_hex(16)
        dispatcher, amqp, management, prometheus = free_ports(4)
        self._prometheus = f"http://127.0.0.1:{prometheus}"
        self.settings = {
            "RABBITMQ_PASS": secrets.token_hex(16),
            "REDIS_PASSWORD": secrets.token_hex(16),
            "GRAFANA_PASSWORD": secrets.token_hex(16),
            "AFFINITY_API_KEYS": self._key,
            "WORKER_GPU": "simulated",
            "WORKER_MEMORY": "4G",
            "DISPATCHER_PORT": str(dispatcher),
            "RABBITMQ_PORT": str(amqp),
            "RABBITMQ_MANAGEMENT_PORT": str(management),
            "PROMETHEUS_PORT": str(prometheus),
        }
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{dispatcher}", headers={"Authorization": f"Bearer {self._key}"}, timeout=30
        )

    def compose(
        self, *arguments: str, without: Sequence[str] = (), check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """A command of compose; ``without`` leaves settings out. Raises ``Failed``."""
        told = {name: value for name, value in self.settings.items() if name not in without}
        self._env_file.write_text("".join(f"{name}={value}\n" for name, value in told.items()))
        self._env_file.chmod(0o600)
        command = [*self._engine.compose, "-p", PROJECT, "--env-file", str(self._env_file), *self._files, *arguments]
        return call(command, self._engine.environment, 600.0, check=check, cwd=ROOT)

    def down(self, *options: str) -> None:
        """Stop and remove all containers. Raises ``Failed`` where some are left.

        podman-compose forgets workers that were added by scaling, and cannot remove what those depend on before them:
        one pass takes the former, the next one the latter.
        """
        for _ in range(PASSES):
            self.compose("down", "--remove-orphans", *options, check=False)
            if not self.containers(running=False):
                return
        raise Failed(f"left after {PASSES} times down: {self.containers(running=False)}")

    def containers(self, service: str | None = None, *, running: bool = True) -> list[str]:
        """Names of the project's containers."""
        wanted = ["--filter", f"label=com.docker.compose.project={PROJECT}"]
        wanted += ["--filter", f"label=com.docker.compose.service={service}"] if service else []
        wanted += [] if running else ["--all"]
        return sorted(self._engine.lines("ps", *wanted, "--format", "{{.Names}}"))

    def healthy(self, container: str) -> bool:
        """What the container's own health command says; asked here where the engine does not ask by itself."""
        if not self._engine.checks_health:
            return self._engine.run("healthcheck", "run", container, check=False).returncode == 0
        state: Any = self._engine.inspect(container)["State"]
        return bool(state["Health"]["Status"] == "healthy")

    def wait_healthy(self, service: str, number: int, within_s: float) -> float:
        """Seconds until that many containers of a service run and are healthy."""
        return wait(
            lambda: len(found := self.containers(service)) == number and all(map(self.healthy, found)),
            within_s,
            lambda: f"{service} is not healthy; it said:\n{self.log(service)}",
        )

    def log(self, service: str) -> str:
        """The last lines of a service's containers."""
        said = [
            self._engine.run("logs", "--tail", "15", name, check=False)
            for name in self.containers(service, running=False)
        ]
        return "\n".join(one.stdout + one.stderr for one in said)

    def workers(self) -> list[str]:
        """Ids of the workers that the fleet knows, with a lease that has not run out."""
        answer = self.http.get("/workers").raise_for_status()
        return sorted(worker["id"] for worker in answer.json()["workers"])

    def asked_of_prometheus(self, query: str) -> dict[str, float]:
        """Label ``job`` and number of targets -> value."""
        answer = httpx.get(f"{self._prometheus}/api/v1/query", params={"query": query}, timeout=10).raise_for_status()
        return {entry["metric"].get("job", ""): float(entry["value"][1]) for entry in answer.json()["data"]["result"]}


def wait(there: Callable[[], bool], within_s: float, why: Callable[[], str]) -> float:
    """Seconds until ``there``. Raises ``Failed`` with ``why`` when they are over."""
    began_at = time.monotonic()
    while not there():
        if time.monotonic() - began_at > within_s:
            raise Failed(f"not within {within_s:.0f} s: {why()}")
        # Nothing tells of it: containers are asked, not subscribed to.
        time.sleep(LOOK_EVERY_S)
    return time.monotonic() - began_at
