"""How fast the queues empty, and so when somebody who was refused may come back."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from affinity.errors import QueueFull
from affinity.io.ports import Clock, JobStore
from affinity.job import JobSpec

LOOK_EVERY_S = 2.0
WINDOW_S = 60.0
"""The drain rate is that of the last minute: shorter, and a batch that ends would look like a trend."""

LEAST_S = 1.0
MOST_S = 120.0
"""Nobody is sent away for longer; also what is said while nothing drains at all."""

UNMEASURED_S = 5.0
"""What is said before there are two samples."""

IN_ALL = ""


@dataclass(slots=True)
class _Line:
    """Those refused by one bound: at what instant the last of them may come back."""

    until_s: float = 0.0


@dataclass(slots=True)
class Backlog:
    """Samples the store's counters of jobs that have left the queue. Each refused caller is given a place of its own.

    If all were told the same instant they would come back as the crowd they were: they are lined up, one by one as the
    measured rate makes room for them.
    """

    store: JobStore
    clock: Clock
    _samples: deque[tuple[float, Mapping[str, int]]] = field(default_factory=deque)
    _lines: dict[str, _Line] = field(default_factory=dict)

    async def look(self) -> None:
        """Take a sample. Raises ``StoreUnavailable``."""
        counts = dict(await self.store.drained())
        counts[IN_ALL] = sum(count for name, count in counts.items() if not name.startswith("@"))
        now_s = self.clock.monotonic()
        if self._samples and counts[IN_ALL] < self._samples[-1][1][IN_ALL]:
            self._samples.clear()  # Redis was emptied, and counts anew.
        self._samples.append((now_s, counts))
        while len(self._samples) > 2 and now_s - self._samples[1][0] >= WINDOW_S:
            self._samples.popleft()

    def rate(self, name: str) -> float:
        """Jobs per second that left the queue of a model, of ``@tenant`` or of all (``IN_ALL``)."""
        if len(self._samples) < 2:
            return 0.0
        (since_s, before), (until_s, after) = self._samples[0], self._samples[-1]
        return (after.get(name, 0) - before.get(name, 0)) / (until_s - since_s) if until_s > since_s else 0.0

    def told(self, full: QueueFull, spec: JobSpec) -> QueueFull:
        """The refusal with the time after which this caller may come back."""
        name = {"tenant": f"@{spec.tenant}", "model": spec.model}.get(full.bound, IN_ALL)
        full.retry_after_s = self._wait_s(name)
        return full

    def _wait_s(self, name: str) -> float:
        if len(self._samples) < 2:
            return UNMEASURED_S
        rate, now_s = self.rate(name), self.clock.monotonic()
        if rate <= 0.0:
            return MOST_S
        line = self._lines.setdefault(name, _Line())
        # The end of the line is never further off than anybody is sent: who does not keep to it cannot push it away.
        line.until_s = min(max(line.until_s, now_s) + 1.0 / rate, now_s + MOST_S)
        return max(LEAST_S, line.until_s - now_s)
