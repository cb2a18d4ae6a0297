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

_ID = re.compile(r"[A-Za-z0-9._:\-]{1,128}\Z")
_MODEL = re.compile(r"[A-Za-z0-9._:/\-]{1,128}\Z")


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


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What the producer asked for.

    ``input`` and the values of ``metadata`` are JSON values. ``ttl_s`` bounds the wait before the first start,
    ``timeout_s`` one attempt (``None``: the model's own), ``max_attempts`` the attempts that are the job's own fault.
    """

    id: str
    model: str
    input: object
    ttl_s: float | None = None
    timeout_s: float | None = None
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    metadata: Mapping[str, object] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Hash of the content without the id: the same id with another digest is a conflict."""
        content = [self.model, self.input, self.ttl_s, self.timeout_s, self.max_attempts, dict(self.metadata)]
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class JobError:
    """Why a job failed: a stable ``code`` of the error tree and a message for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the store knows it. Instants are epoch seconds; durations are seconds measured on one machine.

    ``attempts`` counts starts that may be held against the job; ``losses`` those that may not.
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
    result: object = None
    error: JobError | None = None

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

    ``exec_s`` is the time on the GPU, ``load_s`` the part of the wait spent loading the job's model.
    """

    start: StartKind
    load_s: float
    exec_s: float
    result: object = None
    error: JobError | None = None

    @property
    def state(self) -> JobState:
        """The terminal state this outcome leads to."""
        return JobState.FAILED if self.error else JobState.SUCCEEDED
