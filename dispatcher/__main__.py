"""``python -m dispatcher``: the composition root. Builds the clients, serves until SIGTERM or SIGINT, closes them.

Broker and store may come up after us: nothing here waits for them. Exit 0 after a signal, 1 after a bug, 2 for bad
settings, a broken catalogue or a port that is taken.
"""

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Iterator
from functools import partial
from typing import NoReturn

import structlog
import uvicorn
import uvloop

from affinity.errors import CatalogInvalid, StoreUnavailable
from affinity.io.clock import StoreClock, store_clock
from affinity.io.connection_settings import EXIT_BAD_SETTINGS, load_settings
from affinity.io.events import RedisEventStream
from affinity.io.fleet_store import RedisFleetStore
from affinity.io.job_store import RedisJobStore
from affinity.io.log import configure_logging
from affinity.io.otel import TracingUnavailable, open_tracing
from affinity.io.rabbit import Rabbit
from affinity.io.redis_client import RedisLink, check_store
from affinity.topology import Keys, Topology
from affinity.tracing import Tracing
from dispatcher.app import create_app
from dispatcher.services import Services
from dispatcher.settings import DispatcherSettings
from dispatcher.tracing import TracedRequests, traced
from models.catalog import Catalog, default_catalog_path

log = structlog.get_logger("dispatcher")

BACKLOG = 2048
EXIT_CRASHED = 1

UNTAKEN_S = 20.0
"""A connection whose other end takes nothing for so long, or has vanished, is cut: closing it would wait for ever until
what was written is taken."""

ALIGN_WITHIN_S = 1.0
"""How long the start waits for the store's clock: a store that is away must not keep us from answering that it is."""


class Server(uvicorn.Server):
    """Signals are ours: uvicorn would end the process by the signal once more, after a clean stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield


def main() -> None:
    """Run the dispatcher."""
    settings = load_settings(DispatcherSettings)
    configure_logging(settings.log_level, "dispatcher")
    try:
        catalog = Catalog.load(settings.models_catalog or default_catalog_path())
    except CatalogInvalid as error:
        _refuse_to_start(f"MODELS_CATALOG: {error.message}")
    try:
        tracing = open_tracing(settings.otel_exporter_otlp_endpoint, "dispatcher")
    except TracingUnavailable as error:
        _refuse_to_start(str(error))
    listener = _listen(settings.dispatcher_host, settings.dispatcher_port)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(_serve(settings, catalog, listener, tracing)))


async def _serve(
    settings: DispatcherSettings, catalog: Catalog, listener: socket.socket, tracing: Tracing | None
) -> int:
    keys = Keys(settings.affinity_namespace)
    link = RedisLink(settings.store_url)
    clock = store_clock(link)
    rabbit = Rabbit(settings.broker_url, Topology(settings.affinity_namespace), "dispatcher")
    services = Services(
        store=RedisJobStore(link, keys, settings.affinity_retention_s, settings.affinity_max_result_bytes),
        fleet=RedisFleetStore(link, keys),
        events=RedisEventStream(link, keys),
        publisher=traced(rabbit.publisher, tracing, clock) if tracing else rabbit.publisher,
        check_store=partial(check_store, link),
        clock=clock,
        catalog=catalog,
        settings=settings,
    )
    await rabbit.open()
    keeping = await _keep_time(clock)
    try:
        return await _listen_and_serve(services, listener, tracing)
    finally:
        keeping.cancel()
        await rabbit.close()
        await link.close()
        if tracing:
            await asyncio.to_thread(tracing.close)
        for number in (signal.SIGTERM, signal.SIGINT):
            # The loop takes its handlers away when it closes; a second signal would then kill us after a clean stop.
            asyncio.get_running_loop().remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)


async def _keep_time(clock: StoreClock) -> asyncio.Task[NoReturn]:
    """Set the clock by the store's, if it is there, and go on doing so: the first jobs carry its instants already."""
    with contextlib.suppress(StoreUnavailable, TimeoutError):
        async with asyncio.timeout(ALIGN_WITHIN_S):
            await clock.align()
    return asyncio.create_task(clock.keep_aligned(), name="clock")


async def _listen_and_serve(services: Services, listener: socket.socket, tracing: Tracing | None) -> int:
    code = 0

    def stop(exit_code: int) -> None:
        nonlocal code
        code = max(code, exit_code)
        # First those who wait for jobs or follow events, or the server would wait for them.
        app.state.dispatcher.settlements.close()
        app.state.dispatcher.feed.close()
        server.should_exit = True

    app = create_app(services, on_crash=partial(stop, EXIT_CRASHED))
    server = Server(
        uvicorn.Config(
            TracedRequests(app, tracing, services.clock) if tracing else app,
            log_config=None,
            access_log=False,
            http="httptools",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=max(1, round(services.settings.dispatcher_grace_s)),
        )
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, 0)
    if services.settings.affinity_api_keys_file:
        # Without a file to read again it keeps its old meaning: the terminal has gone.
        loop.add_signal_handler(signal.SIGHUP, app.state.dispatcher.keys.reload)
    host, port = listener.getsockname()[:2]
    log.info("dispatcher.listening", host=host, port=port, models=len(services.catalog))
    await server.serve(sockets=[listener])
    log.info("dispatcher.stopped")
    return code


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        _refuse_to_start(f"DISPATCHER_HOST, DISPATCHER_PORT: cannot listen on {host} port {port}: {error.strerror}")
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux. Every connection takes it over from here.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(UNTAKEN_S * 1000))
    return listener


def _refuse_to_start(reason: str) -> NoReturn:
    print(reason, file=sys.stderr)
    sys.exit(EXIT_BAD_SETTINGS)


if __name__ == "__main__":
    main()
