"""Settings of both kinds: defaults, and every problem named at once, without the value."""

import pytest
from pydantic import ValidationError

from affinity.io.connection_settings import ConnectionSettings, problems
from dispatcher.keys import key_hash
from dispatcher.settings import DispatcherSettings

BAD = {
    "RABBITMQ_URL": "http://user:sekrit@broker",
    "RABBITMQ_PORT": "tcp://10.0.0.1:5672",
    "REDIS_URL": "redis://:sekrit@store:port",
    "LOG_LEVEL": "loud",
    "AFFINITY_NAMESPACE": "a:b",
    "AFFINITY_RETENTION_S": "0",
    "AFFINITY_MAX_RESULT_BYTES": "many",
    "AFFINITY_API_KEYS": "sekrit,",
    "MODELS_CATALOG": "/nowhere/catalog.toml",
    "DISPATCHER_PORT": "70000",
    "DISPATCHER_MAX_BODY_BYTES": "10",
    "DISPATCHER_MAX_BATCH": "0",
    "DISPATCHER_GRACE_S": "nan",
}


def lines_for(**settings: str) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        DispatcherSettings(**{name.lower(): value for name, value in settings.items()})
    return problems(DispatcherSettings, caught.value)


def test_all_bad_settings_are_named_at_once():
    lines = lines_for(**BAD)

    assert {line.split(":")[0] for line in lines} == set(BAD)
    assert "sekrit" not in str(lines)


def test_each_problem_says_what_the_setting_is():
    [line] = lines_for(DISPATCHER_PORT="0")

    assert line.startswith("DISPATCHER_PORT: ")
    assert line.endswith("(Port to listen on.)")


@pytest.mark.parametrize("name", BAD)
def test_each_is_bad_by_itself(name: str):
    [line] = lines_for(**{name: BAD[name]})

    assert line.startswith(f"{name}: ")
    assert "sekrit" not in line


def test_a_kubernetes_service_link_is_recognised():
    [line] = lines_for(RABBITMQ_PORT="tcp://10.0.0.1:5672")

    assert "enableServiceLinks: false" in line


@pytest.mark.parametrize("url", ["amqp://", "amqp:host", "amqps://:5672", "amqp://host:0", "amqp://host:99999"])
def test_a_broker_url_without_a_usable_host_and_port_is_bad(url: str):
    [line] = lines_for(RABBITMQ_URL=url)

    assert "amqp://user:password@host:port/vhost" in line


@pytest.mark.parametrize(
    "url", ["redis://host", "rediss://u:p@host:6380/3", "unix:///run/redis.sock", "redis://[::1]/0"]
)
def test_every_kind_of_store_url_is_taken(url: str):
    assert DispatcherSettings(redis_url=url).store_url == url


def test_the_broker_url_is_made_of_its_parts_with_odd_characters_quoted():
    settings = DispatcherSettings(
        rabbitmq_url=None, rabbitmq_host="::1", rabbitmq_port=5673, rabbitmq_user="a/b", rabbitmq_pass="p@:%"
    )

    assert settings.broker_url == "amqp://a%2Fb:p%40%3A%25@[::1]:5673/"


def test_a_broker_url_wins_over_its_parts():
    settings = DispatcherSettings(rabbitmq_url="amqp://u:p@h:1/v", rabbitmq_host="other")

    assert settings.broker_url == "amqp://u:p@h:1/v"


def test_secrets_are_not_shown():
    settings = DispatcherSettings(
        rabbitmq_url="amqp://u:sekrit@h/",
        rabbitmq_pass="sekrit",
        redis_url="redis://:sekrit@h/",
        affinity_api_keys="sekrit",
    )

    assert "sekrit" not in f"{settings!r} {settings}"


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        DispatcherSettings().dispatcher_port = 1  # type: ignore[misc]


def test_keys_are_kept_as_hashes_without_the_blanks_around_them():
    assert DispatcherSettings(affinity_api_keys=" a , b").api_key_hashes == (key_hash("a"), key_hash("b"))
    assert DispatcherSettings(affinity_api_keys=None).api_key_hashes == ()


def test_the_log_level_may_be_in_capitals():
    assert DispatcherSettings(log_level="WARNING").log_level == "warning"  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [ConnectionSettings, DispatcherSettings])
def test_every_setting_is_described(kind: type[ConnectionSettings]):
    assert [name for name, field in kind.model_fields.items() if not field.description] == []
