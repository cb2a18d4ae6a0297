"""What one client is told, from its first frame to its last: of the whole fleet, or of one job.

Both are streams of chunks. An error before the first chunk is the answer to the request. Whoever reads a stream to its
end, or closes it, frees its place among the followers.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from affinity.errors import StoreUnavailable, UnknownJob
from affinity.io.events import order_of
from affinity.io.ports import JobStore
from affinity.job import Job
from dispatcher.event_feed import EventFeed, Follower
from dispatcher.event_frames import KEEP_ALIVE, about_stream, job_now, opened, told

CHUNK_BYTES = 32 * 1024
KEEP_ALIVE_S = 15.0

_LOST = about_stream("stream.lost", "events are missing here, the stream has forgotten them: read anew what you show")
_GONE = about_stream("job.gone", "there is no such job any more")
_BEHIND = "this client reads too slowly and is told no more: come back with this id"
_STOPS = "the dispatcher stops: come back with this id"
_AWAY = "the store is away: come back with this id"
_SHUT_OUT = "the key is not valid any more"


@dataclass(frozen=True, slots=True)
class Client:
    """Who follows. ``after``: the id of the event it has seen last. ``may``: does its key still open; asked anew with
    every keep-alive."""

    may: Callable[[], bool]
    tenant: str = ""
    after: str | None = None
    keep_alive_s: float = KEEP_ALIVE_S


async def fleet_story(feed: EventFeed, client: Client) -> AsyncGenerator[bytes, None]:
    """Every event. ``QueueFull``, ``StoreUnavailable``."""
    with feed.joined(tenant=client.tenant) as follower:
        story = _Story(feed, follower, client, await feed.place())
        if client.after is None:
            yield opened(story.place)
        else:
            async for chunk in story.past():
                yield chunk
        while not story.over:
            yield await story.more()


async def job_story(feed: EventFeed, client: Client, store: JobStore, job_id: str) -> AsyncGenerator[bytes, None]:
    """One job's events, to its end. ``UnknownJob``, ``QueueFull``, ``StoreUnavailable``."""
    before = await store.get(job_id)  # First of all: whoever may not see it takes no place.
    with feed.joined(job_id, client.tenant) as follower:
        story = _JobStory(feed, follower, client, await feed.place(), store, job_id)
        if client.after is not None:
            async for chunk in story.past():
                yield chunk
        if not story.over and (chunk := await story.begin(before)):
            yield chunk
        while not story.over:
            yield await story.more()


class _Story:
    """``over`` is set with the last chunk. ``place`` is the id of the last event that was told."""

    job_id = ""

    def __init__(self, feed: EventFeed, follower: Follower, client: Client, place: str) -> None:
        self.place = place
        self.over = False
        self._feed = feed
        self._follower = follower
        self._client = client
        self._told_to = order_of("0")
        self._ended = False
        self._lost = False
        self._due_s = self._now_s() + client.keep_alive_s

    async def past(self) -> AsyncGenerator[bytes, None]:
        """What the client has missed, from the stream. ``more`` has what comes later, and nothing twice."""
        self.place = self._client.after or self.place
        head = opened(self.place)
        more = True
        while more:
            # All that is forgotten here is in the page that is read next: however long the past, the buffer keeps only
            # what comes during one page.
            self._follower.clear()
            try:
                look = await self._feed.since(self.place)
            except StoreUnavailable:
                if head:  # Nothing was sent: it is the answer to the request.
                    raise
                yield self._goodbye("stream.paused", _AWAY)
                return
            mine = [event for event in look.events if not self.job_id or event.fields.get("job") == self.job_id]
            frames = [told(event, of_job=bool(self.job_id)) for event in mine]
            if frames:
                self._ended = frames[-1].last
            self.place, more = look.place, look.more
            self._lost |= look.missed
            chunk = head + _LOST * look.missed + b"".join(one.frame for one in frames)
            head = b""
            if chunk:
                yield chunk
        self._told_to = order_of(self.place)

    async def more(self) -> bytes:
        """The next chunk, when there is something to tell: a sign of life at least every ``keep_alive_s``."""
        while True:
            self._follower.stirred.clear()
            if self._feed.closing:
                return self._goodbye("stream.ending", _STOPS)
            if self._follower.behind:
                return self._goodbye("stream.behind", _BEHIND)
            if self._now_s() >= self._due_s:
                self._due_s = self._now_s() + self._client.keep_alive_s
                return await self._sign_of_life()
            if self._follower.missed:
                self._follower.missed = False
                self._told_to = order_of("0")
                return _LOST + await self._anew()
            if chunk := self._next():
                return chunk
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._due_s - self._now_s()):
                    await self._follower.stirred.wait()

    def _next(self) -> bytes:
        frames: list[bytes] = []
        for one in self._follower.take(CHUNK_BYTES):
            if one.order is None:
                frames.append(one.frame)
            elif one.order > self._told_to:
                frames.append(one.frame)
                self.place = one.id
                if one.last:
                    self.over = True
                    break
        return b"".join(frames)

    async def _sign_of_life(self) -> bytes:
        return KEEP_ALIVE if self._client.may() else self._goodbye("stream.ending", _SHUT_OUT)

    async def _anew(self) -> bytes:
        """What stands for the events that are missing."""
        return b""

    def _goodbye(self, kind: str, detail: str) -> bytes:
        self.over = True
        return about_stream(kind, detail, last_event_id=self.place)

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()


class _JobStory(_Story):
    def __init__(
        self, feed: EventFeed, follower: Follower, client: Client, place: str, store: JobStore, job_id: str
    ) -> None:
        super().__init__(feed, follower, client, place)
        self.job_id = job_id
        self._store = store

    async def begin(self, before: Job) -> bytes:
        """The job as it stands, for who sees it for the first time, or where what was missed does not tell.

        ``before``: as it stood before anything was read from the stream.
        """
        if self._client.after is None:
            job = await self._store.get(self.job_id)
            self.over = job.state.terminal
            return job_now(job, self.place)
        if self._lost or (before.state.terminal and not self._ended):
            return await self._anew()
        self.over = before.state.terminal
        return b""

    async def _sign_of_life(self) -> bytes:
        """Reads the record now and then: a job whose publish is refused is forgotten without an event."""
        sign = await super()._sign_of_life()
        if self.over:
            return sign
        anew = await self._anew()
        return anew if self.over else sign

    async def _anew(self) -> bytes:
        try:
            job = await self._store.get(self.job_id)
        except UnknownJob:
            self.over = True
            return _GONE
        except StoreUnavailable:
            return b""  # It is read again with the next sign of life.
        self.over = job.state.terminal
        return job_now(job, self.place)
