"""Dead letters as the store keeps them: what they are, and the port behind which they lie.

A job that has failed is a dead letter from that instant on: its record is the letter. What cannot be read as a job, or
comes under the id of another one, is a letter of its own; its id begins with ``~``, as no job's does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from affinity.job import Job, JobError, JobSpec


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter. ``died_at`` is when it was listed; ``worker`` had it last.

    For a job there are ``attempts``, ``losses``, ``deaths``, ``life`` (how often it was put back before) and, if it has
    one, ``tenant``; else ``size_bytes`` and ``excerpt``, the beginning of the body as ASCII.
    """

    id: str
    code: str
    model: str
    error: JobError
    died_at: float
    created_at: float
    worker: str | None
    tenant: str = ""
    attempts: int = 0
    losses: int = 0
    deaths: int = 0
    life: int = 0
    size_bytes: int | None = None
    excerpt: str | None = None


@dataclass(frozen=True, slots=True)
class LetterFilter:
    """Which letters: of one code, of one model; empty means all."""

    code: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class LetterPage:
    """Letters, newest first. ``cursor`` continues it; ``None`` at the end."""

    letters: tuple[Letter, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class LooseLetter:
    """A message that is no job. ``body`` is ``None`` where it was too large to be kept."""

    id: str
    error: JobError
    model: str
    worker: str | None
    body: bytes | None
    size_bytes: int
    routing_key: str
    message_id: str | None


class Burial(StrEnum):
    """What became of the letter: its job is ``listed``; it is ``dropped``, since the job ended otherwise, runs or lives
    again; or it is a ``stranger``'s, whose id is that of another job: to be kept by itself.
    """

    LISTED = "listed"
    DROPPED = "dropped"
    STRANGER = "stranger"


class LetterStore(Protocol):
    """The dead letters. Calls may raise ``StoreUnavailable`` and may be repeated."""

    async def bury(self, spec: JobSpec, created_at: float, life: int | None, error: JobError, now: float) -> Burial:
        """See that the job of a dead letter has failed and is listed. ``life``: in which it was written; ``None`` where
        the broker gave the delivery up. A letter of an earlier life means nothing."""

    async def keep(self, letter: LooseLetter, now: float) -> None:
        """List a letter that is no job. The same id twice is one letter."""

    async def page(self, which: LetterFilter, limit: int, cursor: str | None) -> LetterPage:
        """Letters newest first; ``InvalidInput`` for a limit or cursor that cannot be."""

    async def redrive(self, ids: Sequence[str], apart_s: float) -> tuple[Sequence[str], float]:
        """Have these put back, ``apart_s`` after one another and after those that wait already. Those of them that are
        dead letters, and when the last of them has its turn (0 where there are none)."""

    async def due(self, now: float, limit: int) -> Sequence[str]:
        """Letters whose turn has come, oldest first."""

    async def revive(self, job_id: str, now: float) -> Job | None:
        """Begin a job's next life: queued and unpublished. ``None`` if somebody else has, or it is no dead letter."""

    async def loose(self, letter_id: str) -> LooseLetter | None:
        """A letter that is no job; ``None`` if it is gone."""

    async def forget(self, letter_id: str) -> None:
        """Drop a letter that is no job."""

    async def drop_turn(self, letter_id: str) -> None:
        """Nothing is to be put back any more."""

    async def counts(self) -> Mapping[str, int]:
        """How many letters there are, by code; 0 for codes of which there were some."""
