"""A running system for each test: real servers, real processes, a namespace nobody else uses."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.system import System, running_system


@pytest.fixture
def system(rabbitmq_url: str, redis_url: str, namespace: str, tmp_path: Path) -> Iterator[System]:
    """A ready dispatcher and no workers."""
    with running_system(rabbitmq_url, redis_url, namespace, tmp_path) as running:
        yield running
