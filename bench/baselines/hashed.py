"""Routers by hash: a model has a place on a ring of workers, and its jobs go there or, if it is full, on."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from math import ceil

from bench.baselines.bound import EarlyBound
from bench.trace import TraceJob
from bench.world import World

POINTS = 64
"""Places of each worker on the ring."""

BOUND = 1.25
"""No worker holds more than so many times the mean of outstanding jobs."""


def place(text: str) -> int:
    """Where something lies on the ring; the same everywhere and always."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


class StickyHash(EarlyBound):
    """Each model to one worker, by consistent hashing."""

    name = "sticky-hash"

    def __init__(self, world: World, jobs: Sequence[TraceJob], seed: int) -> None:
        super().__init__(world, jobs, seed)
        self._ring = sorted((place(f"{name}#{point}"), name) for name in self.workers for point in range(POINTS))
        self._orders: dict[str, list[str]] = {}

    def bind(self, job: TraceJob, now: float) -> str:
        del now
        return self.order(job.model)[0]

    def order(self, model: str) -> list[str]:
        """All workers, as they follow the model's place on the ring."""
        if model not in self._orders:
            self._orders[model] = list(dict.fromkeys(self._walk(place(model))))
        return self._orders[model]

    def _walk(self, start: int) -> Iterator[str]:
        first = bisect_left(self._ring, (start, ""))
        yield from (name for _, name in self._ring[first:])
        yield from (name for _, name in self._ring[:first])


class BoundedHash(StickyHash):
    """Consistent hashing with bounded loads: the first worker from the model's place on that is not full."""

    name = "bounded-hash"

    def bind(self, job: TraceJob, now: float) -> str:
        del now
        most = ceil(BOUND * (sum(self.outstanding.values()) + 1) / len(self.workers))
        return next(name for name in self.order(job.model) if self.outstanding[name] < most)
