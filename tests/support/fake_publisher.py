"""A ``Publisher`` in memory: what a broker would have confirmed, and the ways it may not."""

from collections.abc import Awaitable, Callable

from affinity.errors import BrokerUnavailable
from affinity.io.ports import DeadLetter
from affinity.job import JobSpec


class FakePublisher:
    """``down`` refuses everything; ``on_publish`` is awaited before each confirm and may raise instead of it."""

    def __init__(self) -> None:
        self.down = False
        self.published: list[JobSpec] = []
        self.depths: dict[str, int] = {}
        self.on_publish: Callable[[JobSpec], Awaitable[None]] | None = None

    async def publish(self, spec: JobSpec, created_at: float) -> None:
        """See the port."""
        self._reach()
        if self.on_publish:
            await self.on_publish(spec)
        self.published.append(spec)

    async def park(self, spec: JobSpec, created_at: float) -> None:
        """See the port."""
        await self.publish(spec, created_at)

    async def bury(self, letter: DeadLetter) -> None:
        """See the port."""
        self._reach()

    async def ping(self) -> None:
        """See the port."""
        self._reach()

    async def depth(self, queue: str) -> int | None:
        """See the port."""
        self._reach()
        return self.depths.get(queue)

    async def unbind(self, model: str, worker: str) -> None:
        """See the port."""
        self._reach()

    def _reach(self) -> None:
        if self.down:
            raise BrokerUnavailable("RabbitMQ is not connected (fake:0); trying again")
