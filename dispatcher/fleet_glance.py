"""The fleet as it was a moment ago, for admission: one look a second instead of two per job."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from affinity.fleet import FleetView, ModelFacts
from affinity.io.ports import Clock, FleetStore
from affinity.policy.facts import facts_of
from models.catalog import Catalog

MAX_AGE_S = 1.0


@dataclass(frozen=True, slots=True)
class Glance:
    """What was seen, and when (``monotonic``)."""

    view: FleetView
    facts: Mapping[str, ModelFacts]
    seen_s: float


class FleetGlance:
    """Looks at the fleet when asked, at most once per ``MAX_AGE_S``."""

    def __init__(self, fleet: FleetStore, catalog: Catalog, clock: Clock) -> None:
        self._fleet = fleet
        self._catalog = catalog
        self._clock = clock
        self._last: Glance | None = None
        self._looking = asyncio.Lock()

    async def look(self) -> Glance:
        """The fleet not older than ``MAX_AGE_S``. Raises ``StoreUnavailable``."""
        if fresh := self._fresh():
            return fresh
        async with self._looking:
            if fresh := self._fresh():
                return fresh
            sighting, learned = await asyncio.gather(self._fleet.sighting(), self._fleet.learned())
            self._last = Glance(sighting.view, facts_of(self._catalog, learned), self._clock.monotonic())
            return self._last

    def _fresh(self) -> Glance | None:
        last = self._last
        return last if last and self._clock.monotonic() - last.seen_s < MAX_AGE_S else None
