"""``EventStream`` as one capped Redis stream.

Job scripts append to the same stream, in the same step as the change they tell of; ``emit`` is for everything else and
may append twice if an answer is lost. Readers resume from the last id they have seen.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any, cast

from redis.asyncio import Redis
from redis.typing import EncodableT, FieldT

from affinity.errors import InvalidInput, StoreUnavailable
from affinity.io.job_record import decode_job
from affinity.io.ports import Event, Settled
from affinity.io.redis_client import SILENCE_S, RedisLink, backoff_s
from affinity.job import Job
from affinity.topology import Keys
from affinity.wire import loads

EVENTS_KEPT = 10_000
BLOCK_S = 1.0
"""How long one read waits. Shorter than the client's patience, or every quiet second would look like a dead server."""

READ_AT_ONCE = 100
BEGINNING = "0-0"

_ID = re.compile(r"\d{1,20}(-\d{1,20})?\Z")


class RedisEventStream:
    """See ``ports.EventStream``."""

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link = link
        self._stream = keys.events
        self._settled = keys.settled

    async def emit(self, kind: str, at: float, fields: Mapping[str, str]) -> None:
        """See the port."""
        entry: dict[FieldT, EncodableT] = dict(fields.items())
        entry |= {"kind": kind, "at": repr(float(at))}
        async with self._link.guard() as client:
            await client.xadd(self._stream, entry, maxlen=EVENTS_KEPT, approximate=True)

    async def settled(self) -> AsyncIterator[Settled | None]:
        """See the port."""
        async for message in self._link.messages(self._settled, SILENCE_S):
            if message is None:
                yield None
                continue
            job_id, _, text = message.partition(" ")
            yield Settled(job_id, partial(_told, text) if text else None)

    async def read(self, after: str | None = None) -> AsyncIterator[Event]:
        """See the port. ``InvalidInput`` for an id we never gave out. Reconnects by itself and goes on where it was."""
        if after is not None and not _ID.match(after):
            raise InvalidInput("is not the id of an event", "after")
        failures, place, link = 0, after, self._link.alone()
        try:
            while True:
                try:
                    place, batch = await self._read_some(link, place)
                    failures = 0
                except StoreUnavailable:
                    await asyncio.sleep(backoff_s(failures))
                    failures += 1
                    continue
                for event in batch:
                    yield event
        finally:
            await link.close()

    async def _read_some(self, link: RedisLink, place: str | None) -> tuple[str, list[Event]]:
        """Wait for events after ``place`` and say where to go on. ``None``: begin at the end."""
        async with link.guard() as client:
            last = await self._last_id(client)
            if place is None:
                place = last
            elif _order(last) < _order(place):
                # Ids have begun again (Redis was flushed, or fell back to a replica with a slower clock): what we wait
                # for would not come before the new ids have grown past the old ones.
                place = BEGINNING
            replies: Any = await client.xread({self._stream: place}, count=READ_AT_ONCE, block=int(BLOCK_S * 1000))
        batch = [_event(str(entry_id), entry) for _, entries in replies for entry_id, entry in entries]
        return (batch[-1].id if batch else place), batch

    async def _last_id(self, client: Redis) -> str:
        newest = await client.xrevrange(self._stream, count=1)
        return str(newest[0][0]) if newest else BEGINNING


def _told(text: str) -> Job:
    return decode_job(cast(list[str], loads(text)))


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def _event(entry_id: str, entry: Mapping[str, str]) -> Event:
    fields = dict(entry)
    return Event(kind=fields.pop("kind"), at=float(fields.pop("at")), fields=fields, id=entry_id)
