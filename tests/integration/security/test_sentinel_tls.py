"""The primary found by a Sentinel that speaks TLS and wants a password of its own, and reached with least rights."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, aclosing, suppress
from pathlib import Path

import pytest
import redis

from affinity.errors import StoreUnavailable
from affinity.io.redis_client import RedisLink
from deploy.local.child import Child
from deploy.local.ports import LOOPBACK, free_ports, wait_for
from deploy.local.warden import Warden
from tests.support import secure_servers
from tests.support.secure_servers import NAMESPACE, PASSWORD, USER, make_certificates
from tests.support.servers import require_programs

SENTINEL_PASSWORD = "a&b"


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL; the last thing in it is the CA file."""
    programs, directory = require_programs(os.environ), tmp_path_factory.mktemp("sentinel-tls")
    shown, (store_port, port) = make_certificates(directory), free_ports(2)
    with Warden() as warden, ExitStack() as ending:
        store = secure_servers._start_redis(programs, directory / "redis", warden, os.environ, shown, store_port)
        ending.callback(store.stop)
        config = directory / "sentinel.conf"
        lines = [
            *("port 0", f"bind {LOOPBACK}", f"tls-port {port}", "tls-auth-clients no", "tls-replication yes"),
            *(f"tls-ca-cert-file {shown.ca}", f"tls-cert-file {shown.certificate}", f"tls-key-file {shown.key}"),
            *(f'dir "{directory}"', f"requirepass {SENTINEL_PASSWORD}"),
            f"sentinel monitor jobs {LOOPBACK} {store_port} 1",
            *(f"sentinel auth-user jobs {USER}", f"sentinel auth-pass jobs {PASSWORD}"),
        ]
        config.write_text("\n".join(lines) + "\n")
        command = [str(programs.redis_server), str(config), "--sentinel"]
        sentinel = Child("sentinel", command, env=os.environ, log_path=directory / "sentinel.log", warden=warden)
        ending.callback(sentinel.stop)

        def knows() -> bool:
            options = {"ssl": True, "ssl_ca_certs": str(shown.ca), "password": SENTINEL_PASSWORD}
            with suppress(redis.RedisError), redis.Redis(host=LOOPBACK, port=port, **options) as client:
                return bool(client.sentinel_masters()["jobs"]["is_master"])
            return False

        wait_for(sentinel, knows, 30.0)
        yield f"rediss+sentinel://{USER}:{PASSWORD}@{LOOPBACK}:{port}/jobs/0?sentinel_password=a%26b&ssl_ca_certs={shown.ca}"


async def test_a_primary_behind_tls_is_found_and_reached(watched: str) -> None:
    link, key = RedisLink(watched), f"{NAMESPACE}:k"
    script = link.script("redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])")
    assert await script([key], ["v"]) == "v"
    async with link.guard() as client:
        assert await client.get(key) == "v"
    async with aclosing(link.messages(f"{NAMESPACE}:c", 10.0)) as heard:
        assert await anext(heard) is None
        await link.call("PUBLISH", f"{NAMESPACE}:c", "said")
        assert await anext(heard) == "said"
    await link.close()


async def test_sentinels_that_are_not_trusted_are_told_no_password(watched: str, tmp_path: Path) -> None:
    link = RedisLink(f"{watched.rpartition('=')[0]}={make_certificates(tmp_path).ca}")
    with pytest.raises(StoreUnavailable, match="no Sentinel of") as caught:
        await link.call("PING")
    assert PASSWORD not in caught.value.message
    assert SENTINEL_PASSWORD not in caught.value.message
    await link.close()
