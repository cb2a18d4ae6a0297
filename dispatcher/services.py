"""What a dispatcher is made of. ``Services`` are the ports it stands on; ``Dispatcher`` is what its routes may use."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import cast

from fastapi import Request

from affinity.io.ports import Clock, EventStream, FleetStore, JobStore, Publisher
from affinity.topology import Topology
from dispatcher.metrics import DispatcherMetrics
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


def dispatcher_of(request: Request) -> Dispatcher:
    """The dispatcher whose application got this request."""
    return cast(Dispatcher, request.app.state.dispatcher)
