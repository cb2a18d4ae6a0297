"""URLs with several hosts: what the settings take, what they refuse, and what is made of them."""

from typing import Any

import pytest
from pydantic import ValidationError

from affinity.io.connection_settings import ConnectionSettings, problems
from affinity.io.server_urls import each_host, sentinel_url


def settings(**given: Any) -> ConnectionSettings:
    unset = {"rabbitmq_url": None, "rabbitmq_ca_file": None, "redis_ca_file": None}
    return ConnectionSettings(**{**unset, "redis_url": "redis://127.0.0.1:6379/0", **given})


def complaint(**given: Any) -> str:
    with pytest.raises(ValidationError) as refusal:
        settings(**given)
    (line,) = problems(ConnectionSettings, refusal.value)
    assert "sekrit" not in line
    return line


def test_everything_but_the_host_holds_for_each_of_them() -> None:
    assert each_host("amqps://u:p,@x@a:1,b,[::1]:3/v?heartbeat=5,x") == (
        "amqps://u:p,@x@a:1/v?heartbeat=5,x",
        "amqps://u:p,@x@b/v?heartbeat=5,x",
        "amqps://u:p,@x@[::1]:3/v?heartbeat=5,x",
    )
    assert each_host("amqp://h") == ("amqp://h",)


def test_the_sentinels_have_hosts_of_their_own_and_the_rest_is_the_servers() -> None:
    url = sentinel_url("rediss+sentinel://u:p%40@a:1,b/my%20jobs/2?sentinel_password=s%26t&ssl_ca_certs=%2Fca")
    assert url.hosts == (("a", 1), ("b", 26379))
    assert (url.service, url.username, url.password) == ("my jobs", "", "s&t")
    assert url.server_url == "rediss://u:p%40@primary/2?ssl_ca_certs=%2Fca"
    assert sentinel_url("redis+sentinel://a/jobs").server_url == "redis://primary/0?"
    assert "p%40" not in repr(url)
    assert "s&t" not in repr(url)


@pytest.mark.parametrize(
    "url", ["amqp://a:1,:2/", "amqp://a:1,b:x/", "amqp://u:sekrit@a,,b/", "amqp://u:sekrit@a:1,b:0"]
)
def test_every_node_of_a_broker_url_is_checked(url: str) -> None:
    assert complaint(rabbitmq_url=url).startswith("RABBITMQ_URL: must look like amqp://")


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://u:sekrit@a:1,b:2",
        "redis+sentinel://a:1,b:2/",
        "redis+sentinel://a:1,b:2/jobs/zero",
        "redis+sentinel://a:1,b:2/jobs/0/more",
        "redis+sentinel://a:1,/jobs",
        "rediss+sentinel://u:sekrit@a:1,b:port/jobs",
    ],
)
def test_a_sentinel_url_needs_hosts_and_a_service(url: str) -> None:
    assert complaint(redis_url=url).startswith("REDIS_URL: must look like redis+sentinel://")


def test_several_plain_stores_are_told_from_sentinels() -> None:
    assert "for Sentinels write redis+sentinel://" in complaint(redis_url="redis://:sekrit@a:1,b:2/0")


def test_the_broker_may_be_several_hosts_of_one_port() -> None:
    made = settings(rabbitmq_host="a, ::1,,c", rabbitmq_port=5673)
    assert made.broker_url == "amqp://guest:guest@a:5673,[::1]:5673,c:5673/"


def test_a_file_of_certificates_needs_tls_to_sentinels_too(tmp_path: Any) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("")
    assert complaint(redis_url="redis+sentinel://a/jobs", redis_ca_file=ca).startswith("REDIS_CA_FILE: is for TLS")
    assert settings(redis_url="rediss+sentinel://a/jobs", redis_ca_file=ca).store_url.startswith("rediss+sentinel://")
