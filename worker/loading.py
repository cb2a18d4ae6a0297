"""Carrying out a load: claim, evict, bind, load. Says how far it is by events; never touches the GPU's state."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from affinity.errors import AffinityError, BrokerUnavailable, LoadTimeout, OutOfVram, StoreUnavailable
from affinity.fleet import Gpu
from affinity.policy import Load
from worker.events import CalledOff, Claimed, Cleared, Fetched, Left, LoadFault, WorkerEvent
from worker.gpu_probe import GpuUnreadable
from worker.services import Services

log = structlog.get_logger(__name__)

LOAD_TIMEOUT_S = 1800.0
"""A model that is not in memory by then never will be. Hubs and network disks are slow; a hang is for ever."""

UNLOAD_WITHIN_LEASES = 12
"""Freeing memory takes milliseconds, copying weights to the host seconds: by then it hangs."""

READ_WITHIN_LEASES = 6
"""The same for a question to the driver."""

DRIVER_LAG_S = 2.0
"""How long freed memory may take to show up in the driver's figures."""

DRIVER_POLL_S = 0.05


class Loader:
    """Three steps, each started by the loop and ended by an event to it."""

    def __init__(
        self, services: Services, post: Callable[[WorkerEvent], None], publish_report: Callable[[], Awaitable[None]]
    ) -> None:
        self._services = services
        self._post = post
        self._publish_report = publish_report

    async def claim(self, load: Load) -> None:
        """Take the claim, then look again: the view behind the plan may be older than somebody else's load."""
        identity, fleet = self._services.identity, self._services.fleet
        try:
            if not await fleet.claim(load.model, identity.worker, self._services.timing.lease_s):
                self._services.metrics.claim_lost(identity.worker)
                self._post(CalledOff(load, "another worker claimed it"))
                return
            view = (await fleet.sighting()).view
            holders = view.holders(load.model)
            late = f"{holders[0].worker} holds it by now" if len(holders) > load.copies else ""
            if late:
                self._services.metrics.claim_lost(identity.worker)
            if pinned := [victim for victim in load.victims if view.pins.cover(victim, identity.worker)]:
                late = f"{', '.join(pinned)} was pinned"
            if late:
                await self.release(load)
                self._post(CalledOff(load, late))
                return
        except StoreUnavailable as error:
            self._post(CalledOff(load, error.message))
            return
        self._post(Claimed(load))

    async def clear(self, load: Load) -> None:
        """Make the victims leave: no consumer, no binding, no memory. Ends when the driver counts the bytes as free."""
        for victim in load.victims:
            await self.unload(victim, room_for=load.model)
        self._post(Cleared(load, await self._until_free(load.footprint_bytes if load.victims else 0)))

    async def unload(self, model: str, room_for: str = "") -> None:
        """Make one model leave. ``room_for`` as for ``Executor.unload``."""
        await self.withdraw(model)
        services = self._services
        within_s = UNLOAD_WITHIN_LEASES * services.timing.lease_s
        try:
            with services.vitals.step(f"unloading {model}", services.clock.monotonic(), within_s):
                total = await services.executor.unload(model, room_for)
        except AffinityError as error:
            # Only a dead executor fails here, and then its memory is free; the loop hears of that death by itself.
            log.warning("unload.failed", model=model, error=error.message)
        else:
            self._observe(total)

    async def leave(self, model: str) -> None:
        """Make one model leave whose room no load needs."""
        await self.unload(model)
        self._post(Left(model, await self.reading()))

    async def fetch(self, load: Load) -> None:
        """Say that it is loading, give the claim up, bind its queue, load it."""
        services = self._services
        entry = services.catalog.get(load.model)
        begun = services.clock.monotonic()
        try:
            # Before the binding: whoever tidies up after a lost worker unbinds what its last report names.
            await self._publish_report()
            # Everybody sees the load by now. Held until its end, the claim would keep a hot model from spreading.
            await self.release(load)
            await services.intake.bind(load.model)
            # Longer than the time-out: what must not be missed is a load that it does not end.
            with services.vitals.step(f"loading {load.model}", services.clock.monotonic(), 1.1 * LOAD_TIMEOUT_S):
                async with asyncio.timeout(LOAD_TIMEOUT_S):
                    loaded = await services.executor.load(entry)
        except TimeoutError:
            await services.executor.kill()
            self._post(LoadFault(load, LoadTimeout(f"{load.model} was not loaded within {LOAD_TIMEOUT_S:.0f} s")))
        except OutOfVram as error:
            self._post(LoadFault(load, error, await self._until_free(load.footprint_bytes)))
        except AffinityError as error:
            self._post(LoadFault(load, error))
        else:
            load_s = services.clock.monotonic() - begun
            self._observe(loaded.total_bytes)
            self._post(Fetched(load, await self.reading(), loaded.reserved_bytes, load_s, loaded.tier))

    async def release(self, load: Load) -> None:
        """Give the claim up; where the store is away it runs out by itself."""
        try:
            await self._services.fleet.release(load.model, self._services.identity.worker)
            await self._services.fleet.wake()
        except StoreUnavailable as error:
            log.warning("claim.unreleased", model=load.model, error=error.message)

    async def withdraw(self, model: str) -> None:
        """Neither consume nor bind its queue any more. What is in the queue stays there as demand."""
        for step in (self._services.intake.disarm, self._services.intake.unbind):
            try:
                await step(model)
            except BrokerUnavailable as error:
                # The wish is withdrawn all the same: nothing of it is applied again after the reconnect.
                log.warning("withdraw.incomplete", model=model, error=error.message)

    def _observe(self, total_bytes: int) -> None:
        pid = self._services.executor.pid
        if pid is not None:
            self._services.probe.observe(self._services.device.uuid, pid, total_bytes)

    async def _until_free(self, wanted_bytes: int) -> Gpu:
        """The driver's word once it counts the wanted bytes as free, or after ``DRIVER_LAG_S`` whatever it is."""
        deadline = self._services.clock.monotonic() + DRIVER_LAG_S
        while True:
            gpu = await self.reading()
            if gpu.free_bytes >= wanted_bytes:  # Not the reserve on top: what it is for may be in use already.
                return gpu
            if self._services.clock.monotonic() >= deadline:
                log.error("vram.not_back", wanted_bytes=wanted_bytes, free_bytes=gpu.free_bytes)
                return gpu
            await asyncio.sleep(DRIVER_POLL_S)

    async def reading(self) -> Gpu:
        """The driver's word. One that fails for a moment is asked again, or the worker would end with all it holds.

        Raises ``GpuUnreadable`` after ``DRIVER_LAG_S``.
        """
        deadline = self._services.clock.monotonic() + DRIVER_LAG_S
        while True:
            try:
                return await read_gpu(self._services)
            except GpuUnreadable as error:
                if self._services.clock.monotonic() >= deadline:
                    raise
                log.warning("gpu.asked_again", error=str(error))
            await asyncio.sleep(DRIVER_POLL_S)


async def read_gpu(services: Services) -> Gpu:
    """What the driver says of this worker's GPU. In a thread: a driver in trouble can take seconds to answer."""
    pid = services.executor.pid
    own = frozenset() if pid is None else frozenset({pid})
    within_s = READ_WITHIN_LEASES * services.timing.lease_s
    with services.vitals.step("a question to the GPU's driver", services.clock.monotonic(), within_s):
        return await asyncio.to_thread(services.probe.read, services.device.uuid, own, services.reserve_bytes)


def hopeless(error: AffinityError) -> bool:
    """True if trying the same load again cannot help."""
    return not isinstance(error, (OutOfVram, LoadTimeout)) and error.disposition == "dead-letter"
