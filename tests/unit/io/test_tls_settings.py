"""Files of certificates: they go into the addresses the clients are given, and stand for TLS being meant."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from affinity.io.connection_settings import ConnectionSettings, problems


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    path = tmp_path / "our ca&co.pem"
    path.write_text("")
    return path


def settings(**given: Any) -> ConnectionSettings:
    unset = {"rabbitmq_url": None, "rabbitmq_ca_file": None, "redis_ca_file": None}
    return ConnectionSettings(**{**unset, "redis_url": "redis://127.0.0.1:6379/0", **given})


def test_the_clients_are_told_where_the_file_is(ca: Path) -> None:
    quoted = str(ca).replace("/", "%2F").replace(" ", "+").replace("&", "%26")
    made = settings(
        rabbitmq_url="amqps://me:pw@broker/v?heartbeat=5",
        rabbitmq_ca_file=ca,
        redis_url="rediss://:pw@store:6380/1",
        redis_ca_file=ca,
    )

    assert made.broker_url == f"amqps://me:pw@broker/v?heartbeat=5&cafile={quoted}"
    assert made.store_url == f"rediss://:pw@store:6380/1?ssl_ca_certs={quoted}"


def test_a_broker_named_by_its_host_is_spoken_to_with_tls_where_there_is_a_file(ca: Path) -> None:
    assert settings(rabbitmq_host="b", rabbitmq_port=5671, rabbitmq_ca_file=ca).broker_url.startswith("amqps://")
    assert settings(rabbitmq_host="b").broker_url == "amqp://guest:guest@b:5672/"


def test_tls_without_a_file_trusts_what_the_system_trusts() -> None:
    made = settings(rabbitmq_url="amqps://broker/", redis_url="rediss://store")

    assert (made.broker_url, made.store_url) == ("amqps://broker/", "rediss://store")


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"rabbitmq_url": "amqp://me:sekrit@broker/"}, "RABBITMQ_CA_FILE: is for TLS: write RABBITMQ_URL as amqps://"),
        ({"redis_url": "redis://me:sekrit@store"}, "REDIS_CA_FILE: is for TLS: write REDIS_URL as rediss://"),
        ({"redis_url": "unix:///run/redis.sock"}, "REDIS_CA_FILE: is for TLS: write REDIS_URL as rediss://"),
    ],
)
def test_a_file_beside_an_address_without_tls_is_a_bad_setting(ca: Path, given: dict[str, str], complaint: str) -> None:
    name = "rabbitmq_ca_file" if "rabbitmq_url" in given else "redis_ca_file"
    with pytest.raises(ValidationError) as refusal:
        settings(**given, **{name: ca})

    (line,) = problems(ConnectionSettings, refusal.value)
    assert line.startswith(complaint)
    assert "sekrit" not in line


def test_a_file_that_is_not_there_is_a_bad_setting(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="rabbitmq_ca_file"):
        settings(rabbitmq_ca_file=tmp_path / "none.pem")
