"""A system of our own to measure, by the program behind ``make run``: servers, a dispatcher and workers.

As a process and not as a library: ``bench`` stands outside of what it measures.
"""

import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from types import MappingProxyType
from typing import IO

from bench.round_trip import CannotMeasure

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a system is found. Of one of our own also ``redis_url``, and ``pid``, below which its processes are."""

    amqp_url: str
    url: str
    redis_url: str = ""
    pid: int = 0


@contextmanager
def private_system(workers: int = 1, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[Addresses]:
    """Start it, wait until it is ready, stop it at the end. Raises ``CannotMeasure`` with its last words."""
    port = free_port()
    dropped = {"DISPATCHER_HOST", "AFFINITY_API_KEYS", "WORKER_METRICS_PORT", "RABBITMQ_URL", "REDIS_URL"}
    env = {name: value for name, value in os.environ.items() if name not in dropped}
    env |= {"WORKERS": str(workers), "WORKER_GPU": "simulated", "DISPATCHER_PORT": str(port), "PYTHONUNBUFFERED": "1"}
    env |= settings
    with tempfile.TemporaryDirectory(prefix="affinity-bench-") as folder:
        command = (sys.executable, "-m", "deploy.local.run", "--directory", folder, "--stop-with-parent")
        process = subprocess.Popen(
            command, env=env, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            assert process.stdout
            amqp_url, redis_url = _servers_of(process.stdout)
            yield Addresses(amqp_url, f"http://127.0.0.1:{port}", redis_url, process.pid)
        finally:
            process.terminate()
            process.wait(STOP_TIMEOUT_S)


def free_port() -> int:
    """One that nobody listens on, at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def broker_in(line: str) -> str | None:
    """The broker's URL, if this is the line of the summary that has it; passwords of private servers are shown."""
    return next((word for word in line.split() if word.startswith(("amqp://", "amqps://"))), None)


def store_in(line: str) -> str | None:
    """The store's URL, likewise."""
    return next((word for word in line.split() if word.startswith(("redis://", "rediss://"))), None)


def _servers_of(output: IO[str]) -> tuple[str, str]:
    """Broker and store, from the summary that is printed once all is ready. The output is read to its end in the
    background."""
    lines: SimpleQueue[str | None] = SimpleQueue()

    def read() -> None:
        for line in output:
            lines.put(line)
        lines.put(None)

    # Unread, a full pipe would stop the supervisor.
    threading.Thread(target=read, name="supervisor's output", daemon=True).start()
    said: list[str] = []
    broker: str | None = None
    try:
        while (line := lines.get(timeout=START_TIMEOUT_S)) is not None:
            said.append(line)
            broker = broker or broker_in(line)
            if broker and (store := store_in(line)):
                return broker, store
    except Empty:
        said.append(f"nothing more for {START_TIMEOUT_S:.0f} s")
    raise CannotMeasure("the private system did not start:\n" + "".join(said[-10:]))
