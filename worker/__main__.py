"""``python -m worker``: the composition root of a worker process.

Serves every GPU it may see that no other process serves, one worker each, until SIGTERM or SIGINT.
"""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass

import structlog
import uvloop

from affinity.errors import AffinityError, CatalogInvalid, StoreUnavailable
from affinity.io.clock import StoreClock, store_clock
from affinity.io.connection_settings import EXIT_BAD_SETTINGS, load_settings
from affinity.io.events import RedisEventStream
from affinity.io.fleet_store import RedisFleetStore
from affinity.io.job_store import RedisJobStore
from affinity.io.log import configure_logging
from affinity.io.loop_lag import LoopLag
from affinity.io.otel import TracingUnavailable, open_tracing
from affinity.io.rabbit import Rabbit
from affinity.io.redis_client import HEARTBEAT, RedisLink
from affinity.topology import Keys, Topology
from affinity.tracing import Tracing
from models.catalog import Catalog, default_catalog_path
from models.labels import model_labels
from worker.executor import Executor
from worker.gpu import GpuDevice, GpuProbe, GpuUnavailable, open_probe
from worker.http import MetricsServer
from worker.loading import read_gpu
from worker.metrics import WorkerMetrics
from worker.runtime import Worker
from worker.services import Identity, Services, Timing
from worker.settings import WorkerSettings, executor_environment, worker_ids
from worker.vitals import Vitals

log = structlog.get_logger("worker")

EXIT_FAILED = 1


@dataclass(frozen=True, slots=True)
class Links:
    """Connections of the process, shared by its workers."""

    redis: RedisLink
    heartbeat: RedisLink
    rabbit: Rabbit
    clock: StoreClock


class Process:
    """The workers of this process, their start and their stop."""

    def __init__(
        self, settings: WorkerSettings, catalog: Catalog, probe: GpuProbe, tracing: Tracing | None = None
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        self._probe = probe
        self._tracing = tracing
        self._keys = Keys(settings.affinity_namespace)
        self._topology = Topology(settings.affinity_namespace)
        self._metrics = WorkerMetrics(model_labels(catalog, settings.affinity_metrics_models))
        self._workers: dict[str, Worker] = {}
        self._vitals: dict[str, Vitals] = {}
        self._stopping = asyncio.Event()
        self._asked_to_stop = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self) -> None:
        """Serve until stopped. Raises what a worker could not go on after."""
        self._loop = asyncio.get_running_loop()
        if self._asked_to_stop:
            return
        settings = self._settings
        heartbeat = RedisLink(settings.store_url, HEARTBEAT)
        links = Links(
            redis=RedisLink(settings.store_url),
            heartbeat=heartbeat,
            rabbit=Rabbit(settings.broker_url, self._topology, f"worker {settings.worker_id}"),
            clock=store_clock(heartbeat),
        )
        where = settings.worker_metrics_host, settings.worker_metrics_port
        server = MetricsServer(self._metrics, *where, self._health, self._stuck)
        await server.start()
        await links.rabbit.open()
        log.info("worker.starts", worker=settings.worker_id, metrics=server.url)
        keeping = asyncio.create_task(links.clock.keep_aligned(), name="clock")
        lag = LoopLag(self._metrics.lagged)
        lag.start()
        try:
            async with asyncio.TaskGroup() as group:
                ids: Mapping[str, str] = worker_ids(settings, self._probe.devices())
                for device in self._probe.devices():
                    group.create_task(self._serve(device, ids[device.uuid], links, server.url))
        finally:
            lag.stop()
            keeping.cancel()
            await links.rabbit.close()
            for link in (links.redis, links.heartbeat):
                with contextlib.suppress(StoreUnavailable):
                    await link.close()
            await server.stop()
            if self._tracing:
                await asyncio.to_thread(self._tracing.close)
            self._probe.close()
            log.info("worker.stopped", worker=settings.worker_id)

    def ask_to_stop(self) -> None:
        """Let every worker leave. May be called from a signal handler, before, during and after ``run``."""
        self._asked_to_stop = True
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        self._stopping.set()
        for worker in self._workers.values():
            worker.stop()

    async def _serve(self, device: GpuDevice, name: str, links: Links, url: str) -> None:
        fleet = RedisFleetStore(links.redis, self._keys)
        epoch = await self._take_gpu(device, name, fleet, links.clock)
        if epoch is None:
            return
        identity = Identity(name, self._settings.worker_id, epoch, f"{url}/metrics")
        services = self._services(device, identity, links, fleet)
        worker = Worker(services, await read_gpu(services))
        self._workers[name], self._vitals[name] = worker, services.vitals
        if self._stopping.is_set():
            worker.stop()
        try:
            await worker.run()
        finally:
            self._metrics.gone(name)

    async def _take_gpu(self, device: GpuDevice, name: str, fleet: RedisFleetStore, clock: StoreClock) -> int | None:
        """The epoch under which this GPU is ours; waits while another worker has it. ``None``: we were stopped."""
        said = ""
        while not self._stopping.is_set():
            try:
                await clock.align()  # Before the first report: instants by another clock would mislead the fleet.
                if await fleet.lease_gpu(device.uuid, name, self._settings.worker_lease_s):
                    return await fleet.next_epoch()
                reason = "another worker serves it"
            except StoreUnavailable as error:
                reason = error.message
            if reason != said:
                log.warning("gpu.waits", worker=name, gpu=device.uuid, reason=reason)
                said = reason
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._settings.worker_heartbeat_s)
        return None

    def _services(self, device: GpuDevice, identity: Identity, links: Links, fleet: RedisFleetStore) -> Services:
        settings, probe = self._settings, self._probe
        simulated = probe.torch_device == "cpu"
        return Services(
            identity=identity,
            timing=Timing(settings.worker_heartbeat_s, settings.worker_lease_s, settings.worker_grace_s),
            device=device,
            reserve_bytes=settings.reserve_bytes(probe.torch_device),
            fallback_prefetch=settings.worker_fallback_prefetch,
            probe=probe,
            executor=Executor(
                env={**executor_environment(), **probe.executor_env(device.uuid)},
                torch_device=probe.torch_device,
                limit_bytes=device.total_bytes if simulated else None,
                label=identity.worker,
                host_cache_bytes=settings.host_cache_bytes,
            ),
            topology=self._topology,
            catalog=self._catalog,
            store=RedisJobStore(
                links.redis, self._keys, settings.affinity_retention_s, settings.affinity_max_result_bytes
            ),
            fleet=fleet,
            heartbeat=RedisFleetStore(links.heartbeat, self._keys),
            events=RedisEventStream(links.redis, self._keys),
            publisher=links.rabbit.publisher,
            intake=links.rabbit.intake(identity.worker),
            clock=links.clock,
            metrics=self._metrics,
            tracing=self._tracing,
        )

    def _stuck(self) -> dict[str, str]:
        if self._stopping.is_set():  # Whoever has asked for that waits for the end of the process, and no longer.
            return {}
        now, heartbeat_s = time.monotonic(), self._settings.worker_heartbeat_s  # What StoreClock.monotonic() is.
        found = {name: vitals.stuck(now, heartbeat_s) for name, vitals in self._vitals.items()}
        return {name: why for name, why in found.items() if why}

    def _health(self) -> tuple[bool, dict[str, object]]:
        return not self._stopping.is_set(), {"workers": sorted(self._workers)}


def main() -> int:
    """Exit 0 after a stop, 1 when a worker could not go on, 2 for bad settings or a bad catalogue."""
    settings = load_settings(WorkerSettings)
    configure_logging(settings.log_level, "worker")
    try:
        catalog = Catalog.load(settings.models_catalog or default_catalog_path())
        tracing = open_tracing(settings.otel_exporter_otlp_endpoint, "worker")
    except (CatalogInvalid, TracingUnavailable) as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_SETTINGS
    try:
        process = Process(settings, catalog, open_probe(settings), tracing)
        for number in (signal.SIGTERM, signal.SIGINT):
            # Not the loop's own handlers: those are gone once it is closed, and a second signal would then kill us.
            signal.signal(number, lambda *_: process.ask_to_stop())
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(process.run())
            for number in (signal.SIGTERM, signal.SIGINT):
                # The interpreter takes handlers away while it ends, but leaves what is ignored ignored.
                signal.signal(number, signal.SIG_IGN)
    except (GpuUnavailable, OSError) as error:
        log.error("worker.failed", error=str(error))
        return EXIT_FAILED
    except ExceptionGroup as group:
        expected, bugs = group.split((AffinityError, GpuUnavailable))
        for failure in expected.exceptions if expected else ():
            log.error("worker.failed", error=str(failure))
        if bugs:
            raise bugs from None
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
