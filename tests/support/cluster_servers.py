"""Three private RabbitMQ nodes that make one cluster, each of which a test may kill and start again."""

import asyncio
import json
import subprocess
import threading
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from deploy.local.child import Child
from deploy.local.ports import LOOPBACK, answers, free_ports, wait_for
from deploy.local.programs import Programs
from deploy.local.rabbit import PrivateRabbit
from deploy.local.warden import Warden
from tests.support.servers import require_programs
from tests.support.tcp_proxy import TcpProxy

NAMES = ("one@localhost", "two@localhost", "three@localhost")
COOKIE = "a-cookie-of-the-tests"
CTL_TIMEOUT_S = 60.0


class ClusterNode(PrivateRabbit):
    """One node. Its port mapper is the cluster's: nodes find each other by asking the one that they know."""

    def __init__(
        self, programs: Programs, directory: Path, warden: Warden, environ: Mapping[str, str], name: str, epmd_port: int
    ) -> None:
        super().__init__(programs, directory, warden, environ)
        self.name = name
        self._ctl = programs.rabbitmq_server.with_name("rabbitmqctl")
        self._epmd_port = epmd_port
        self.port, self._dist_port = free_ports(2)

    def queues(self) -> dict[str, "Quorum"]:
        """Where each queue lives, by its name."""
        columns = ("name", "leader", "members", "online")
        command = [str(self._ctl), "--quiet", "--formatter", "json", "list_queues", *columns]
        done = subprocess.run(
            command, check=False, env=self._environment(), capture_output=True, timeout=CTL_TIMEOUT_S, text=True
        )
        assert done.returncode == 0, done.stderr
        return {
            row["name"]: Quorum(row["leader"], frozenset(row["members"]), frozenset(row["online"]))
            for row in json.loads(done.stdout)
        }

    @property
    def _ports(self) -> tuple[int, ...]:
        return self.port, self._dist_port

    def _start_epmd(self, environment: Mapping[str, str]) -> None:
        pass

    def _stop_epmd(self) -> None:
        pass

    def _write_files(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        cookie = self.directory / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(COOKIE)
            cookie.chmod(0o400)
        super()._write_files()
        lines = ["cluster_partition_handling = pause_minority"]
        if self.name != NAMES[0]:
            # The first one looks for nobody: it would wait for the others for 5 s.
            lines.append("cluster_formation.peer_discovery_backend = classic_config")
            lines.append(f"cluster_formation.classic_config.nodes.1 = {NAMES[0]}")
        with (self.directory / "rabbitmq.conf").open("a") as config:
            config.write("\n".join(lines) + "\n")

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {"RABBITMQ_NODENAME": self.name}


@dataclass(frozen=True, slots=True)
class Quorum:
    """Nodes of one queue, by name."""

    leader: str
    members: frozenset[str]
    online: frozenset[str]


class Doors:
    """Ports that refuse everybody until they are opened, and lead to ``ports`` from then on. A context manager."""

    def __init__(self, ports: Sequence[int]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._proxies = [TcpProxy(port) for port in ports]
        self._opened: list[TcpProxy] = []
        self.ports = free_ports(len(ports))
        for proxy, port in zip(self._proxies, self.ports, strict=True):
            proxy.port = port

    def open(self) -> None:
        """Let connections through."""
        for proxy in self._proxies:
            self._do(proxy.__aenter__())
            self._opened.append(proxy)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for proxy in self._opened:
            self._do(proxy.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, step: Coroutine[Any, Any, object]) -> None:
        asyncio.run_coroutine_threadsafe(step, self._loop).result(10.0)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Its nodes by name. Whoever follows ``url`` finds the first of them only, until ``doors`` are opened."""

    nodes: Mapping[str, ClusterNode]
    doors: Doors

    @property
    def url(self) -> str:
        """All nodes in one URL."""
        places = [self.nodes[NAMES[0]].port, *self.doors.ports]
        return f"amqp://guest:guest@{','.join(f'{LOOPBACK}:{port}' for port in places)}/"


@contextmanager
def rabbit_cluster(directory: Path, environ: Mapping[str, str]) -> Iterator[Cluster]:
    """Three running nodes that know each other; stopped at the end."""
    programs = require_programs(environ)
    (epmd_port,) = free_ports(1)
    with Warden() as warden:
        epmd = _epmd(programs, directory, warden, environ, epmd_port)
        nodes = {
            name: ClusterNode(programs, directory / name.partition("@")[0], warden, environ, name, epmd_port)
            for name in NAMES
        }
        first, *others = nodes.values()
        try:
            # The others find it there; three that start at once may make two clusters.
            first.start()
            with ThreadPoolExecutor() as pool:
                list(pool.map(ClusterNode.start, others))
            with Doors([node.port for node in others]) as doors:
                yield Cluster(nodes, doors)
        finally:
            for node in nodes.values():
                # All that is wanted is that they are gone: a clean stop takes seconds for each.
                node.kill()
            epmd.stop()


def _epmd(programs: Programs, directory: Path, warden: Warden, environ: Mapping[str, str], port: int) -> Child:
    command = [str(programs.epmd), "-port", str(port), "-address", LOOPBACK]
    kept = {name: value for name, value in environ.items() if not name.startswith(("ERL_", "RABBITMQ_"))}
    epmd = Child("epmd", command, env=kept, log_path=directory / "epmd.log", warden=warden)
    # It answers a request for all names with its own port first.
    wait_for(epmd, lambda: answers(port, b"\x00\x01n", port.to_bytes(4, "big")), 10.0)
    return epmd
