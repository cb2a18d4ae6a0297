"""The three Redis ports over one server, fake or real, as the conformance suites get them."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from affinity.io.event_port import EventStream
from affinity.io.ports import Clock, FleetStore, JobStore
from affinity.io.redis_client import RedisLink, Script


@dataclass(frozen=True, slots=True)
class Stores:
    """The ports, and what stands in for the passing of time and for reading the stream to its end.

    ``expire(kind, name)`` ends a key as its time to live would; ``kind`` is the word in the key: lease, gpu, claim,
    reaping or job. ``max_result_bytes`` is what ``jobs`` allows.
    """

    jobs: JobStore
    fleet: FleetStore
    events: EventStream
    clock: Clock
    expire: Callable[[str, str], Awaitable[None]]
    max_result_bytes: int


class StutteringLink(RedisLink):
    """Runs every script twice and gives the second answer: what a store sees whose first answer was lost."""

    def script(self, *parts: str) -> Script:
        once = super().script(*parts)

        async def twice(keys: Sequence[str], args: Sequence[str]) -> Any:
            await once(keys, args)
            return await once(keys, args)

        return twice
