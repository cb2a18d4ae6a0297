"""One reader of the event stream for all clients that follow it, while there are any.

Each follower has a bounded buffer of frames, which are made once and shared. One that does not keep up is not told any
more: it says goodbye when it gets to it, and may come back for what it missed.
"""

import asyncio
import contextlib
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Sequence

import structlog

from affinity.errors import QueueFull, StoreUnavailable
from affinity.io.event_port import Event, EventStream, Look
from dispatcher.event_frames import Told, about_stream, told

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 0.05
AWAY_S = 0.5
"""Pause after a look that failed. Each of them took its time already."""

PAGE = 200
BUFFER_BYTES = 512 * 1024
TENANTS_PART = 4
"""One tenant's clients are at most this part of all: a tenant must not shut out the operators."""

_COME_BACK_S = 5.0
_AWAY = Told(about_stream("stream.paused", "the store is away: what happens meanwhile is told when it is back"))
_BACK = Told(about_stream("stream.resumed", "the store is back"))


class Follower:
    """What one client is still to be told. ``behind``: it did not keep up. ``missed``: the stream itself lost some."""

    def __init__(self, most_bytes: int) -> None:
        self.stirred = asyncio.Event()
        self.behind = False
        self.missed = False
        self._most_bytes = most_bytes
        self._held: deque[Told] = deque()
        self._held_bytes = 0

    def put(self, one: Told) -> None:
        """Tell it, or note that it is behind and forget all that it was to be told."""
        self.stirred.set()
        if self.behind:
            return
        self._held.append(one)
        self._held_bytes += len(one.frame)
        if self._held_bytes > self._most_bytes:
            self.clear()
            self.behind = True

    def take(self, most_bytes: int) -> list[Told]:
        """The oldest, up to so many bytes, one at least if there is any."""
        taken: list[Told] = []
        while self._held and (not taken or most_bytes >= len(self._held[0].frame)):
            taken.append(self._held.popleft())
            self._held_bytes -= len(taken[-1].frame)
            most_bytes -= len(taken[-1].frame)
        return taken

    def clear(self) -> None:
        """Forget all: what is read from the stream after this has it."""
        self._held.clear()
        self._held_bytes = 0
        self.behind = self.missed = False


class EventFeed:
    """Reads the stream and tells the followers."""

    def __init__(
        self, events: EventStream, most_followers: int, look_every_s: float = LOOK_EVERY_S, away_s: float = AWAY_S
    ) -> None:
        self._events = events
        self._most = most_followers
        self._look_every_s = look_every_s
        self._away_s = away_s
        self._fleet: set[Follower] = set()
        self._jobs: defaultdict[str, set[Follower]] = defaultdict(set)
        self._tenants: Counter[str] = Counter()
        self._place: str | None = None
        self._opening = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._closed = asyncio.Event()
        self._away = False

    @property
    def closing(self) -> bool:
        """Whether followers are to say goodbye."""
        return self._closed.is_set()

    @property
    def followers(self) -> int:
        """How many there are."""
        return self._tenants.total()

    async def follow(self) -> None:
        """Read for as long as somebody wants to know, for ever."""
        while True:
            await self._wanted.wait()
            if await self._look():
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._away_s if self._away else self._look_every_s):
                    await self._closed.wait()

    @contextlib.contextmanager
    def joined(self, job: str = "", tenant: str = "", most_bytes: int = BUFFER_BYTES) -> Iterator[Follower]:
        """A follower of one job, or of the fleet. ``QueueFull`` where there are as many as may be.

        Ask for ``place`` after this, and read what was before it after that: nothing is missed in between.
        """
        self._make_room(tenant)
        follower = Follower(most_bytes)
        if self._away:
            follower.put(_AWAY)
        group = self._jobs[job] if job else self._fleet
        group.add(follower)
        self._tenants[tenant] += 1
        try:
            yield follower
        finally:
            self._tenants[tenant] -= 1
            group.discard(follower)
            if job and not group:
                self._jobs.pop(job, None)
            if not self.followers:
                # Nobody is told of what comes now: the next follower begins at the end of the stream.
                self._place = None
                self._away = False
                self._wanted.clear()

    async def place(self) -> str:
        """Id of the last event that followers were told of; they are told of all that come later."""
        async with self._opening:
            if self._place is None:
                self._place = (await self._events.since(None)).place
            if not self.closing:
                self._wanted.set()
            return self._place

    async def since(self, after: str) -> Look:
        """A page of what is in the stream after an id, for who comes back."""
        return await self._events.since(after, PAGE)

    def close(self) -> None:
        """Let every follower say goodbye: the process is about to stop."""
        self._closed.set()
        self._wanted.clear()
        for follower in self._everybody():
            follower.stirred.set()

    async def _look(self) -> bool:
        """Tell of what is new. True if there may be more at once."""
        place = self._place
        if place is None:
            return False
        try:
            look = await self._events.since(place, PAGE)
        except StoreUnavailable as error:
            self._turn(True, error.code)
            return False
        if self._place != place:  # All have left meanwhile, and others have come.
            return True
        self._turn(False)
        self._place = look.place
        if look.missed:
            log.warning("events.missed", after=place)
            for follower in self._everybody():
                follower.missed = True
                follower.stirred.set()
        self._tell(look.events)
        return look.more

    def _tell(self, events: Sequence[Event]) -> None:
        for event in events:
            if self._fleet:
                of_fleet = told(event)
                for follower in self._fleet:
                    follower.put(of_fleet)
            if followers := self._jobs.get(event.fields.get("job", "")):
                of_job = told(event, of_job=True)
                for follower in followers:
                    follower.put(of_job)

    def _turn(self, away: bool, code: str = "") -> None:
        if away == self._away:
            return
        self._away = away
        log.warning("events.paused", code=code) if away else log.info("events.resumed")
        for follower in self._everybody():
            follower.put(_AWAY if away else _BACK)

    def _everybody(self) -> list[Follower]:
        return [*self._fleet, *(follower for group in self._jobs.values() for follower in group)]

    def _make_room(self, tenant: str) -> None:
        most = max(1, self._most // TENANTS_PART) if tenant else self._most
        if self.followers >= self._most or (tenant and self._tenants[tenant] >= most):
            raise QueueFull(
                f"{most} clients follow events, and more may not: close one, or raise DISPATCHER_MAX_EVENT_CLIENTS",
                _COME_BACK_S,
            )
