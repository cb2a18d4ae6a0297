"""Private RabbitMQ and Redis for real: they keep their data, stay on loopback, and leave nothing behind."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import aio_pika
import pytest
import redis.asyncio

from deploy.local.child import StartFailed
from deploy.local.rabbit import PrivateRabbit
from deploy.local.redis import PrivateRedis
from deploy.local.servers import PrivateServers
from deploy.local.warden import Warden
from tests.support.processes import alive_in_group, group_is_gone
from tests.support.servers import private_servers, require_programs

ROOT = Path(__file__).parents[3]

HOLDER = """
import sys
from pathlib import Path
from deploy.local.programs import find_programs
from deploy.local.servers import PrivateServers
from deploy.local.warden import Warden
with Warden() as warden, PrivateServers(find_programs(), Path(sys.argv[1]), warden) as servers:
    print(servers.rabbit.pid, servers.rabbit.epmd_pid, servers.redis.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateServers]:
    with private_servers(tmp_path_factory.mktemp("own"), os.environ) as servers:
        yield servers


async def publish(servers: PrivateServers, queue: str, body: bytes) -> None:
    async with await aio_pika.connect(servers.urls.rabbitmq_url) as connection:
        channel = await connection.channel()
        await channel.declare_queue(queue, durable=True, arguments={"x-queue-type": "quorum"})
        message = aio_pika.Message(body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, queue)


async def take(servers: PrivateServers, queue: str) -> bytes:
    async with await aio_pika.connect(servers.urls.rabbitmq_url) as connection:
        channel = await connection.channel()
        declared = await channel.declare_queue(queue, passive=True)
        message = await declared.get(timeout=30.0)
        await message.ack()
        return message.body


async def test_confirmed_messages_and_the_address_survive_a_restart_and_a_crash(own_servers: PrivateServers) -> None:
    before = own_servers.rabbit.url
    await publish(own_servers, "kept", b"before the restart")
    own_servers.rabbit.restart()
    # The crash comes after a clean stop on purpose: RabbitMQ 3.10 writes the name of a new quorum queue to disk up to
    # two seconds after it has confirmed messages in it, and a crash within that time loses the queue.
    await publish(own_servers, "kept", b"before the crash")
    own_servers.rabbit.kill()
    assert not own_servers.rabbit.running
    own_servers.rabbit.start()
    assert own_servers.rabbit.url == before
    assert await take(own_servers, "kept") == b"before the restart"
    assert await take(own_servers, "kept") == b"before the crash"


async def test_redis_keeps_its_contents_and_refuses_to_evict(own_servers: PrivateServers) -> None:
    async with redis.asyncio.Redis.from_url(own_servers.redis.url) as client:
        await client.set("kept", "1")
        assert (await client.config_get("maxmemory-policy"))["maxmemory-policy"] == "noeviction"
        assert (await client.config_get("appendonly"))["appendonly"] == "yes"
    own_servers.redis.restart()
    async with redis.asyncio.Redis.from_url(own_servers.redis.url) as client:
        assert await client.get("kept") == b"1"


async def test_redis_is_the_same_store_by_its_socket_before_and_after_a_restart(own_servers: PrivateServers) -> None:
    url = own_servers.redis.socket_url
    assert url
    async with redis.asyncio.Redis.from_url(own_servers.redis.url) as client:
        await client.set("by port", "1")
    own_servers.redis.restart()
    async with redis.asyncio.Redis.from_url(url) as client:
        assert await client.get("by port") == b"1"


@pytest.mark.parametrize("name", ["d" * 120, "what?"])
async def test_a_directory_that_no_socket_can_be_in_leaves_the_port(name: str, tmp_path: Path) -> None:
    programs = require_programs(os.environ)
    with Warden() as warden:
        server = PrivateRedis(programs, tmp_path / name, warden, os.environ)
        try:
            server.start()
            assert server.socket_url is None
            async with redis.asyncio.Redis.from_url(server.url) as client:
                assert await client.ping()
        finally:
            server.stop()


def sockets_of(pid: int) -> set[str]:
    """Inode numbers of the sockets that a process has open."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        # A descriptor may be closed while we look.
        with suppress(OSError):
            found.add(link.readlink().name)
    return {name.removeprefix("socket:[").removesuffix("]") for name in found if name.startswith("socket:[")}


def test_nothing_listens_beyond_loopback(own_servers: PrivateServers) -> None:
    pids = (own_servers.rabbit.pid, own_servers.rabbit.epmd_pid, own_servers.redis.pid)
    inodes = {inode for pid in pids if pid is not None for inode in sockets_of(pid)}
    listening = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                listening.append(fields[1].split(":")[0])
    assert len(listening) >= 4
    # The port mapper also listens on ::1, which /proc writes in words of four bytes, lowest byte first.
    assert set(listening) <= {"0100007F", "00000000000000000000000001000000"}


def test_stopping_leaves_no_process_and_no_port_mapper(tmp_path: Path) -> None:
    with private_servers(tmp_path / "servers", os.environ) as servers:
        groups = [servers.rabbit.pid, servers.rabbit.epmd_pid, servers.redis.pid]
        assert all(group is not None and alive_in_group(group) for group in groups)
    assert [alive_in_group(group) for group in groups if group is not None] == [[], [], []]
    assert not (tmp_path / "servers").exists()


def test_killing_their_owner_kills_them(tmp_path: Path) -> None:
    require_programs(os.environ)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as owner:
        assert owner.stdout is not None
        groups = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(groups) == 3
        owner.kill()
        owner.wait()
        assert all(group_is_gone(group) for group in groups)


def test_a_broker_whose_port_was_taken_while_it_was_stopped_says_so(tmp_path: Path) -> None:
    programs = require_programs(os.environ)
    with Warden() as warden:
        rabbit = PrivateRabbit(programs, tmp_path, warden, os.environ)
        rabbit.start()
        rabbit.stop()
        with socket.create_server(("127.0.0.1", rabbit.port)), pytest.raises(StartFailed) as raised:
            rabbit.start()
        rabbit.stop()
    assert f"port {rabbit.port}" in str(raised.value)
    assert "in use" in str(raised.value)
