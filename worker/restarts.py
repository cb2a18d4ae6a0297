"""What becomes of an executor that died: its residents are withdrawn, and an empty one takes its place."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import structlog

from affinity.errors import ExecutorDied
from worker.events import ExecutorBack, WorkerEvent
from worker.executor import START_TIMEOUT_S
from worker.intray import Intray
from worker.loading import Loader
from worker.membership import Membership
from worker.reporter import Reporter
from worker.services import Services

log = structlog.get_logger(__name__)

RESTART_FIRST_S = 0.1
RESTART_MOST_S = 10.0
"""Pause before a new executor is started; doubled while executors die without having served."""

STARTS_AT_MOST = 5
"""An executor that dies while it starts is started again so often; then the GPU is at fault, and the worker ends."""

AWAY_WITHIN_S = STARTS_AT_MOST * (START_TIMEOUT_S + RESTART_MOST_S)
"""By then the worker has an executor again, or has ended."""


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
        self._start_s = 0.0

    @property
    def cost_s(self) -> float:
        """How long it takes until the next executor is there, as far as is known, where the last one has served."""
        return RESTART_FIRST_S + self._start_s

    async def start(self) -> None:
        """Start an empty executor."""
        self.ended()
        began = self._services.clock.monotonic()
        await self._services.executor.start()
        self._pid, self._start_s = self._services.executor.pid, self._services.clock.monotonic() - began

    async def resume(self) -> None:
        """Start one after a time without."""
        with self._instead_of_looks("starting an executor"):
            await self._start_some()
        self._services.vitals.looked(self._services.clock.monotonic())
        self._post(ExecutorBack())

    def _instead_of_looks(self, what: str) -> AbstractContextManager[None]:
        services = self._services
        return services.vitals.step(what, services.clock.monotonic(), AWAY_WITHIN_S, instead_of_looks=True)

    async def _start_some(self) -> None:
        for left in reversed(range(STARTS_AT_MOST)):
            try:
                await self.start()
                break
            except ExecutorDied as error:
                log.warning("executor.not_started", error=error.message, tries_left=left)
                if not left:
                    raise
                await self._pause()

    def ended(self) -> None:
        """There is none any more: its memory is free by now."""
        if self._pid is not None:
            self._services.probe.observe(self._services.device.uuid, self._pid, 0)
        self._pid = None

    async def replace(self, lost: Sequence[str], reason: str) -> None:
        """Have nothing sent here any more for the models it took along, and start the next one after a pause."""
        with self._instead_of_looks("going on without an executor"):
            await self.withdraw(lost, reason)
            await self._pause()
            await self.resume()

    async def withdraw(self, lost: Sequence[str], reason: str) -> None:
        """Have nothing sent here any more for the models it took along."""
        self.ended()
        worker = self._services.identity.worker
        await self._membership.note("executor.died", reason=reason, residents=",".join(lost))
        await self._intray.disarm()
        for model in lost:
            self._services.metrics.evicted(worker, model, "executor-died")
            await self._loader.withdraw(model)
        await self._reporter.publish()

    async def _pause(self) -> None:
        await asyncio.sleep(self._pause_s)
        self._pause_s = min(self._pause_s * 2, RESTART_MOST_S)

    def served(self) -> None:
        """The executor has run a batch: if it dies, it was not its start that was at fault."""
        self._pause_s = RESTART_FIRST_S
