"""The dispatcher and the workers as child processes: started, awaited, watched, stopped in order."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from deploy.local.child import Child, StartFailed
from deploy.local.environment import Plan, dispatcher_environment, local_url, worker_environment
from deploy.local.ports import first_free_port, is_free
from deploy.local.servers import ServerUrls
from deploy.local.warden import Warden

READY_TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True)
class Commands:
    """What is run for each service; tests put small programs here."""

    dispatcher: Sequence[str] = (sys.executable, "-m", "dispatcher")
    worker: Sequence[str] = (sys.executable, "-m", "worker")


class Fleet:
    """One dispatcher and ``plan.workers`` workers, with their logs in ``directory/logs``.

    ``metrics_from`` is where the search for free metrics ports begins unless the plan names a port.
    """

    def __init__(
        self,
        plan: Plan,
        urls: ServerUrls,
        environ: Mapping[str, str],
        *,
        directory: Path,
        warden: Warden,
        commands: Commands | None = None,
    ) -> None:
        self._plan = plan
        self._urls = urls
        self._environ = environ
        self._warden = warden
        self._commands = commands or Commands()
        self.log_folder = directory / "logs"
        self.url = ""
        self.metrics_urls: dict[str, str] = {}
        self._dispatcher: Child | None = None
        self._workers: list[Child] = []

    def start(self, dispatcher_from: int, metrics_from: int) -> None:
        """Start every process and return at once. Ports are the plan's, or the first free from those given.

        Raises ``StartFailed`` when a port that was asked for is taken.
        """
        port = _port(self._plan.dispatcher_port, dispatcher_from, "DISPATCHER_PORT")
        self.url = local_url(self._plan.dispatcher_host, port)
        environment = dispatcher_environment(self._environ, self._urls, port)
        self._dispatcher = self._child("dispatcher", self._commands.dispatcher, environment)
        taken = {port}
        for worker_id in self._plan.worker_ids:
            metrics_port = first_free_port(self._plan.metrics_port or metrics_from, frozenset(taken))
            taken.add(metrics_port)
            environment = worker_environment(self._environ, self._urls, self._plan, worker_id, metrics_port)
            self._workers.append(self._child(worker_id, self._commands.worker, environment))
            self.metrics_urls[worker_id] = f"http://127.0.0.1:{metrics_port}/metrics"

    def wait_until_ready(self, stopping: Callable[[], bool]) -> bool:
        """Wait for ``/health/ready`` and for every worker in ``/workers``; ``False`` when ``stopping`` came first.

        Raises ``StartFailed`` when a child ends or 90 seconds pass.
        """
        deadline = time.monotonic() + READY_TIMEOUT_S
        with httpx.Client(base_url=self.url, timeout=5.0, headers=api_key_header(self._environ)) as client:
            while not stopping():
                if self._is_ready(client):
                    return True
                self.raise_if_one_ended()
                if time.monotonic() > deadline:
                    raise StartFailed(f"not ready after {READY_TIMEOUT_S:.0f} s; see {self.log_folder}/*.log")
                time.sleep(0.1)
        return False

    def raise_if_one_ended(self) -> None:
        """Raises ``StartFailed`` with the exit code and last log lines of the first child that is gone."""
        for child in self._children():
            if not child.running:
                raise StartFailed(
                    f"{child.name} ended unexpectedly with code {child.returncode}; "
                    f"the end of {child.log_path}:\n{child.last_lines()}"
                )

    def worker(self, worker_id: str) -> Child:
        """The process of one worker. Raises ``KeyError``."""
        found = {child.name: child for child in self._workers}
        return found[worker_id]

    def stop(self) -> None:
        """Workers first (all at once, each may finish its jobs within its grace time), then the dispatcher."""
        for child in self._workers:
            child.terminate()
        for child in self._workers:
            child.stop(self._plan.stop_grace_s)
        if self._dispatcher is not None:
            self._dispatcher.stop(self._plan.stop_grace_s)

    def _children(self) -> list[Child]:
        return ([self._dispatcher] if self._dispatcher is not None else []) + self._workers

    def _is_ready(self, client: httpx.Client) -> bool:
        try:
            if client.get("/health/ready").status_code != httpx.codes.OK:
                return False
            answer = client.get("/workers")
            answer.raise_for_status()
        except httpx.TransportError:
            return False
        except httpx.HTTPStatusError as error:
            raise StartFailed(f"GET /workers answered {error.response.status_code}: {error.response.text}") from error
        return set(self._plan.worker_ids) <= listed_workers(answer.json())

    def _child(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        log_path = self.log_folder / f"{name}.log"
        # A log that starts with this run: the lines of an earlier one would be taken for its own.
        log_path.unlink(missing_ok=True)
        return Child(name, command, env=environment, log_path=log_path, warden=self._warden)


def api_key_header(environ: Mapping[str, str]) -> dict[str, str]:
    """The header that lets us in where ``AFFINITY_API_KEYS`` is set: its first key."""
    keys = [key.strip() for key in environ.get("AFFINITY_API_KEYS", "").split(",") if key.strip()]
    return {"Authorization": f"Bearer {keys[0]}"} if keys else {}


def listed_workers(answer: object) -> set[str]:
    """Ids and nodes in the answer of ``GET /workers``; a worker on a host with several GPUs is listed once for each."""
    workers = answer.get("workers", []) if isinstance(answer, dict) else []
    return {str(each[field]) for each in workers for field in ("id", "node") if field in each}


def _port(asked_for: int | None, start: int, name: str) -> int:
    if asked_for is None:
        return first_free_port(start)
    if not is_free(asked_for):
        raise StartFailed(f"{name}={asked_for} is in use on this machine: free it or choose another")
    return asked_for
