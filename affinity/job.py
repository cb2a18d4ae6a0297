"""A job, its attempts and the one transition table that says how it may move.

``JobSpec`` is what the producer said and never changes; ``Job`` adds what has happened to it since.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from affinity.errors import InvalidInput, InvariantBroken

MAX_WAIT_S = 60.0
"""Longest ``Prefer: wait`` a client may ask for."""

DEFAULT_MAX_ATTEMPTS = 3

MAX_LOSSES = 10
"""Attempts lost through no fault of the job (worker lost, out of memory) before it gives up; bounded on their own."""

MAX_LIVES = 10
"""Earlier lives of a job that are kept."""

MAX_DEATHS = 3
"""Executors that may die under a job before it is quarantined."""

RUNGS_S = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0)
"""Every time a job may be told to wait before it is tried again: each has a queue of its own on the broker."""

DUE_SLACK_S = 0.5
"""A job that comes back from its wait by this much too early is started all the same: clocks are never quite equal."""

_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}\Z")
_MODEL = re.compile(r"[A-Za-z0-9._:/\-]{1,128}\Z")
_TENANT = re.compile(r"[A-Za-z0-9._\-]{0,64}\Z")


class JobState(StrEnum):
    """Where a job stands. The four terminal states are reached exactly once."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def terminal(self) -> bool:
        """True where no transition leads out."""
        return not TRANSITIONS[self]


TRANSITIONS: Mapping[JobState, frozenset[JobState]] = MappingProxyType(
    {
        JobState.QUEUED: frozenset({JobState.RUNNING, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED}),
        JobState.RUNNING: frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.QUEUED}),
        JobState.SUCCEEDED: frozenset(),
        JobState.FAILED: frozenset(),
        JobState.CANCELLED: frozenset(),
        JobState.EXPIRED: frozenset(),
    }
)
"""``queued -> failed`` is a job that gives up before it starts (its model cannot be loaded, or fits no GPU)."""


class StartKind(StrEnum):
    """Whether the model was in VRAM when the job came to the worker, or had to be loaded for it."""

    WARM = "warm"
    COLD = "cold"


def check_transition(before: JobState, after: JobState) -> None:
    """Raise ``InvariantBroken`` unless the table allows ``before -> after``."""
    if after not in TRANSITIONS[before]:
        raise InvariantBroken(f"a job cannot go from {before} to {after}")


def check_job_id(job_id: str) -> str:
    """The id, or ``InvalidInput`` that says what an id may hold."""
    if not _ID.match(job_id):
        raise InvalidInput("must be 1 to 128 letters, digits or . _ : -", "id")
    return job_id


def check_model_name(name: str) -> str:
    """The name, or ``InvalidInput``: a name is a routing key, so ``*``, ``#`` and blanks cannot be in it."""
    if not _MODEL.match(name):
        raise InvalidInput("must be 1 to 128 letters, digits or . _ - / :", "model")
    return name


def check_tenant(name: str) -> str:
    """The name of a tenant (empty: nobody's), or ``InvalidInput``: it is part of keys, so it has no colon in it."""
    if not _TENANT.match(name):
        raise InvalidInput("must be at most 64 letters, digits or . _ -", "tenant")
    return name


def backoff_s(failures: int, dice: int) -> float:
    """How long a job waits after its ``failures``-th failure: half of 2, 4, 8, ... 64 s to all of it, as the dice fall.

    What failed together does not all come back together.
    """
    most_s = min(2.0 ** min(failures, len(RUNGS_S)), RUNGS_S[-1])
    near = [rung_s for rung_s in RUNGS_S if most_s / 2 <= rung_s <= most_s]
    return near[dice % len(near)]


def rung_below(left_s: float) -> float:
    """The longest wait there is that is over by then; the shortest, where all are longer."""
    return max((rung_s for rung_s in RUNGS_S if rung_s <= left_s), default=RUNGS_S[0])


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What the producer asked for.

    ``input`` and the values of ``metadata`` are JSON values. ``ttl_s`` bounds the wait before the first start, and
    every wait after a failure: no attempt begins when so much time has passed since the job was accepted.
    ``timeout_s`` bounds one attempt (``None``: the model's own), ``max_attempts`` those that are the job's own fault.
    ``tenant``: whose job it is; empty where keys have no tenants, and for jobs published without HTTP.
    """

    id: str
    model: str
    input: object
    ttl_s: float | None = None
    timeout_s: float | None = None
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    metadata: Mapping[str, object] = field(default_factory=dict)
    tenant: str = ""

    @property
    def digest(self) -> str:
        """Hash of the content without the id: the same id with another digest is a conflict."""
        content = [self.model, self.input, self.ttl_s, self.timeout_s, self.max_attempts, dict(self.metadata)]
        if self.tenant:  # Another tenant's job of that id is another job.
            content.append(self.tenant)
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed: a stable ``code`` of the error tree and a message for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Life:
    """One life of a job that was put back from the dead letters, from its acceptance to its failure."""

    created_at: float
    finished_at: float
    attempts: int
    losses: int
    deaths: int
    worker: str | None
    error: JobError


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the store knows it. Instants are epoch seconds; durations are seconds measured on one machine.

    ``attempts`` counts starts that may be held against the job; ``losses`` those that may not. ``deaths``: executors
    that died under it, alone or in a batch. ``not_before``: it failed and is not tried again until then. ``lives`` are
    those before this one, of which there were ``life`` (the last ``MAX_LIVES`` are kept). ``evicted`` are the
    models that had to leave VRAM for the load before a cold start; ``None`` where there was none, or it is not known.
    """

    spec: JobSpec
    state: JobState
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    attempts: int = 0
    losses: int = 0
    worker: str | None = None
    start: StartKind | None = None
    wait_s: float | None = None
    load_s: float | None = None
    exec_s: float | None = None
    evicted: tuple[str, ...] | None = None
    result: object = None
    error: JobError | None = None
    deaths: int = 0
    not_before: float | None = None
    life: int = 0
    lives: tuple[Life, ...] = ()

    @property
    def id(self) -> str:
        """The job's id."""
        return self.spec.id


@dataclass(frozen=True, slots=True)
class Attempt:
    """One start of one job on one worker.

    ``token`` is unique: only its holder may finish or give back the job. ``worker`` and ``epoch`` name the lease
    under which it runs; when that lease is gone, the job may be started again by somebody else.
    """

    job_id: str
    token: str
    worker: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended, as the worker reports it to the store. Exactly one of ``result`` and ``error`` counts.

    ``exec_s`` is the time on the GPU, ``load_s`` the part of the wait spent loading the job's model. ``evicted`` are
    the models that had to leave for that load, and only count for a cold start. ``gpu_s`` is what the job's tenant is
    charged: the job's part of its batch's time; ``None`` where no account is kept.
    """

    start: StartKind
    load_s: float
    exec_s: float
    result: object = None
    error: JobError | None = None
    evicted: tuple[str, ...] = ()
    gpu_s: float | None = None

    @property
    def state(self) -> JobState:
        """The terminal state this outcome leads to."""
        return JobState.FAILED if self.error else JobState.SUCCEEDED
