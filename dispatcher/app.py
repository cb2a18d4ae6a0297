"""The application: routes, errors, limits and what goes on in the background. It builds no clients and reads no
environment; ``__main__`` does.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from importlib import metadata

import structlog
from fastapi import FastAPI
from starlette.routing import Match, Route
from starlette.types import Scope

from affinity.io.ports import Bounds
from dispatcher import openapi, problems
from dispatcher.auth import KeyGate
from dispatcher.background import Background
from dispatcher.backlog import LOOK_EVERY_S, Backlog
from dispatcher.dead_letters import DeadLetterDesk
from dispatcher.explaining import Explaining
from dispatcher.fleet_glance import FleetGlance
from dispatcher.keys import KeyRing
from dispatcher.limits import BodyLimit
from dispatcher.metrics import DispatcherMetrics, RequestTimer
from dispatcher.readiness import Watch
from dispatcher.routes import dead_letters, explain, fleet, health, jobs, metrics, orders, produce
from dispatcher.secure_headers import SecureHeaders
from dispatcher.services import Dispatcher, Services
from dispatcher.submit import Submitter
from dispatcher.waiting import Settlements

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
    for routes in (jobs, explain, fleet, orders, dead_letters, health, metrics, produce):
        app.include_router(routes.router)
    # The same endpoint once more, in front: FastAPI's own route takes a twentieth of a quick job's whole time to find
    # out that there is nothing to inject. The documented one stays, for the documentation.
    app.router.routes.insert(0, _Direct("/jobs", jobs.submit, methods=["POST"]))
    problems.install(app)
    openapi.install(app, with_keys=dispatcher.keys.asked_for)
    # Added last is outermost: time everything, ask for the key before reading, bound what is read.
    app.add_middleware(BodyLimit, most_bytes=services.settings.dispatcher_max_body_bytes)
    if dispatcher.keys.asked_for:
        app.add_middleware(KeyGate, ring=dispatcher.keys, clock=services.clock)
    app.add_middleware(SecureHeaders)
    app.add_middleware(RequestTimer, metrics=dispatcher.metrics, clock=services.clock)
    return app


def _assemble(services: Services) -> Dispatcher:
    counted = DispatcherMetrics(entry.name for entry in services.catalog)
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
            bounds,
            backlog,
        ),
        settlements=Settlements(services.events, services.store),
        metrics=counted,
        keys=keys,
        backlog=backlog,
        explaining=Explaining(services.clock),
        desk=DeadLetterDesk(services.store, services.publisher, services.topology, services.clock),
    )


@contextlib.asynccontextmanager
async def _running(dispatcher: Dispatcher, on_crash: Callable[[], None]) -> AsyncIterator[None]:
    if not dispatcher.keys.asked_for:
        log.warning("keys.unset", advice="AFFINITY_API_KEYS is not set: whoever reaches this port may use it")
    background = Background(on_crash)
    background.start(dispatcher.settlements.follow(), "settlements")
    background.every(SWEEP_EVERY_S, dispatcher.submitter.sweep, "sweep")
    background.every(WATCH_EVERY_S, Watch(dispatcher.services).look, "watch")
    background.every(LOOK_EVERY_S, dispatcher.backlog.look, "backlog")
    background.every(KEYS_EVERY_S, dispatcher.keys.look, "keys")
    dispatcher.desk.start(background)
    try:
        yield
    finally:
        await background.stop()
        await dispatcher.submitter.close()


def _version() -> str:
    try:
        return metadata.version("affinity-dispatcher")
    except metadata.PackageNotFoundError:
        return "0"  # run from a checkout that was never installed


class _Direct(Route):
    """A route that leaves itself in the scope, as FastAPI's do: requests are timed under its path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, found = super().matches(scope)
        return match, {**found, "route": self} if found else found
