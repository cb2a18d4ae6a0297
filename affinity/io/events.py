"""``EventStream`` as one capped Redis stream.

Job scripts append to the same stream, in the same step as the change they tell of; ``emit`` is for everything else and
may append twice if an answer is lost. Readers ask again and again, from the last id they have seen: a reader that
Redis wakes for each event costs it more than the events do.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

from redis.typing import EncodableT, FieldT

from affinity.errors import InvalidInput, StoreUnavailable
from affinity.io.event_port import Event, Look, Settled
from affinity.io.job_record import decode_job
from affinity.io.redis_client import SILENCE_S, RedisLink, backoff_s, lua
from affinity.job import Job
from affinity.topology import Keys
from affinity.wire import loads

EVENTS_KEPT = 10_000
LOOK_EVERY_S = 0.05
"""Pause between two looks of a reader that has seen all there is."""

READ_AT_ONCE = 500
BEGINNING = "0-0"

_ID = re.compile(r"[0-9]{1,20}(-[0-9]{1,20})?\Z")
_HIGHEST = 2**64 - 1


class RedisEventStream:
    """See ``event_port.EventStream``."""

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link = link
        self._stream = keys.events
        self._settled = keys.settled
        self._since = link.script(lua("events"))

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

    async def since(self, after: str | None, most: int = READ_AT_ONCE) -> Look:
        """See the port."""
        place = order_of(after) if after is not None else None
        first, last, found = await self._since([self._stream], [after or "", str(most)])
        if place is None:
            return Look((), last or BEGINNING)
        if place > order_of(last or BEGINNING):
            # Ids have begun again (Redis was flushed, or fell back to a replica with a slower clock): what we wait for
            # would not come before the new ids have grown past the old ones.
            return replace(await self.since(BEGINNING, most), missed=True)
        events = tuple(event for entry_id, entry in found if (event := _event(entry_id, entry)))
        missed = bool(first) and order_of(BEGINNING) < place < order_of(first)
        return Look(events, found[-1][0] if found else cast(str, after), missed, len(found) >= most)

    async def read(self, after: str | None = None) -> AsyncIterator[Event]:
        """See the port. ``InvalidInput`` for an id we never gave out. A server that is away is waited for."""
        failures, place = 0, after
        while True:
            try:
                look = await self.since(place)
            except StoreUnavailable:
                await asyncio.sleep(backoff_s(failures))
                failures += 1
                continue
            failures, place = 0, look.place
            for event in look.events:
                yield event
            if not look.events:
                await asyncio.sleep(LOOK_EVERY_S)


def order_of(event_id: str) -> tuple[int, int]:
    """By what ids are ordered. ``InvalidInput`` for what is none."""
    if not _ID.match(event_id):
        raise InvalidInput("is not the id of an event", "after")
    milliseconds, _, sequence = event_id.partition("-")
    order = int(milliseconds), int(sequence or 0)
    if max(order) > _HIGHEST:
        raise InvalidInput("is not the id of an event", "after")
    return order


def _told(text: str) -> Job:
    return decode_job(cast(list[str], loads(text)))


def _event(entry_id: str, entry: Sequence[str]) -> Event | None:
    """``None`` for an entry that none of us has made: one by hand must not stop those who read."""
    fields = dict(zip(entry[::2], entry[1::2], strict=False))
    try:
        return Event(kind=fields.pop("kind"), at=float(fields.pop("at")), fields=fields, id=entry_id)
    except (KeyError, ValueError):
        return None
