"""What one worker stands on: the outside world behind its ports, and the knobs of its loop."""

from dataclasses import dataclass, field

from affinity.io.event_port import EventStream
from affinity.io.ports import Clock, FleetStore, Intake, JobStore, Publisher
from affinity.topology import Topology
from affinity.tracing import Tracing
from models.catalog import Catalog
from worker.executor import Executor
from worker.gpu import GpuDevice, GpuProbe
from worker.metrics import WorkerMetrics
from worker.vitals import Vitals


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. ``grace_s`` is how long a stopping worker lets what runs go on."""

    heartbeat_s: float
    lease_s: float
    grace_s: float


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a worker is: its name, the process it lives in, and the epoch that tells it from its earlier lives."""

    worker: str
    node: str
    epoch: int
    metrics_url: str


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a worker needs from outside. ``heartbeat`` is a fleet store whose client has short timeouts. Without
    ``tracing`` nothing is told of a job's way.
    """

    identity: Identity
    timing: Timing
    device: GpuDevice
    reserve_bytes: int
    fallback_prefetch: int
    probe: GpuProbe
    executor: Executor
    topology: Topology
    catalog: Catalog
    store: JobStore
    fleet: FleetStore
    heartbeat: FleetStore
    events: EventStream
    publisher: Publisher
    intake: Intake
    clock: Clock
    metrics: WorkerMetrics
    tracing: Tracing | None = None
    vitals: Vitals = field(default_factory=Vitals)
