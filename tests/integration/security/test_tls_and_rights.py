"""Dispatcher and worker over TLS, with the users and the rights of the compose stack and no others."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import aio_pika
import aiormq
import pytest
import redis

from affinity.errors import BrokerUnavailable, StoreUnavailable
from affinity.io.rabbit import Rabbit
from affinity.io.redis_client import RedisLink
from affinity.topology import Topology
from tests.support.secure_servers import NAMESPACE, SecureServers
from tests.support.system import System, running_system, until

OURS = Topology(NAMESPACE)


@pytest.fixture(scope="module")
def system(secured: SecureServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    logs = tmp_path_factory.mktemp("logs")
    with running_system(secured.rabbitmq_url, secured.redis_url, NAMESPACE, logs, **secured.settings) as running:
        running.start_worker("w1")
        yield running


def refused_lines(system: System) -> list[str]:
    """What either service logged about a right that it does not have."""
    lines = [line for log in system.logs.glob("*.log") for line in log.read_text().splitlines()]
    return [line for line in lines if "NOPERM" in line or "NoPermission" in line or "ACCESS_REFUSED" in line]


def test_jobs_run_with_exactly_these_rights(system: System):
    job = system.run("echo", {"text": "ä"})

    assert (job["state"], job["start"], job["result"]) == ("succeeded", "cold", {"text": "ä"})
    assert system.run("echo", 2)["start"] == "warm"
    assert system.http.get("/health/ready").json()["warnings"] == []


def test_everything_an_operator_does_runs_with_these_rights(system: System):
    assert system.http.post("/models/synthetic-a/load", json={"worker": "w1"}).status_code == 202
    until(lambda: "synthetic-a" in system.residents("w1"), "the model is loaded")
    for path in ("/models/synthetic-a/pin", "/models/synthetic-a/unpin", "/models/synthetic-a/unload"):
        assert system.http.post(path, json={}).status_code in (200, 202), path
    until(lambda: "synthetic-a" not in system.residents("w1"), "the model is unloaded")
    for path in ("/jobs?state=succeeded", "/models", "/workers", "/metrics", "/dead-letters"):
        assert system.http.get(path).status_code == 200, path


def test_a_job_that_fails_is_tried_again_and_buried_with_these_rights(system: System):
    failing = system.post("synthetic-a", {"fail": "error"}, max_attempts=2).json()

    assert system.ended(failing["id"])["state"] == "failed"


def test_neither_service_ever_lacked_a_right(system: System):
    system.run("echo", "one more")

    assert refused_lines(system) == []


@pytest.mark.parametrize(
    "command",
    [
        ("KEYS", "*"),
        ("FLUSHALL",),
        ("CONFIG", "GET", "*"),
        ("GET", "others:key"),
        ("EVAL", "return redis.call('GET', KEYS[1])", "1", "others:key"),
        ("EVAL", "return redis.call('FLUSHDB')", "0"),
        ("PUBLISH", "others:channel", "x"),
        ("SCRIPT", "FLUSH"),
        ("ACL", "LIST"),
        ("SHUTDOWN",),
    ],
)
def test_the_stores_user_may_do_nothing_else(secured: SecureServers, command: tuple[str, ...]):
    with (
        redis.Redis.from_url(secured.redis_url, ssl_ca_certs=str(secured.certificates.ca)) as client,
        pytest.raises(redis.ResponseError, match=r"(?i)permission|can.t run this command"),
    ):
        client.execute_command(*command)


def test_there_is_no_other_way_into_the_store(secured: SecureServers):
    anonymous = secured.redis_url.replace("affinity:pass-word-7@", "")
    with (
        redis.Redis.from_url(anonymous, ssl_ca_certs=str(secured.certificates.ca)) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


async def test_the_brokers_user_may_declare_nothing_else(secured: SecureServers):
    for name in ("mine", f"{NAMESPACE}.other", f"{NAMESPACE}.model.", f"{NAMESPACE}.jobs.more"):
        async with await broker(secured) as connection:
            channel = await connection.channel()
            with pytest.raises(aiormq.exceptions.ChannelAccessRefused):
                await channel.declare_queue(name, durable=True)


async def test_the_brokers_user_may_bind_to_nothing_else(secured: SecureServers, system: System):
    async with await broker(secured) as connection:
        channel = await connection.channel()
        queue = await channel.get_queue(OURS.fallback, ensure=False)
        with pytest.raises(aiormq.exceptions.ChannelAccessRefused):
            await queue.bind("amq.rabbitmq.log", "#")


def test_the_brokers_user_is_no_administrator_and_there_is_no_guest(secured: SecureServers):
    users = json.loads(secured.rabbit.ctl("list_users", "--formatter", "json"))

    assert users == [{"user": "affinity", "tags": []}]


async def test_a_store_that_nobody_vouches_for_gets_no_password(secured: SecureServers):
    link = RedisLink(secured.redis_url)
    with pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
        await link.call("PING")
    await link.close()


async def test_a_store_under_another_name_than_its_certificates_is_refused(secured: SecureServers):
    elsewhere = secured.redis_url.replace("127.0.0.1", "localhost")
    link = RedisLink(f"{elsewhere}?ssl_ca_certs={secured.certificates.ca}")
    with pytest.raises(StoreUnavailable, match=r"(?i)certificate"):
        await link.call("PING")
    await link.close()


@pytest.mark.parametrize("trusting", [False, True])
async def test_a_broker_is_believed_only_with_a_certificate_that_is_vouched_for(
    secured: SecureServers, trusting: bool, capsys: pytest.CaptureFixture[str]
):
    url = f"{secured.rabbitmq_url}?cafile={secured.certificates.ca}" if trusting else secured.rabbitmq_url
    rabbit = Rabbit(url, OURS, "tls")
    await rabbit.open()
    try:
        if trusting:
            async with asyncio.timeout(20.0):
                await rabbit.wait_up()
            await rabbit.publisher.ping()
        else:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(2.0):
                    await rabbit.wait_up()
            with pytest.raises(BrokerUnavailable):
                await rabbit.publisher.ping()
            assert "CERTIFICATE_VERIFY_FAILED" in capsys.readouterr().out
    finally:
        await rabbit.close()


async def broker(secured: SecureServers) -> aio_pika.abc.AbstractConnection:
    """A connection of the services' user."""
    return await aio_pika.connect(f"{secured.rabbitmq_url}?cafile={secured.certificates.ca}")


def test_the_certificates_are_not_left_where_others_may_read_the_key(secured: SecureServers):
    assert Path(secured.certificates.key).stat().st_mode & 0o077 == 0
