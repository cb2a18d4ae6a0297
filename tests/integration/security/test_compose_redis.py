"""The command by which the compose stack starts Redis, run as it stands but for its folders and its port."""

import os
from pathlib import Path

import pytest
import redis
import yaml

from deploy.local.child import Child
from deploy.local.ports import LOOPBACK, answers, free_ports, wait_for
from deploy.local.warden import Warden
from tests.support.secure_servers import DOCKER
from tests.support.servers import require_programs

COMPOSE = DOCKER.parents[1] / "docker-compose.gpu.yml"
SET = {"REDISCLI_AUTH": "letters0and1digits", "REDIS_MAXMEMORY": "64mb", "AFFINITY_NAMESPACE": "mine"}


def test_the_stacks_redis_has_one_user_with_the_rights_of_its_namespace(tmp_path: Path):
    programs = require_programs(os.environ)
    (port,) = free_ports(1)
    shell, flag, script = yaml.safe_load(COMPOSE.read_text())["services"]["redis"]["command"]
    here = f"port {port}\nbind {LOOPBACK}\nEND"
    (tmp_path / "redis.conf").write_text((DOCKER / "redis.conf").read_text().replace("dir /data", f"dir {tmp_path}"))
    (tmp_path / "redis.rights").write_text((DOCKER / "redis.rights").read_text())
    script = script.replace("$$", "$").replace("/usr/local/etc/redis", str(tmp_path)).replace("\nEND", f"\n{here}")
    script = script.replace("redis-server", str(programs.redis_server), 1)
    with Warden() as warden:
        child = Child(
            "redis", (shell, flag, script), env={**os.environ, **SET}, log_path=tmp_path / "log", warden=warden
        )
        try:
            wait_for(child, lambda: answers(port, b"PING\r\n", b"-NOAUTH"), 20.0)
            with redis.Redis(port=port, username="affinity", password=SET["REDISCLI_AUTH"]) as client:
                assert client.set("mine:key", "x")
                assert client.info("memory")["maxmemory"] == 64 * 1024**2
                for command in (("GET", "affinity:key"), ("CONFIG", "GET", "maxmemory"), ("ACL", "WHOAMI")):
                    with pytest.raises(redis.exceptions.NoPermissionError):
                        client.execute_command(*command)
            with (
                redis.Redis(port=port, password=SET["REDISCLI_AUTH"]) as default,
                pytest.raises(redis.AuthenticationError),
            ):
                default.ping()
        finally:
            child.stop()
