"""What becomes of an executor that died: its residents are withdrawn, and an empty one takes its place."""

import asyncio
from collections.abc import Callable, Sequence

from worker.events import ExecutorBack, WorkerEvent
from worker.intray import Intray
from worker.loading import Loader
from worker.membership import Membership
from worker.reporter import Reporter
from worker.services import Services

RESTART_FIRST_S = 0.1
RESTART_MOST_S = 10.0
"""Pause before a new executor is started; doubled while executors die without having served."""


class Restarts:
    """Starts a worker's executors, one after the other. Says by ``ExecutorBack`` that the next one is there."""

    def __init__(
        self,
        services: Services,
        intray: Intray,
        loader: Loader,
        reporter: Reporter,
        post: Callable[[WorkerEvent], None],
    ) -> None:
        self._services = services
        self._intray = intray
        self._loader = loader
        self._reporter = reporter
        self._membership = Membership(services)
        self._post = post
        self._pause_s = RESTART_FIRST_S
        self._pid: int | None = None

    async def start(self) -> None:
        """Start an empty executor; the last one's memory is free by now."""
        executor, probe = self._services.executor, self._services.probe
        if self._pid is not None:
            probe.observe(self._services.device.uuid, self._pid, 0)
        await executor.start()
        self._pid = executor.pid

    async def replace(self, lost: Sequence[str], reason: str) -> None:
        """Have nothing sent here any more for the models it took along, and start the next one after a pause."""
        worker = self._services.identity.worker
        await self._membership.note("executor.died", reason=reason, residents=",".join(lost))
        await self._intray.disarm()
        for model in lost:
            self._services.metrics.evicted(worker, model, "executor-died")
            await self._loader.withdraw(model)
        await self._reporter.publish()
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(self._pause_s * 2, RESTART_MOST_S)
        await self.start()
        self._post(ExecutorBack())

    def served(self) -> None:
        """The executor has run a batch: if it dies, it was not its start that was at fault."""
        self._pause_s = RESTART_FIRST_S
