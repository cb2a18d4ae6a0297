"""The fleet as workers report it, and the demand that waits for it.

A *worker* is one GPU and its loop: the GPU is the unit of placement. A process that serves several GPUs is several
workers on one ``node``. Everything here may be stale and is only ever used to choose; the worker's own
``VramLedger`` is the truth that lets a load start.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

from affinity.orders import NO_PINS, Order, Pins

GIB = 1024**3


class ResidencyState(StrEnum):
    """A resident's life: claimed and loading, ready to serve, or leaving."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Residency:
    """One model on one GPU. ``footprint_bytes`` is what the ledger holds for it; instants are epoch seconds."""

    model: str
    state: ResidencyState
    footprint_bytes: int
    loaded_at: float
    last_used_at: float
    running: int = 0
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """A model a worker will not load before ``until`` (epoch seconds), and why.

    ``hopeless`` says that trying again changes nothing (damaged weights, a class that raises, three failures in a
    row): when every worker that could hold the model says so, its queued jobs fail with ``code`` and ``message``.
    """

    model: str
    until: float
    code: str
    message: str
    failures: int = 1
    hopeless: bool = False


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU and what its memory holds, in bytes.

    ``used_bytes`` is all the driver counts as used, ``foreign_bytes`` the part of it that other processes hold.
    ``reserve_bytes`` is kept free on purpose. ``utilization`` is 0 to 1, or ``None`` where the driver cannot say.
    ``unreturned_bytes`` is what our executor still holds by the driver's word, and no model of ours accounts for.
    """

    uuid: str
    index: int
    name: str
    total_bytes: int
    used_bytes: int = 0
    foreign_bytes: int = 0
    reserve_bytes: int = 0
    utilization: float | None = None
    unreturned_bytes: int = 0

    @property
    def free_bytes(self) -> int:
        """What the driver counts as free."""
        return max(0, self.total_bytes - self.used_bytes)

    @property
    def usable_bytes(self) -> int:
        """What models may fill when nobody else is on the GPU: all but the reserve."""
        return max(0, self.total_bytes - self.reserve_bytes)

    @property
    def capacity_bytes(self) -> int:
        """What models may fill now: all but the reserve, what other processes hold and what has not come back."""
        return max(0, self.usable_bytes - self.foreign_bytes - self.unreturned_bytes)


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker says of itself at ``as_of`` (its own clock).

    ``(epoch, sequence)`` only ever grows: an older report never replaces a newer one. The queues of all ``residents``
    are bound (and a report is published before a queue is), so that somebody else can unbind them when the lease is
    gone; so may be those of ``owed``, models that it has not been able to unbind yet. ``refusals`` are models whose
    load failed here not long ago. ``cached`` are models whose weights lie in the host's memory, ready to be copied;
    ``served_s`` the seconds it has run jobs since its last load ended.
    """

    worker: str
    node: str
    epoch: int
    sequence: int
    as_of: float
    gpu: Gpu
    residents: tuple[Residency, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    cached: tuple[str, ...] = ()
    served_s: float = 0.0
    draining: bool = False
    lease_s: float = 10.0
    metrics_url: str = ""
    owed: tuple[str, ...] = ()

    @property
    def at_rest(self) -> "WorkerReport":
        """The report it will give when what it runs has just ended."""
        return replace(self, residents=tuple(replace(resident, running=0) for resident in self.residents))

    @property
    def busy(self) -> bool:
        """True while it runs at least one job."""
        # Loops, here and below: planning for a thousand workers asks this all the time, and a generator takes thrice as
        # long.
        for resident in self.residents:  # noqa: SIM110
            if resident.running:
                return True
        return False

    @property
    def loading(self) -> Residency | None:
        """The resident that is being loaded now, if any."""
        loading = ResidencyState.LOADING
        for resident in self.residents:
            if resident.state is loading:
                return resident
        return None

    def holds(self, model: str) -> Residency | None:
        """The residency of a model that is ready or loading here."""
        return next((r for r in self.residents if r.model == model and r.state is not ResidencyState.DRAINING), None)

    def refuses(self, model: str, now: float) -> Refusal | None:
        """The refusal of that model that is in force."""
        if not self.refusals:
            return None
        return next((r for r in self.refusals if r.model == model and r.until > now), None)

    def version(self) -> tuple[int, int]:
        """Orders reports of one worker."""
        return (self.epoch, self.sequence)


@dataclass(frozen=True, slots=True)
class Measurement:
    """What is known of a model on one type of GPU: admission size, seconds to load, seconds to run one batch.

    ``load_s`` is from disk, ``reload_s`` from the host's memory; ``None`` where that was never measured.
    """

    footprint_bytes: int
    load_s: float
    exec_s: float
    reload_s: float | None = None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What placement needs to know of a model: what the catalogue declares, and what was measured per type of GPU."""

    model: str
    declared: Measurement
    max_batch: int = 1
    pinned: bool = False
    measured: Mapping[str, Measurement] = field(default_factory=lambda: MappingProxyType({}))

    def on(self, gpu: Gpu) -> Measurement:
        """The best knowledge for this type of GPU: measured there, else declared."""
        return self.measured.get(gpu.name, self.declared)


@dataclass(frozen=True, slots=True)
class Lane:
    """Queued jobs of one model and tenant (empty: nobody's).

    ``used_s`` are the GPU seconds charged to the tenant, whatever the model, fading with age; ``share`` is its weight.
    """

    tenant: str
    queued: int
    oldest_at: float
    used_s: float = 0.0
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Demand:
    """Queued jobs of one model. ``summed_arrival_s`` is the sum of the instants they were queued (epoch seconds).

    ``rate`` is the running mean of its arrivals per second. A model that nobody waits for, but that is asked for now
    and then, has a demand with ``queued`` 0; its ``oldest_at`` means nothing. ``lanes`` say whose they are; empty
    while no tenant's job waits, of any model.
    """

    model: str
    queued: int
    oldest_at: float
    summed_arrival_s: float
    rate: float = 0.0
    lanes: tuple[Lane, ...] = ()

    @property
    def has_nobodys(self) -> bool:
        """Whether some of them are no tenant's, as all are that come without HTTP."""
        return not self.lanes or any(not lane.tenant for lane in self.lanes)

    def summed_wait_s(self, now: float) -> float:
        """Sum over the queued jobs of the time each has waited, in seconds."""
        return max(0.0, self.queued * now - self.summed_arrival_s)

    def oldest_wait_s(self, now: float) -> float:
        """Time the oldest queued job has waited, in seconds."""
        return max(0.0, now - self.oldest_at)


@dataclass(frozen=True, slots=True)
class FleetView:
    """All live workers by id, as last reported, and the claims on loads (model -> worker). Advisory.

    ``orders`` are those that wait, ``pins`` those set by hand, ``drains`` the workers that are to take no work: what an
    operator asked for.
    """

    workers: Mapping[str, WorkerReport] = field(default_factory=lambda: MappingProxyType({}))
    claims: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    orders: tuple[Order, ...] = ()
    pins: Pins = NO_PINS
    drains: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        reports: Iterable[WorkerReport],
        claims: Mapping[str, str] | None = None,
        orders: Iterable[Order] = (),
        pins: Pins = NO_PINS,
        drains: Iterable[str] = (),
    ) -> "FleetView":
        """The view of these reports; of two reports of one worker the newer counts, in whatever order they come."""
        newest: dict[str, WorkerReport] = {}
        for report in reports:
            known = newest.get(report.worker)
            if known is None or report.version() > known.version():
                newest[report.worker] = report
        claimed = MappingProxyType(dict(claims or {}))
        return cls(MappingProxyType(newest), claimed, tuple(orders), pins, frozenset(drains))

    def with_report(self, report: WorkerReport) -> "FleetView":
        """The view with one worker's newer report in place; an older one changes nothing."""
        return FleetView.of([*self.workers.values(), report], self.claims, self.orders, self.pins, self.drains)

    def holders(self, model: str) -> tuple[WorkerReport, ...]:
        """Workers on which the model is ready or loading, by id."""
        return tuple(self.workers[w] for w in sorted(self.workers) if self.workers[w].holds(model))
