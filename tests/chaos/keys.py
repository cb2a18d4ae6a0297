"""Whether every key that a run has left in Redis belongs to something."""

from collections.abc import Mapping
from dataclasses import dataclass

import redis.asyncio as redis

from affinity.topology import Keys
from tests.chaos.fleet import NAMESPACE
from tests.chaos.ledger import TERMINAL

KEYS = Keys(NAMESPACE)
LASTING = frozenset(KEYS.prefix + name for name in ("dead_codes", "drained", "epoch", "events", "measured", "rates"))
"""Keys that are there however little goes on."""

INDEXES = f"{KEYS.prefix}index:"
AT_ONCE = 1000

State = tuple[str, str, int]
"""A record's state, model and time to live in ms."""


async def orphan_keys(store_url: str, live: frozenset[str]) -> str:
    """What is wrong with them, or nothing. ``live`` are the workers there are."""
    async with redis.Redis.from_url(store_url, decode_responses=True) as store:
        return await _Search(store, live).found()


@dataclass(slots=True)
class _Search:
    store: redis.Redis
    live: frozenset[str]

    async def found(self) -> str:
        names = [str(name) async for name in self.store.scan_iter(match=f"{KEYS.prefix}*", count=AT_ONCE)]
        head = KEYS.job("")
        ids = [name.removeprefix(head) for name in names if name.startswith(head)]
        states: dict[str, State] = {}
        for first in range(0, len(ids), AT_ONCE):
            some = ids[first : first + AT_ONCE]
            states |= dict(zip(some, await self._states(some), strict=True))
        wrong = await self._indexes_wrong(names, states)
        for name in names:
            if name.startswith((head, INDEXES)) or name in LASTING:
                continue
            if why := await self._odd(name, states):
                wrong.append(f"{name}: {why}")
        return "; ".join(wrong[:10])

    async def _members(self, name: str) -> list[str]:
        """A sorted set, from the lowest."""
        return [str(member) for member in await self.store.zrange(name, 0, -1)]

    async def _states(self, ids: list[str]) -> list[State]:
        """Of each record."""
        async with self.store.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hmget(KEYS.job(job_id), "state", "model")
                pipe.pttl(KEYS.job(job_id))
            flat = await pipe.execute()
        return [(*fields, ttl) for fields, ttl in zip(flat[::2], flat[1::2], strict=True)]

    async def _indexes_wrong(self, names: list[str], states: Mapping[str, State]) -> list[str]:
        ended = {job_id: ttl for job_id, (state, _, ttl) in states.items() if state in TERMINAL}
        wrong = [f"{job_id} is over and never expires" for job_id, ttl in ended.items() if ttl < 0]
        expected: dict[str, set[str]] = {}
        for job_id, (state, model, _) in states.items():
            for name in (KEYS.index(), KEYS.index(state), KEYS.index("", model), KEYS.index(state, model)):
                expected.setdefault(name, set()).add(job_id)
        present = {name for name in names if name.startswith(INDEXES)}
        for name in sorted(expected.keys() | present):
            members = set(await self._members(name))
            if members != expected.get(name, set()):
                differing = sorted(members ^ expected.get(name, set()))
                wrong.append(f"{name} differs from the records in {len(differing)}, such as {differing[0]}")
        return wrong

    async def _odd(self, name: str, states: Mapping[str, State]) -> str:
        """Why a key that is no job's should not be there."""
        kind, _, rest = name.removeprefix(KEYS.prefix).partition(":")
        match kind:
            case "report" | "lease":
                return "" if rest in self.live else "is of no live worker"
            case "gpu":
                return "" if await self.store.get(name) in self.live else "is of no live worker"
            case "workers":
                others = {str(worker) for worker in await self.store.smembers(name)} - self.live
                return f"lists {sorted(others)}" if others else ""
            case "claim" | "reaping" | "turn":
                return "" if await self.store.pttl(name) > 0 else "never expires"
            case "retained" | "dead" | "tenant":
                listed = {member.split(" ")[-1] for member in await self._members(name)}
                wanted = {job_id for job_id, (state, _, _) in states.items() if state == "failed" or kind != "dead"}
                return f"lists {sorted(listed - wanted)[:3]}, which are no such jobs" if listed - wanted else ""
        return "is accounted for by nothing"
