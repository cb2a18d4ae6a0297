"""The application: routes, errors, limits and what goes on in the background. It builds no clients and reads no
environment; ``__main__`` does.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from importlib import metadata

import structlog
from fastapi import FastAPI

from affinity.io.loop_lag import LoopLag
from affinity.io.ports import Bounds
from dispatcher import openapi, problems
from dispatcher.auth import KeyGate
from dispatcher.background import Background
from dispatcher.backlog import LOOK_EVERY_S, Backlog
from dispatcher.dead_letters import DeadLetterDesk
from dispatcher.event_feed import EventFeed
from dispatcher.explaining import Explaining
from dispatcher.fleet_glance import FleetGlance
from dispatcher.keys import KeyRing
from dispatcher.limits import BodyLimit
from dispatcher.metrics import DispatcherMetrics, RequestTimer
from dispatcher.readiness import Watch
from dispatcher.republish import Republisher
from dispatcher.routes import console, dead_letters, events, explain, fleet, health, jobs, metrics, orders, produce
from dispatcher.secure_headers import SecureHeaders
from dispatcher.services import Dispatcher, Services
from dispatcher.shares import Shares
from dispatcher.shortcut import Shortcut
from dispatcher.submit import Submitter
from dispatcher.waiting import Settlements
from models.labels import model_labels

log = structlog.get_logger(__name__)

SWEEP_EVERY_S = 5.0
WATCH_EVERY_S = 5.0
KEYS_EVERY_S = 2.0

_DESCRIPTION = """Jobs for a GPU fleet that serves many models: each goes to a worker that has its model in VRAM.

Every error is `application/problem+json` with a stable `code`. `docs/http.md` has examples."""


def _nothing() -> None:
    """The default of ``on_crash``."""


def create_app(services: Services, on_crash: Callable[[], None] = _nothing) -> FastAPI:
    """The application over these services.

    ``on_crash`` is called when a background task ends by a bug: the process should stop then. While the application
    runs, ``app.state.dispatcher`` is its ``Dispatcher``.
    """
    dispatcher = _assemble(services)
    app = FastAPI(
        title="Affinity",
        version=_version(),
        summary="GPU-aware model-affinity job dispatcher",
        description=_DESCRIPTION,
        redirect_slashes=False,
        lifespan=lambda _: _running(dispatcher, on_crash),
    )
    app.state.dispatcher = dispatcher
    for routes in (jobs, events, explain, fleet, orders, dead_letters, health, metrics, produce, console):
        app.include_router(routes.router)
    problems.install(app)
    openapi.install(app, with_keys=dispatcher.keys.asked_for)
    # Added last is outermost: time everything, ask for the key before reading, bound what is read.
    app.add_middleware(Shortcut, path="/jobs", endpoint=jobs.submit)
    app.add_middleware(BodyLimit, most_bytes=services.settings.dispatcher_max_body_bytes)
    if dispatcher.keys.asked_for:
        app.add_middleware(KeyGate, ring=dispatcher.keys, clock=services.clock)
    app.add_middleware(SecureHeaders)
    app.add_middleware(RequestTimer, metrics=dispatcher.metrics, clock=services.clock)
    return app


def _assemble(services: Services) -> Dispatcher:
    labels = model_labels(services.catalog, services.settings.affinity_metrics_models)
    counted = DispatcherMetrics((entry.name for entry in services.catalog), labels)
    glance = FleetGlance(services.fleet, services.catalog, services.clock)
    settings, backlog = services.settings, Backlog(services.store, services.clock)
    keys = KeyRing(settings.api_key_hashes, settings.affinity_api_keys_file)

    def bounds(tenant: str) -> Bounds:
        return Bounds(
            tenant=keys.max_queued(tenant, settings.dispatcher_max_queued_per_tenant) if tenant else None,
            model=settings.dispatcher_max_queued_per_model,
            in_all=settings.dispatcher_max_queued,
        )

    return Dispatcher(
        services=services,
        submitter=Submitter(
            services.store,
            services.publisher,
            glance,
            services.catalog,
            services.clock,
            counted.produced,
            counted.refused,
            bounds,
            backlog,
        ),
        settlements=Settlements(services.events, services.store),
        metrics=counted,
        keys=keys,
        backlog=backlog,
        explaining=Explaining(services.clock),
        desk=DeadLetterDesk(services.store, services.publisher, services.topology, services.clock),
        feed=EventFeed(services.events, settings.dispatcher_max_event_clients),
    )


@contextlib.asynccontextmanager
async def _running(dispatcher: Dispatcher, on_crash: Callable[[], None]) -> AsyncIterator[None]:
    if not dispatcher.keys.asked_for:
        log.warning("keys.unset", advice="AFFINITY_API_KEYS is not set: whoever reaches this port may use it")
    background = Background(on_crash)
    background.start(dispatcher.settlements.follow(), "settlements")
    background.start(dispatcher.feed.follow(), "events")
    background.every(SWEEP_EVERY_S, dispatcher.submitter.sweep, "sweep")
    background.every(SWEEP_EVERY_S, Republisher.of(dispatcher.services).sweep, "republish")
    background.every(WATCH_EVERY_S, Watch(dispatcher.services).look, "watch")
    background.every(LOOK_EVERY_S, dispatcher.backlog.look, "backlog")
    background.every(KEYS_EVERY_S, dispatcher.keys.look, "keys")
    if dispatcher.keys.asked_for:
        background.every(KEYS_EVERY_S, Shares(dispatcher.keys, dispatcher.services.store).tell, "shares")
    dispatcher.desk.start(background)
    lag = LoopLag(dispatcher.metrics.lagged)
    lag.start()
    try:
        yield
    finally:
        lag.stop()
        await background.stop()
        await dispatcher.submitter.close()


def _version() -> str:
    try:
        return metadata.version("affinity-dispatcher")
    except metadata.PackageNotFoundError:
        return "0"  # run from a checkout that was never installed
