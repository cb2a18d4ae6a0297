"""Every test of this folder may have a dispatcher over fakes."""

from collections.abc import AsyncIterator, Iterator

import pytest
import structlog

from tests.support.dispatcher import DispatcherWorld, dispatcher_world


@pytest.fixture
async def world() -> AsyncIterator[DispatcherWorld]:
    """A running dispatcher with default settings."""
    async with dispatcher_world() as running:
        yield running


@pytest.fixture
def logged() -> Iterator[list[dict[str, object]]]:
    """What is logged while the test runs."""
    with structlog.testing.capture_logs() as lines:
        yield lines
