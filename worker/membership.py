"""Joining and leaving the fleet, and tidying up after workers that left without a word."""

import asyncio

import structlog

from affinity.errors import BrokerUnavailable, StoreUnavailable
from affinity.fleet import WorkerReport
from affinity.io.ports import Sighting
from worker.services import Services

log = structlog.get_logger(__name__)

REAPING_S = 30.0
"""How long one worker may take to tidy up after another before somebody else may try."""

REAP_AGAIN_S = 1.0


class Membership:
    """What a worker does as a member of the fleet, beside its jobs."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._reap_at = float("-inf")

    async def join(self) -> bool:
        """Wait until no earlier life of this worker is alive, and undo the bindings it left. True if it is drained."""
        while True:
            try:
                sighting = await self._services.fleet.sighting()
                reason = await self._take_over(sighting)
            except (StoreUnavailable, BrokerUnavailable) as error:
                reason = error.message
            else:
                if reason is None:
                    return self._services.identity.worker in sighting.view.drains
            log.warning("worker.waits", worker=self._services.identity.worker, reason=reason)
            await asyncio.sleep(self._services.timing.heartbeat_s)

    async def reap(self, lost: tuple[WorkerReport, ...]) -> None:
        """Remove the bindings of workers whose lease is gone; of several that notice, one does it.

        Not again before ``REAP_AGAIN_S`` have passed: every look at the fleet finds them lost until it is done.
        """
        if self._services.clock.monotonic() < self._reap_at:
            return
        self._reap_at = self._services.clock.monotonic() + REAP_AGAIN_S
        for report in lost:
            try:
                if await self._services.fleet.begin_reaping(report.worker, self._services.identity.worker, REAPING_S):
                    jobs = await self._settle_estate(report)
                    await self._services.fleet.forget(report)
                    self._services.metrics.reaped()
                    await self.note("worker.lost", lost=report.worker, jobs=str(jobs))
                    await self._services.fleet.wake()
            except (StoreUnavailable, BrokerUnavailable) as error:
                log.warning("reaping.incomplete", lost=report.worker, error=error.message)

    async def leave(self, report: WorkerReport) -> None:
        """Take our lease, report and claims away, so that nobody waits for us.

        Not where bindings could not be removed: once the lease has run out, whoever reaches the broker removes them.
        """
        try:
            if report.owed:
                log.warning("leave.bindings_left", models=report.owed)
                await self._services.heartbeat.report(report)
            else:
                await self._services.fleet.leave(report)
            await self._services.fleet.wake()
        except StoreUnavailable as error:
            log.warning("leave.incomplete", error=error.message)
        await self.note("worker.left")

    async def note(self, kind: str, **fields: str) -> None:
        """Log an event and put it on the stream. The stream is for those who watch: nothing waits for it."""
        identity = self._services.identity
        log.info(kind, worker=identity.worker, **fields)
        try:
            await self._services.events.emit(kind, self._services.clock.now(), {"worker": identity.worker, **fields})
        except StoreUnavailable as error:
            log.warning("event.unsent", kind=kind, error=error.message)

    async def _settle_estate(self, report: WorkerReport) -> int:
        """Undo the bindings of a worker that is gone and make the jobs it ran demand again. Says how many they were."""
        for model in sorted({*(resident.model for resident in report.residents), *report.owed}):
            await self._services.publisher.unbind(model, report.worker)
        return await self._services.store.reclaim(report.worker, self._services.clock.now())

    async def _take_over(self, sighting: Sighting) -> str | None:
        """``None`` once the name is free and nothing of its earlier life is left; else why not."""
        name = self._services.identity.worker
        if name in sighting.view.workers:
            return "its earlier life still has a lease"
        for report in sighting.lost:
            if report.worker == name:
                await self._settle_estate(report)
        return None
