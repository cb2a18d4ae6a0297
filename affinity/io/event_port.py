"""The port to the one stream of events, and what it carries."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from affinity.job import Job


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. ``kind`` as in ``job.settled``; ``id`` orders events and resumes a stream."""

    kind: str
    at: float
    fields: Mapping[str, str]
    id: str = ""


@dataclass(frozen=True, slots=True)
class Settled:
    """A job has ended. ``record`` gives it as it was stored, ``None`` where it is too large to be told around."""

    job_id: str
    record: Callable[[], Job] | None


@dataclass(frozen=True, slots=True)
class Look:
    """Events after a place, and the place to go on from. ``missed``: some in between may be gone from the stream.

    ``more``: there are more than were asked for.
    """

    events: tuple[Event, ...]
    place: str
    missed: bool = False
    more: bool = False


class EventStream(Protocol):
    """The one stream of events. Bounded: whoever is too far behind misses the oldest."""

    async def emit(self, kind: str, at: float, fields: Mapping[str, str]) -> None:
        """Append an event."""

    def settled(self) -> AsyncIterator[Settled | None]:
        """Jobs as they end, from now on, for ever: hints, some may be lost. ``None``: listening has begun (again)."""

    async def since(self, after: str | None, most: int = 500) -> Look:
        """Up to ``most`` events after that id, oldest first, without waiting for any. ``None``: none of them, only the
        place where they end now. ``InvalidInput`` for what is no id."""

    def read(self, after: str | None = None) -> AsyncIterator[Event]:
        """Events after that id (``None``: from now on), for ever."""
