"""A worker's reports: at every heartbeat, and at once whenever something changed that others plan with."""

import asyncio
from collections.abc import Callable

import structlog

from affinity.errors import StoreUnavailable
from affinity.fleet import WorkerReport
from worker.events import Beat, Displaced, WorkerEvent
from worker.gpu import GpuUnavailable
from worker.loading import read_gpu
from worker.services import Services

log = structlog.get_logger(__name__)


class Reporter:
    """Publishes what ``snapshot`` returns, one report at a time and in order, and so renews the worker's lease."""

    def __init__(
        self, services: Services, snapshot: Callable[[], WorkerReport], post: Callable[[WorkerEvent], None]
    ) -> None:
        self._services = services
        self._snapshot = snapshot
        self._post = post
        self._order = asyncio.Lock()

    async def publish(self) -> None:
        """Publish the state as it is now. Where the store is away the next heartbeat will."""
        async with self._order:
            report = self._snapshot()
            self._services.metrics.report(report, self._services.executor.cached.held_bytes)
            try:
                if not await self._services.heartbeat.report(report):
                    self._post(Displaced())
            except StoreUnavailable as error:
                log.warning("report.unpublished", worker=report.worker, error=error.message)

    async def beat(self) -> None:
        """Read the driver and publish, once per heartbeat, for ever."""
        while True:
            try:
                self._post(Beat(await read_gpu(self._services)))
            except GpuUnavailable as error:
                log.error("gpu.unreadable", worker=self._services.identity.worker, error=str(error))
            await self.publish()
            await asyncio.sleep(self._services.timing.heartbeat_s)
