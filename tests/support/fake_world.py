"""What a Redis server holds besides jobs and reports, in memory: leases on a fake clock, and the event stream."""

import asyncio
from collections.abc import AsyncIterator, Mapping

from affinity.errors import StoreUnavailable
from affinity.io.event_port import Event
from tests.support.clock import FakeClock


class FakeWorld:
    """Shared by the fake stores, as one server is by the real ones. ``down`` makes every call fail."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.down = False
        self.leases: dict[tuple[str, str], tuple[str, float]] = {}
        self.said: list[Event] = []
        self.changed = asyncio.Event()
        self._listeners: set[asyncio.Queue[str]] = set()

    def reach(self) -> None:
        """Fail as every call does while Redis is unreachable."""
        if self.down:
            raise StoreUnavailable("Redis at fake:0 failed: it is down; check that it runs")

    def holder(self, kind: str, name: str) -> str | None:
        """Who holds a lease, by the clock; ``kind`` is the word in its Redis key."""
        holder, until = self.leases.get((kind, name), ("", 0.0))
        return holder if until > self.clock.now() else None

    def hold(self, kind: str, name: str, holder: str, lease_s: float) -> bool:
        """Take or renew a lease, unless somebody else has it."""
        if self.holder(kind, name) not in (None, holder):
            return False
        self.leases[kind, name] = (holder, self.clock.now() + lease_s)
        return True

    def drop(self, kind: str, name: str) -> None:
        """End a lease now."""
        self.leases.pop((kind, name), None)

    def hint(self, text: str) -> None:
        """Tell those who listen."""
        for listener in self._listeners:
            listener.put_nowait(text)

    async def hints(self) -> AsyncIterator[str]:
        """What is hinted from now on; first that it has begun. Many are one: none is there twice at a time."""
        heard: asyncio.Queue[str] = asyncio.Queue()
        self._listeners.add(heard)
        heard.put_nowait("")
        try:
            while True:
                hints = [await heard.get()]
                while not heard.empty():
                    hints.append(heard.get_nowait())
                for hint in dict.fromkeys(hints):
                    yield hint
        finally:
            self._listeners.discard(heard)

    def say(self, kind: str, at: float, fields: Mapping[str, str]) -> None:
        """Append an event and wake the readers."""
        kept = {name: text for name, text in fields.items() if name not in ("kind", "at")}
        self.said.append(Event(kind, at, kept, f"{len(self.said) + 1}-0"))
        self.changed.set()
        self.changed = asyncio.Event()
