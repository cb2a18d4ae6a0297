"""A private Redis with a replica, and three Sentinels that make the replica primary when the primary is gone."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import redis
from redis.sentinel import Sentinel

from deploy.local.child import Child
from deploy.local.ports import LOOPBACK, answers, free_ports, wait_for
from deploy.local.programs import Programs
from deploy.local.warden import Warden
from tests.support.servers import require_programs
from tests.support.system import until

SERVICE = "jobs"
DOWN_AFTER_MS = 1000
"""Silence after which a Sentinel counts a server as gone: short, so that a test need not wait for 30 s."""

SERVER = """\
bind {host}
port {port}
dir "{directory}"
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
# The default waits for 5 s, for more replicas to come.
repl-diskless-sync-delay 0
"""

SENTINEL = """\
bind {host}
port {port}
dir "{directory}"
sentinel monitor {service} {host} {primary} 2
sentinel down-after-milliseconds {service} {down_after_ms}
sentinel failover-timeout {service} 10000
"""


@dataclass(slots=True)
class Watched:
    """``first`` begins as the primary, ``second`` as its replica; ``sentinels`` and the ports are in the same order."""

    ports: Sequence[int]
    sentinel_ports: Sequence[int]
    first: Child
    second: Child

    @property
    def url(self) -> str:
        """By the Sentinels."""
        places = ",".join(f"{LOOPBACK}:{port}" for port in self.sentinel_ports)
        return f"redis+sentinel://{places}/{SERVICE}/0"

    @property
    def primary(self) -> redis.Redis:
        """A client of whichever is the primary now."""
        sentinels = Sentinel([(LOOPBACK, port) for port in self.sentinel_ports])  # type: ignore[no-untyped-call]
        client: redis.Redis = sentinels.master_for(SERVICE)  # type: ignore[no-untyped-call]
        return client

    def server_url(self, number: int) -> str:
        """Of one of the two servers."""
        return f"redis://{LOOPBACK}:{self.ports[number]}/0"


@contextmanager
def watched_redis(directory: Path, environ: Mapping[str, str]) -> Iterator[Watched]:
    """All five, running, with a replica that is in step; stopped at the end."""
    programs = require_programs(environ)
    ports, sentinel_ports = free_ports(2), free_ports(3)
    children: list[Child] = []
    with Warden() as warden:

        def start(name: str, port: int, config: str, *options: str) -> Child:
            children.append(_start(programs, directory / name, warden, environ, port, config, options))
            return children[-1]

        try:
            first = start("first", ports[0], SERVER)
            second = start("second", ports[1], f"{SERVER}replicaof {LOOPBACK} {ports[0]}\n")
            for number, port in enumerate(sentinel_ports):
                start(f"sentinel{number}", port, SENTINEL.replace("{primary}", str(ports[0])), "--sentinel")
            for port in sentinel_ports:
                until(partial(_knows_all, port), f"the Sentinel at {port} knows the others", 30)
            yield Watched(ports, sentinel_ports, first, second)
        finally:
            for child in children:
                child.kill()


def _start(
    programs: Programs,
    directory: Path,
    warden: Warden,
    environ: Mapping[str, str],
    port: int,
    config: str,
    options: Sequence[str],
) -> Child:
    directory.mkdir(parents=True)
    path = directory / "redis.conf"
    settings = {"service": SERVICE, "down_after_ms": DOWN_AFTER_MS}
    path.write_text(config.format(host=LOOPBACK, port=port, directory=directory, **settings))
    command = [str(programs.redis_server), str(path), *options]
    child = Child(directory.name, command, env=environ, log_path=directory / "redis.log", warden=warden)
    wait_for(child, lambda: answers(port, b"PING\r\n", b"+PONG"), 30.0)
    return child


def _knows_all(port: int) -> bool:
    """The other Sentinels, and the replica, in step: before that nobody would, or could, be made primary."""
    with redis.Redis(host=LOOPBACK, port=port, decode_responses=True) as client:
        known = client.sentinel_masters()[SERVICE]
        replicas = client.sentinel_slaves(SERVICE)
    return known["num-other-sentinels"] == 2 and [one["master-link-status"] for one in replicas] == ["ok"]
