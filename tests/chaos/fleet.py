"""The system under test: private servers, dispatchers and workers as processes, each with wires of its own.

Every process of it carries a mark in its environment, by which those that were left behind are found.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from deploy.local.child import Child
from deploy.local.ports import free_ports
from deploy.local.programs import find_programs
from deploy.local.servers import PrivateServers
from deploy.local.warden import Warden
from tests.chaos.catalogue import catalogue_toml
from tests.chaos.wire import Wire
from tests.support.system import REPOSITORY

MARK = "CHAOS_RUN"
NAMESPACE = "chaos"
READY_WITHIN_S = 90.0
STOP_WITHIN_S = 30.0
SUPERVISED_EVERY_S = 1.0

SETTINGS = {"WORKER_HEARTBEAT_S": "1", "WORKER_LEASE_S": "5", "WORKER_GRACE_S": "5", "WORKER_GPU": "simulated"}
"""Leases of half the default length: a busy machine renews them, and a worker that is gone is missed sooner."""

OURS = ("WORKER_", "DISPATCHER_", "AFFINITY_", "RABBITMQ_", "REDIS_", "MODELS_")


@dataclass(slots=True)
class Member:
    """A dispatcher or worker. ``whole`` is held while it is under a fault."""

    name: str
    module: str
    port: int
    wires: Mapping[str, Wire]
    child: Child | None = None
    whole: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def url(self) -> str:
        """Where a dispatcher listens."""
        return f"http://127.0.0.1:{self.port}"


@dataclass(slots=True)
class Fleet:
    """All that runs. ``broker_whole`` and ``store_whole`` are held while that server is under a fault.

    ``ended`` are processes that ended though nobody had asked them to, with their last words.
    """

    directory: Path
    mark: str
    servers: PrivateServers
    warden: Warden
    dispatchers: Sequence[Member] = ()
    workers: Sequence[Member] = ()
    ended: list[str] = field(default_factory=list)
    broker_whole: asyncio.Lock = field(default_factory=asyncio.Lock)
    store_whole: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def members(self) -> Sequence[Member]:
        """Dispatchers and workers."""
        return [*self.dispatchers, *self.workers]

    def start(self, member: Member) -> None:
        """Start it, and do not wait."""
        own = {"WORKER_ID": member.name, "WORKER_METRICS_PORT": str(member.port)}
        if member.module == "dispatcher":
            own = {"DISPATCHER_PORT": str(member.port)}
        env = {
            **environment(self.mark),
            **SETTINGS,
            **own,
            "RABBITMQ_URL": member.wires["broker"].url,
            "REDIS_URL": member.wires["store"].url,
            "AFFINITY_NAMESPACE": NAMESPACE,
            "MODELS_CATALOG": str(self.directory / "catalogue.toml"),
        }
        command = (sys.executable, "-m", member.module)
        log_path = self.directory / "logs" / f"{member.name}.log"
        member.child = Child(member.name, command, env=env, log_path=log_path, warden=self.warden, cwd=REPOSITORY)

    async def ready(self, within_s: float = READY_WITHIN_S) -> None:
        """Return once every dispatcher is ready and every worker has joined. Raises ``TimeoutError``."""
        wanted = {worker.name for worker in self.workers}
        async with asyncio.timeout(within_s), httpx.AsyncClient(timeout=5.0) as http:
            for dispatcher in self.dispatchers:
                while not await _answers(http, f"{dispatcher.url}/health/ready"):  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(0.1)
            while not wanted <= set(await self.reports(http)):  # noqa: ASYNC110 - no event tells
                await asyncio.sleep(0.1)

    async def reports(self, http: httpx.AsyncClient) -> Mapping[str, dict[str, object]]:
        """The workers by id, as the first dispatcher that can say sees them; nothing where none can."""
        for dispatcher in self.dispatchers:
            try:
                answer = await http.get(f"{dispatcher.url}/workers")
                return {str(worker["id"]): worker for worker in answer.raise_for_status().json()["workers"]}
            except httpx.HTTPError:
                continue
        return {}

    async def supervise(self) -> None:
        """Start anew what ended by itself, as whoever runs the containers does. Never returns."""
        while True:
            await asyncio.sleep(SUPERVISED_EVERY_S)
            for member in self.members:
                if member.child is not None and not member.whole.locked() and not member.child.running:
                    self.ended.append(f"{member.name}, {member.child.returncode}: {member.child.last_lines(1)}")
                    self.start(member)

    async def stop(self) -> None:
        """Workers first, all at once, then the dispatchers, then the wires."""
        for members in (self.workers, self.dispatchers):
            for member in members:
                if member.child is not None:
                    member.child.terminate()
            for member in members:
                if member.child is not None:
                    await asyncio.to_thread(member.child.stop, STOP_WITHIN_S)
        for member in self.members:
            for wire in member.wires.values():
                await wire.shut()


def environment(mark: str) -> dict[str, str]:
    """This process's environment without any setting of ours, and with the mark."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OURS)} | {MARK: mark}


def marked(mark: str) -> Mapping[int, str]:
    """Processes that carry the mark and are no zombies: command lines by process id."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() not in (path / "environ").read_bytes().split(b"\0"):
                continue
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if command:
            found[int(path.name)] = command
    return found


@asynccontextmanager
async def running_fleet(directory: Path, mark: str, dispatchers: int, workers: int) -> AsyncIterator[Fleet]:
    """All of it, ready for jobs. ``directory`` keeps the logs; the servers' data go in it as well."""
    _write_catalogue(directory)
    with Warden() as warden:
        servers = PrivateServers(find_programs(), directory, warden, environment(mark))
        await asyncio.to_thread(servers.start)
        try:
            fleet = Fleet(directory, mark, servers, warden)
            fleet.dispatchers = [
                await _member(servers, f"dispatcher-{n + 1}", "dispatcher") for n in range(dispatchers)
            ]
            fleet.workers = [await _member(servers, f"worker-{n + 1}", "worker") for n in range(workers)]
            try:
                for member in fleet.members:
                    fleet.start(member)
                await fleet.ready()
                supervising = asyncio.create_task(fleet.supervise(), name="supervising")
                yield fleet
                supervising.cancel()
            finally:
                await fleet.stop()
        finally:
            await asyncio.to_thread(servers.stop)


def _write_catalogue(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "catalogue.toml").write_text(catalogue_toml())


async def _member(servers: PrivateServers, name: str, module: str) -> Member:
    (port,) = free_ports(1)
    wires = {"broker": Wire(servers.rabbit.url), "store": Wire(servers.redis.url)}
    for wire in wires.values():
        await wire.open()
    return Member(name, module, port, wires)


async def _answers(http: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await http.get(url)).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False
