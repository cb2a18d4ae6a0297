"""What metrics and events cost: the throughput of warm jobs with them and without, in one run.

Two dispatchers with a worker each, on the same private servers: one as it ships, scraped, and one that counts and tells
nothing (``bench.silent``). They take turns in short rounds, each in front as often as behind, so that a busy moment of
the machine falls on both; the idle one only sends heartbeats. What a job costs in processor time, servers included, is
counted beside it: that hardly depends on what else the machine does.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from rich.console import Console
from rich.table import Table

from bench.cpu import cpu_s
from bench.overhead import BODY
from bench.private_system import Addresses, free_port, private_system
from bench.round_trip import CannotMeasure, WarmJob

CLIENTS = 16
ROUND_S = 2.0
WARM_UP_S = 3.0
START_S = 60.0
MOST = 0.05
"""Of the throughput: the target."""

SERVICES = ("dispatcher", "worker")


@dataclass(frozen=True, slots=True)
class Round:
    """One round of one system. ``cpu_ms``: of dispatcher, worker, broker and store, for a job."""

    jobs_per_s: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The rounds with metrics and events, and those without, in the same order."""

    told: Sequence[Round]
    silent: Sequence[Round]

    @property
    def cost(self) -> float:
        """The share of the throughput that they cost: the median over the pairs of rounds."""
        return 1.0 - statistics.median(told.jobs_per_s / silent.jobs_per_s for told, silent in self._pairs)

    @property
    def cpu_cost(self) -> float:
        """The share of the processor time of a job that they cost, likewise."""
        return 1.0 - statistics.median(silent.cpu_ms / told.cpu_ms for told, silent in self._pairs)

    @property
    def _pairs(self) -> list[tuple[Round, Round]]:
        return list(zip(self.told, self.silent, strict=True))

    def as_json(self) -> str:
        """One JSON object."""
        return json.dumps(
            {
                "clients": CLIENTS,
                "rounds": len(self.told),
                "with_jobs_per_s": statistics.median(each.jobs_per_s for each in self.told),
                "without_jobs_per_s": statistics.median(each.jobs_per_s for each in self.silent),
                "with_cpu_ms_per_job": statistics.median(each.cpu_ms for each in self.told),
                "without_cpu_ms_per_job": statistics.median(each.cpu_ms for each in self.silent),
                "cost": self.cost,
                "cpu_cost": self.cpu_cost,
                "target": MOST,
            }
        )


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two systems. ``scraped`` are its metrics, where it has any; ``pids`` all that computes for it."""

    clients: Sequence[WarmJob]
    scraped: Sequence[str]
    pids: Sequence[int]

    def round(self, round_s: float) -> Round:
        """One round, scraped once within it."""
        for client in self.clients:
            client.close()  # While the other was measured, the server may have closed what was idle.
            client.warm_up(1)
        began_at, before_s = time.perf_counter(), cpu_s(self.pids)

        def ask(client: WarmJob) -> int:
            done = 0
            while time.perf_counter() < began_at + round_s:
                client.warm_up(1)
                done += 1
            return done

        with ThreadPoolExecutor(len(self.clients)) as pool:
            asked = [pool.submit(ask, client) for client in self.clients]
            for url in self.scraped:
                with urlopen(url, timeout=10.0) as answer:  # noqa: S310 - an address of our own
                    answer.read()
            jobs = sum(each.result() for each in asked)
        took_s = time.perf_counter() - began_at
        return Round(jobs / took_s, (cpu_s(self.pids) - before_s) * 1000 / jobs)


def measure(rounds: int) -> Telemetry:
    """So many rounds of each. Raises ``CannotMeasure``."""
    told: list[Round] = []
    silent: list[Round] = []
    with ExitStack() as stack:
        own = stack.enter_context(private_system())
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="affinity-telemetry-")))
        sides = [
            (told, stack.enter_context(_side("told", own, logs, ()))),
            (silent, stack.enter_context(_side("silent", own, logs, ("bench.silent",)))),
        ]
        for _, side in sides:
            side.round(WARM_UP_S)
        for _ in range(rounds):
            for found, side in sides:
                found.append(side.round(ROUND_S))
            sides.reverse()
    return Telemetry(told, silent)


def show(found: Telemetry, console: Console) -> None:
    """A table, and whether the target is met."""
    table = Table("metrics and events", title=f"{CLIENTS} clients, {len(found.told)} rounds each", title_justify="left")
    for heading in ("jobs/s, median", "least", "most", "CPU ms/job"):
        table.add_column(heading, justify="right")
    for name, rounds in (("with, and scraped every round", found.told), ("without", found.silent)):
        rates = [each.jobs_per_s for each in rounds]
        cpu_ms = statistics.median(each.cpu_ms for each in rounds)
        shown = (f"{value:.0f}" for value in (statistics.median(rates), min(rates), max(rates)))
        table.add_row(name, *shown, f"{cpu_ms:.2f}")
    console.print(table)
    console.print(f"cost, median over pairs of rounds: {found.cost:.1%} (target: at most {MOST:.0%})")
    console.print(f"cost in processor time: {found.cpu_cost:.1%}")


@contextmanager
def _side(name: str, own: Addresses, logs: Path, under: Sequence[str]) -> Iterator[_Side]:
    """Start a dispatcher and a worker, wait until a job runs, stop them at the end."""
    ports = {service: free_port() for service in SERVICES}
    env = {
        **os.environ,
        "RABBITMQ_URL": own.amqp_url,
        "REDIS_URL": own.redis_url,
        "AFFINITY_NAMESPACE": f"bench-{name}",
        "DISPATCHER_PORT": str(ports["dispatcher"]),
        "WORKER_ID": name,
        "WORKER_GPU": "simulated",
        "WORKER_METRICS_PORT": str(ports["worker"]),
    }
    env.pop("AFFINITY_API_KEYS", None)
    with ExitStack() as stack:
        pids = [own.pid]
        for service in SERVICES:
            log = stack.enter_context((logs / f"{name}-{service}.log").open("w"))
            command = [sys.executable, "-m", *under, service]
            process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
            pids.append(stack.enter_context(_running(process)))
        urls = [f"http://127.0.0.1:{port}" for port in ports.values()]
        clients = [WarmJob(urls[0], BODY, None) for _ in range(CLIENTS)]
        for client in clients:
            stack.callback(client.close)
        _until_served(clients[0], logs / f"{name}-dispatcher.log")
        yield _Side(clients, () if under else [f"{url}/metrics" for url in urls], pids)


@contextmanager
def _running(process: subprocess.Popen[bytes]) -> Iterator[int]:
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(60.0)


def _until_served(client: WarmJob, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            client.warm_up(1)
            return
        except CannotMeasure as error:
            if time.monotonic() > deadline:
                raise CannotMeasure(f"{error}; the log ends with {log.read_text()[-500:]}") from error
            client.close()
            time.sleep(0.2)
