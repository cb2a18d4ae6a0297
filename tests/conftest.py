"""Fixtures every layer shares: servers, a fresh namespace, and the guards of the fast layers."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import redis

from tests.support.guards import forbid_sockets_and_sleep
from tests.support.servers import TestServers, session_servers

TESTS = Path(__file__).parent
GUARDED_LAYERS = {"unit", "property"}
MARKED_LAYERS = {"integration": pytest.mark.integration, "chaos": pytest.mark.chaos}

# Model files come from packages only; a test that would fetch one must fail, here and in the processes it starts.
os.environ["HF_HUB_OFFLINE"] = "1"

hypothesis.settings.register_profile("laptop", max_examples=50, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=300, deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "laptop")


def layer_of(path: Path) -> str:
    """The folder under ``tests`` that ``path`` is in, which names its layer."""
    return path.relative_to(TESTS).parts[0] if path.is_relative_to(TESTS) else ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by path, so that ``-m "not integration"`` cannot miss a test."""
    for item in items:
        mark = MARKED_LAYERS.get(layer_of(item.path))
        if mark is not None:
            item.add_marker(mark)


@pytest.fixture(autouse=True)
def _fast_layers_stay_fast(request: pytest.FixtureRequest) -> Iterator[None]:
    if layer_of(request.path) not in GUARDED_LAYERS:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        forbid_sockets_and_sleep(patch)
        yield


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestServers]:
    """RabbitMQ and Redis for the whole session."""
    with session_servers(tmp_path_factory.mktemp("servers"), os.environ) as started:
        yield started


@pytest.fixture(scope="session")
def rabbitmq_url(servers: TestServers) -> str:
    return servers.rabbitmq_url


@pytest.fixture(scope="session")
def redis_url(servers: TestServers) -> str:
    return servers.redis_url


@pytest.fixture
def namespace(redis_url: str) -> Iterator[str]:
    """A prefix nobody else uses; its Redis keys are deleted afterwards, its queues go with the private broker."""
    name = f"t{secrets.token_hex(6)}"
    yield name
    with redis.Redis.from_url(redis_url, socket_timeout=5.0) as client:
        keys = list(client.scan_iter(match=f"{name}*", count=1000))
        if keys:
            client.delete(*keys)
