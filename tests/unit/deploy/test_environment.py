"""What ``make run`` reads and what it hands on."""

import pytest

from deploy.local.environment import (
    BadSetting,
    dispatcher_environment,
    local_url,
    read_plan,
    without_password,
    worker_environment,
)
from deploy.local.servers import ServerUrls, external_urls

URLS = ServerUrls("amqp://broker/", "redis://store/0")


def test_without_a_gpu_three_workers_simulate_one_each() -> None:
    plan = read_plan({}, has_gpu=False)
    assert (plan.worker_ids, plan.worker_gpu) == (["worker-1", "worker-2", "worker-3"], "simulated")


def test_with_gpus_one_worker_serves_them_all() -> None:
    plan = read_plan({}, has_gpu=True)
    assert (plan.worker_ids, plan.worker_gpu) == (["worker-1"], "auto")


def test_simulated_gpus_can_be_asked_for_beside_real_ones() -> None:
    assert read_plan({"WORKER_GPU": "simulated", "WORKERS": "2"}, has_gpu=True).worker_ids == ["worker-1", "worker-2"]


def test_ports_that_were_not_asked_for_are_left_open() -> None:
    plan = read_plan({"WORKER_METRICS_PORT": "0", "DISPATCHER_PORT": ""}, has_gpu=False)
    assert (plan.dispatcher_port, plan.metrics_port) == (None, None)


def test_a_worker_is_killed_only_after_its_own_grace_time() -> None:
    assert read_plan({"WORKER_GRACE_S": "300"}, has_gpu=False).stop_grace_s > 300


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORKERS", "three"),
        ("WORKERS", "-1"),
        ("WORKERS", "65"),
        ("DISPATCHER_PORT", "0"),
        ("WORKER_METRICS_PORT", "70000"),
        ("WORKER_GRACE_S", "long"),
    ],
)
def test_a_bad_value_is_refused_with_its_name(name: str, value: str) -> None:
    with pytest.raises(BadSetting, match=f"^{name}={value}: must be"):
        read_plan({name: value}, has_gpu=False)


def test_every_setting_reaches_the_services_and_the_servers_are_ours() -> None:
    environ = {"LOG_LEVEL": "debug", "RABBITMQ_URL": "amqp://elsewhere/", "WORKER_ID": "gpu"}
    plan = read_plan(environ, has_gpu=False)
    dispatcher = dispatcher_environment(environ, URLS, 5001)
    worker = worker_environment(environ, URLS, plan, "gpu-2", 8001)
    for child in (dispatcher, worker):
        assert (child["RABBITMQ_URL"], child["REDIS_URL"]) == (URLS.rabbitmq_url, URLS.redis_url)
        assert child["LOG_LEVEL"] == "debug"
    assert dispatcher["DISPATCHER_PORT"] == "5001"
    assert (worker["WORKER_ID"], worker["WORKER_METRICS_PORT"], worker["WORKER_GPU"]) == ("gpu-2", "8001", "simulated")


def test_the_services_of_this_machine_reach_the_store_by_its_socket_where_it_has_one() -> None:
    urls = ServerUrls("amqp://broker/", "redis://store/0", "unix:///run/redis.sock?db=0")
    assert dispatcher_environment({}, urls, 5001)["REDIS_URL"] == "unix:///run/redis.sock?db=0"


@pytest.mark.parametrize(("host", "called"), [("0.0.0.0", "127.0.0.1"), ("::", "127.0.0.1"), ("10.1.2.3", "10.1.2.3")])
def test_a_wildcard_is_called_at_loopback(host: str, called: str) -> None:
    assert local_url(host, 5000) == f"http://{called}:5000"


def test_a_password_is_not_printed() -> None:
    assert without_password("amqp://me:secret@host:5672/v") == "amqp://me:***@host:5672/v"
    assert without_password("redis://host/0") == "redis://host/0"


def test_servers_are_external_only_when_both_are_named() -> None:
    both = {"RABBITMQ_URL": "amqp://b/", "REDIS_URL": "redis://r/"}
    assert external_urls(both) == ServerUrls("amqp://b/", "redis://r/")
    assert external_urls({"RABBITMQ_URL": "amqp://b/"}) is None
    assert external_urls(both | {"REDIS_URL": ""}) is None
