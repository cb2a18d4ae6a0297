"""When a worker looks at the whole fleet next: after something happened, at the plan's alarm, not at every hint."""

from affinity.io.ports import Clock
from worker.vitals import Vitals

EVERY_S = 0.05
"""Shortest time between two looks: hints come in bursts."""

AWAY_S = 0.5
"""Pause after broker or store turned out to be away: each event would have the same thing tried again."""


class Lookout:
    """``wanted`` asks for a look as soon as the last one is ``EVERY_S`` ago; ``wake_at`` is the last plan's alarm."""

    def __init__(self, clock: Clock, vitals: Vitals) -> None:
        self._clock = clock
        self._vitals = vitals
        self._looked_at = 0.0
        self._away_until = 0.0
        self.wanted = True
        self.wake_at: float | None = None

    def at_once(self) -> None:
        """Ask for a look now, however short ago the last one was."""
        self.wanted, self._looked_at = True, -EVERY_S

    def pause(self) -> None:
        """Broker or store is away: do nothing for ``AWAY_S``, then look before anything else is tried."""
        self.wanted, self._away_until = True, self._clock.monotonic() + AWAY_S

    @property
    def paused(self) -> bool:
        """True while nothing should be tried."""
        return self._clock.monotonic() < self._away_until

    def due(self) -> bool:
        """True if it is time."""
        if self.wake_at is not None and self._clock.now() >= self.wake_at:
            self.wanted = True
        return self.wanted and self._clock.monotonic() >= self._looked_at + EVERY_S

    def begin(self) -> None:
        """A look begins; what happens from here on asks for another."""
        self.wanted, self.wake_at = False, None
        self._looked_at = self._clock.monotonic()
        self._vitals.looked(self._looked_at)

    def waits_s(self) -> list[float]:
        """Seconds until a look is due by what is known now, for each reason there is; or until the pause is over."""
        if self.paused:
            return [self._away_until - self._clock.monotonic()]
        waits = [self._looked_at + EVERY_S - self._clock.monotonic()] if self.wanted else []
        return waits if self.wake_at is None else [*waits, self.wake_at - self._clock.now()]
