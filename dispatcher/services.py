"""What a dispatcher is made of. ``Services`` are the ports it stands on; ``Dispatcher`` is what its routes may use."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from fastapi import Request

from affinity.io.event_port import EventStream
from affinity.io.ports import Clock, FleetStore, JobStore, Publisher
from affinity.topology import Topology
from dispatcher.auth import caller_in
from dispatcher.backlog import Backlog
from dispatcher.dead_letters import DeadLetterDesk
from dispatcher.event_feed import EventFeed
from dispatcher.explaining import Explaining
from dispatcher.keys import KeyRing
from dispatcher.metrics import DispatcherMetrics
from dispatcher.own_jobs import OwnJobs
from dispatcher.settings import DispatcherSettings
from dispatcher.submit import Submitter
from dispatcher.waiting import Settlements
from models.catalog import Catalog


@dataclass(frozen=True, slots=True)
class Services:
    """Ports and settings. ``check_store`` really asks the store: returns warnings, or raises ``StoreUnavailable``."""

    store: JobStore
    fleet: FleetStore
    events: EventStream
    publisher: Publisher
    check_store: Callable[[], Awaitable[Sequence[str]]]
    clock: Clock
    catalog: Catalog
    settings: DispatcherSettings

    @property
    def topology(self) -> Topology:
        """Names on the broker."""
        return Topology(self.settings.affinity_namespace)


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """Services, and the use cases built upon them."""

    services: Services
    submitter: Submitter
    settlements: Settlements
    metrics: DispatcherMetrics
    keys: KeyRing
    backlog: Backlog
    explaining: Explaining
    desk: DeadLetterDesk
    feed: EventFeed

    def seen_by(self, tenant: str) -> "Dispatcher":
        """The same, with a store in which there are only this tenant's jobs."""
        own = cast(JobStore, OwnJobs(self.services.store, tenant))
        return replace(self, services=replace(self.services, store=own))


def dispatcher_of(request: Request) -> Dispatcher:
    """The dispatcher whose application got this request, as far as its caller may see it."""
    dispatcher = cast(Dispatcher, request.app.state.dispatcher)
    tenant = caller_in(request).tenant
    return dispatcher.seen_by(tenant) if tenant else dispatcher
