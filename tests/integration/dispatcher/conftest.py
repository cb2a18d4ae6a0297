"""Dispatcher processes on the session's servers, and gates before those."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from tests.support.dispatcher_process import DispatcherProcess, Gate, StartDispatcher, dispatcher_process


@pytest.fixture
async def start_dispatcher(rabbitmq_url: str, redis_url: str, namespace: str) -> AsyncIterator[StartDispatcher]:
    """Starts a dispatcher on the session's servers; settings given by name win."""
    async with AsyncExitStack() as stack:

        async def start(**settings: str) -> DispatcherProcess:
            ours = {"RABBITMQ_URL": rabbitmq_url, "REDIS_URL": redis_url, "AFFINITY_NAMESPACE": namespace}
            return await stack.enter_async_context(dispatcher_process(**{**ours, **settings}))

        yield start


@pytest.fixture
async def gates(rabbitmq_url: str, redis_url: str) -> AsyncIterator[dict[str, Gate]]:
    """Gates before ``broker`` and ``store``, shut."""
    made = {"broker": Gate(rabbitmq_url), "store": Gate(redis_url)}
    yield made
    for gate in made.values():
        await gate.shut()
