"""A running system for each test: real servers, real processes, a namespace nobody else uses."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.system import System, running_system


@pytest.fixture
def system(
    request: pytest.FixtureRequest, rabbitmq_url: str, redis_url: str, namespace: str, tmp_path: Path
) -> Iterator[System]:
    """A ready dispatcher and no workers, with the module's ``CATALOGUE`` and ``SETTINGS`` where it has some."""
    settings = dict(getattr(request.module, "SETTINGS", {}))
    if catalogue := getattr(request.module, "CATALOGUE", None):
        path = tmp_path / "catalogue.toml"
        path.write_text(catalogue)
        settings["MODELS_CATALOG"] = str(path)
    with running_system(rabbitmq_url, redis_url, namespace, tmp_path, **settings) as running:
        yield running
