"""What can happen to a worker. Everything posts these to its loop; only the loop changes the GPU's state."""

from dataclasses import dataclass, field

from affinity.errors import AffinityError
from affinity.fleet import Gpu
from affinity.io.ports import Delivery
from affinity.policy import Load
from worker.batch import Batch
from worker.host_cache import Tier


@dataclass(frozen=True, slots=True)
class Arrived:
    """A consumer brought a delivery for a model."""

    model: str
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Hinted:
    """Demand or residency changed somewhere. ``cancelled`` is the id of a running job that was, if it is that."""

    cancelled: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Cancelled:
    """These of a batch's jobs have been cancelled."""

    batch: Batch
    job_ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class Beat:
    """The driver's word on the GPU, once per heartbeat."""

    gpu: Gpu


@dataclass(frozen=True, slots=True)
class Ran:
    """The batch of a model is off the GPU (its results may still be on their way to the store).

    ``footprint_bytes`` is the most the model is known to have taken, ``exec_s`` the batch's time; both are ``None``
    when the batch came to nothing. ``out_of_vram``: there was not enough memory for one of its jobs.
    """

    model: str
    footprint_bytes: int | None = None
    exec_s: float | None = None
    out_of_vram: bool = False


@dataclass(frozen=True, slots=True)
class Claimed:
    """The right to carry out a load is ours."""

    load: Load


@dataclass(frozen=True, slots=True)
class Cleared:
    """A load's victims have left the GPU, and the driver says so."""

    load: Load
    gpu: Gpu


@dataclass(frozen=True, slots=True)
class Fetched:
    """The model is in memory; it took ``footprint_bytes`` and ``load_s`` from ``tier``, and the driver says ``gpu``."""

    load: Load
    gpu: Gpu
    footprint_bytes: int
    load_s: float
    tier: Tier


@dataclass(frozen=True, slots=True)
class CalledOff:
    """A load came to nothing before it changed anything: somebody else has it, or a store or broker is away."""

    load: Load
    reason: str


@dataclass(frozen=True, slots=True)
class LoadFault:
    """The load itself failed. ``gpu``: what the driver said after one that ran out of memory."""

    load: Load
    error: AffinityError
    gpu: Gpu | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Left:
    """A model has left the GPU, though no load needs its room; the driver says ``gpu``."""

    model: str
    gpu: Gpu


@dataclass(frozen=True, slots=True)
class ExecutorGone:
    """The executor process ended, and every resident with it."""

    reason: str


@dataclass(frozen=True, slots=True)
class ExecutorBack:
    """A new, empty executor is there."""


@dataclass(frozen=True, slots=True)
class Displaced:
    """Another process lives under this worker's name: this one must stop."""


WorkerEvent = (
    Arrived
    | Hinted
    | Cancelled
    | Beat
    | Ran
    | Claimed
    | Cleared
    | Fetched
    | CalledOff
    | LoadFault
    | Left
    | ExecutorGone
    | ExecutorBack
    | Displaced
)
