"""Every test of this folder may have a dispatcher over fakes."""

from collections.abc import AsyncIterator

import pytest

from tests.support.dispatcher import DispatcherWorld, dispatcher_world


@pytest.fixture
async def world() -> AsyncIterator[DispatcherWorld]:
    """A running dispatcher with default settings."""
    async with dispatcher_world() as running:
        yield running
