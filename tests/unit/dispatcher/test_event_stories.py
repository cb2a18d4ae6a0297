"""What a client that follows events is told, over fakes and without a socket."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from affinity.errors import QueueFull, StoreUnavailable, UnknownJob
from affinity.io.event_port import Look
from affinity.job import Attempt, Job, JobSpec, Outcome, StartKind
from dispatcher.event_feed import PAGE, EventFeed
from dispatcher.event_frames import END
from dispatcher.following import Client, fleet_story, job_story
from tests.support.clock import FakeClock
from tests.support.fake_stores import FakeStores
from tests.support.sse import Seen, seen_in

Story = AsyncGenerator[bytes, None]
ATTEMPT = Attempt("j1", "token", "w1", 1)


class CountedStream:
    """An event stream that counts how often it is read."""

    def __init__(self, stores: FakeStores) -> None:
        self._events = stores.events
        self.looks = 0

    async def since(self, after: str | None, most: int = 500) -> Look:
        self.looks += 1
        await asyncio.sleep(0)  # As a real server, it lets others go first.
        return await self._events.since(after, most)


@pytest.fixture
def stores() -> FakeStores:
    return FakeStores(FakeClock())


@asynccontextmanager
async def feeding(stores: FakeStores, most: int = 100) -> AsyncIterator[EventFeed]:
    feed = EventFeed(CountedStream(stores), most, look_every_s=0.001, away_s=0.001)  # type: ignore[arg-type]
    following = asyncio.create_task(feed.follow())
    async with asyncio.timeout(10):
        yield feed
    assert not following.done() or following.exception() is None
    following.cancel()


def client(after: str | None = None, may: bool = True, keep_alive_s: float = 60.0, tenant: str = "") -> Client:
    return Client(lambda: may, tenant, after, keep_alive_s)


async def until(story: Story, kind: str) -> list[Seen]:
    """All events up to one of this kind."""
    text = ""
    async for chunk in story:
        text += chunk.decode()
        found = seen_in(text)
        if kind in [event.kind for event in found]:
            return found
    raise AssertionError(f"it ended without {kind}: {text}")


async def whole(story: Story) -> list[Seen]:
    return seen_in(b"".join([chunk async for chunk in story]).decode())


def kinds(events: list[Seen]) -> list[str]:
    return [event.kind for event in events]


async def queued(stores: FakeStores, job_id: str = "j1") -> None:
    await stores.jobs.create(JobSpec(job_id, "m", 1, metadata={"large": "x"}), stores.clock.now())
    await stores.jobs.published(job_id)


async def started(stores: FakeStores) -> None:
    job = await stores.jobs.get("j1")
    await stores.jobs.start([(ATTEMPT, job.spec, job.created_at)], stores.clock.now())


async def ended(stores: FakeStores) -> None:
    outcome = Outcome(StartKind.WARM, 0.0, 0.5, result="much")
    assert await stores.jobs.finish(ATTEMPT, outcome, stores.clock.now())


async def test_the_fleet_is_told_from_now_on_in_order(stores: FakeStores):
    stores.say("k.before", 1.0, {})
    async with feeding(stores) as feed, aclosing(fleet_story(feed, client())) as story:
        first = await until(story, "stream.opened")
        for number in range(3):
            stores.say("k.now", 1.0, {"n": str(number)})
        stores.say("k.last", 1.0, {})
        rest = await until(story, "k.last")

    assert (kinds(first), first[0].id) == (["stream.opened"], "1-0")
    assert [event.said.get("n") for event in rest] == ["0", "1", "2", None]
    assert rest[-1].id == "5-0"


async def test_who_comes_back_is_told_all_it_missed_once_and_what_comes_then(stores: FakeStores):
    many = 3 * PAGE + 7
    for number in range(many):
        stores.say("k.past", 1.0, {"n": str(number)})
    async with feeding(stores) as feed, aclosing(fleet_story(feed, client())) as other:
        await until(other, "stream.opened")
        stores.say("k.past", 1.0, {"n": str(many)})
        async with aclosing(fleet_story(feed, client(after="3-0"))) as story:
            await anext(story)
            stores.say("k.last", 1.0, {})
            text = b""
            async for chunk in story:
                text += chunk
                if b"k.last" in chunk:
                    break
    told_of = [event.said["n"] for event in seen_in(text.decode()) if event.kind == "k.past"]
    assert told_of == [str(number) for number in range(3 + PAGE, many + 1)], "the first page was the first chunk"


@pytest.mark.parametrize(("after", "forgotten"), [("2-0", 5), ("999-0", 0)])
async def test_a_place_that_is_gone_is_said_before_what_is_left(stores: FakeStores, after: str, forgotten: int):
    for _ in range(8):
        stores.say("k.past", 1.0, {})
    stores.events.forgotten = forgotten
    async with feeding(stores) as feed, aclosing(fleet_story(feed, client(after))) as story:
        found = await until(story, "k.past")

    assert kinds(found) == ["stream.opened", "stream.lost", *["k.past"] * (8 - forgotten)]


async def test_the_beginning_is_no_place_that_is_gone(stores: FakeStores):
    stores.say("k.past", 1.0, {})
    stores.say("k.past", 1.0, {})
    stores.events.forgotten = 1
    async with feeding(stores) as feed, aclosing(fleet_story(feed, client("0"))) as story:
        assert kinds(await until(story, "k.past")) == ["stream.opened", "k.past"]


async def test_one_reader_serves_all_and_rests_without_any(stores: FakeStores):
    async with feeding(stores) as feed:
        counted = feed._events
        assert isinstance(counted, CountedStream)
        stories = [fleet_story(feed, client()) for _ in range(50)]
        for story in stories:
            await until(story, "stream.opened")
        before = counted.looks
        stores.say("k.now", 1.0, {})
        for story in stories:
            await until(story, "k.now")
        assert counted.looks - before <= 5, "the stream is read once for all of them"
        for story in stories:
            await story.aclose()
        assert feed.followers == 0
        quiet = counted.looks
        for _ in range(200):
            await asyncio.sleep(0)
        assert counted.looks <= quiet + 1


async def test_who_does_not_keep_up_is_told_so_at_last_and_may_come_back(stores: FakeStores):
    async with feeding(stores) as feed:
        with feed.joined(most_bytes=2000) as follower:
            await feed.place()
            while not follower.behind:
                stores.say("k.now", 1.0, {"n": "x" * 100})
                await asyncio.wait_for(follower.stirred.wait(), 5)
                follower.stirred.clear()
            assert follower.take(10**9) == [], "what it was to be told is no longer held"

        async with aclosing(fleet_story(feed, client())) as slow:
            (first,) = await until(slow, "stream.opened")
            for number in range(6000):
                stores.say("k.now", 1.0, {"n": str(number).rjust(100)})
            stores.say("k.end", 1.0, {})
            async with aclosing(fleet_story(feed, client(first.id))) as quick:
                await until(quick, "k.end")  # By now all has been read from the stream.
                rest = await whole(slow)
        assert kinds(rest)[-1] == "stream.behind"
        assert "k.end" not in kinds(rest)
        place = rest[-1].said["last_event_id"]
        async with aclosing(fleet_story(feed, client(place))) as again:
            missed = await until(again, "k.end")
        assert [e.id for e in rest + missed if e.kind == "k.now"] == [
            f"{n}-0" for n in range(int(first.id[:-2]) + 1, len(stores.said))
        ]


async def test_so_many_may_follow_and_no_tenant_shuts_out_the_others(stores: FakeStores):
    async with feeding(stores, most=8) as feed:
        mine = [fleet_story(feed, client(tenant="acme")) for _ in range(2)]
        others = [fleet_story(feed, client()) for _ in range(6)]
        for story in mine:
            await anext(story)
        with pytest.raises(QueueFull, match="2 clients"):
            await anext(fleet_story(feed, client(tenant="acme")))
        for story in others:
            await anext(story)
        with pytest.raises(QueueFull, match="8 clients"):
            await anext(fleet_story(feed, client()))
        for story in others:
            await story.aclose()
        await anext(fleet_story(feed, client()))


async def test_at_the_stop_everybody_is_told_where_to_go_on(stores: FakeStores):
    async with feeding(stores) as feed:
        story = fleet_story(feed, client())
        await until(story, "stream.opened")
        waiting = asyncio.ensure_future(whole(story))
        stores.say("k.now", 1.0, {})
        while feed._place != "1-0":  # noqa: ASYNC110 - no event says that the feed has looked
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        feed.close()
        found = await waiting

        assert kinds(found) == ["k.now", "stream.ending"]
        assert found[-1].said["last_event_id"] == "1-0"
        assert feed.followers == 0


async def test_a_store_that_goes_away_is_said_and_nothing_is_missed_when_it_is_back(stores: FakeStores):
    async with feeding(stores) as feed, aclosing(fleet_story(feed, client())) as story:
        await until(story, "stream.opened")
        stores.down = True
        paused = await until(story, "stream.paused")
        async with aclosing(fleet_story(feed, client())) as late:
            assert kinds(await until(late, "stream.paused")) == ["stream.opened", "stream.paused"]
        with pytest.raises(StoreUnavailable):
            await anext(fleet_story(feed, client("0")))
        stores.say("k.meanwhile", 1.0, {})
        stores.down = False
        back = await until(story, "k.meanwhile")

    assert kinds(paused) == ["stream.paused"]
    assert kinds(back) == ["stream.resumed", "k.meanwhile"]


async def test_without_a_store_nobody_begins_to_follow(stores: FakeStores):
    stores.down = True
    async with feeding(stores) as feed:
        with pytest.raises(StoreUnavailable):
            await anext(fleet_story(feed, client()))
        assert feed.followers == 0


async def test_a_stream_that_loses_events_says_so_and_a_jobs_says_how_it_stands(stores: FakeStores):
    await queued(stores)
    async with (
        feeding(stores) as feed,
        aclosing(fleet_story(feed, client())) as fleet,
        aclosing(job_story(feed, client(), stores.jobs, "j1")) as job,
    ):
        await until(fleet, "stream.opened")
        await until(job, "job.now")
        await started(stores)
        await ended(stores)
        stores.events.forgotten = len(stores.said)
        stores.say("k.now", 1.0, {})

        assert kinds(await until(fleet, "k.now")) == ["stream.lost", "k.now"]
        rest = await whole(job)
        assert kinds(rest) == ["stream.lost", "job.now"]
        assert rest[-1].said["job"]["state"] == "succeeded"


async def test_a_key_that_is_taken_away_ends_the_stream(stores: FakeStores):
    async with feeding(stores) as feed:
        found = await whole(fleet_story(feed, client(may=False, keep_alive_s=0.01)))

    assert kinds(found) == ["stream.opened", "stream.ending"]
    assert "key" in found[-1].said["detail"]


async def test_a_quiet_stream_shows_that_it_is_there(stores: FakeStores):
    async with feeding(stores) as feed, aclosing(fleet_story(feed, client(keep_alive_s=0.01))) as story:
        await anext(story)
        assert (await anext(story)).startswith(b":")


async def test_a_busy_stream_looks_at_the_key_as_well(stores: FakeStores):
    async with feeding(stores) as feed:
        text = b""
        async for chunk in fleet_story(feed, client(may=False, keep_alive_s=0.02)):
            stores.say("k.now", 1.0, {})
            text += chunk

    assert kinds(seen_in(text.decode()))[-1] == "stream.ending"


async def test_a_job_is_told_as_it_stands_and_then_to_its_end(stores: FakeStores):
    await queued(stores)
    await queued(stores, "other")
    async with feeding(stores) as feed:
        story = job_story(feed, client(), stores.jobs, "j1")
        (now,) = await until(story, "job.now")
        await started(stores)
        stores.say("model.loading", 1.0, {"model": "m"})
        await ended(stores)
        rest = await whole(story)

        assert (now.said["job"]["id"], now.said["job"]["state"], now.id) == ("j1", "queued", "2-0")
        assert {"result", "metadata"}.isdisjoint(now.said["job"])
        assert kinds(rest) == ["job.started", "job.settled"]
        assert rest[-1].id == f"5-0{END}"
        assert rest[-1].said["id"] == "5-0"
        assert feed.followers == 0


class StoreOfATurningJob:
    """A job that starts and ends right after it was read."""

    def __init__(self, stores: FakeStores) -> None:
        self._stores = stores
        self._reads = 0

    async def get(self, job_id: str) -> Job:
        job = await self._stores.jobs.get(job_id)
        self._reads += 1
        if self._reads == 2:
            await started(self._stores)
            await ended(self._stores)
        return job


async def test_nothing_is_missed_between_the_look_at_a_job_and_its_events(stores: FakeStores):
    await queued(stores)
    async with feeding(stores) as feed:
        found = await whole(job_story(feed, client(), StoreOfATurningJob(stores), "j1"))  # type: ignore[arg-type]

    assert kinds(found) == ["job.now", "job.started", "job.settled"]
    assert found[0].said["job"]["state"] == "queued"


async def test_a_job_that_is_over_is_told_once_and_that_is_all(stores: FakeStores):
    await queued(stores)
    await started(stores)
    await ended(stores)
    async with feeding(stores) as feed:
        (now,) = await whole(job_story(feed, client(), stores.jobs, "j1"))

    assert (now.kind, now.said["job"]["state"], now.id) == ("job.now", "succeeded", f"3-0{END}")


async def test_who_comes_back_to_a_job_is_told_its_own_events_to_the_end(stores: FakeStores):
    await queued(stores)
    await queued(stores, "other")
    await started(stores)
    async with feeding(stores) as feed:
        story = job_story(feed, client("1-0"), stores.jobs, "j1")
        first = await until(story, "job.started")
        await ended(stores)
        rest = await whole(story)
        again = await whole(job_story(feed, client("1-0"), stores.jobs, "j1"))

    assert kinds(first) == ["stream.opened", "job.started"]
    assert kinds(rest) == ["job.settled"]
    assert kinds(again) == ["stream.opened", "job.started", "job.settled"]


async def test_an_end_that_the_stream_has_forgotten_is_told_from_the_record(stores: FakeStores):
    await queued(stores)
    await started(stores)
    await ended(stores)
    stores.say("k.now", 1.0, {})
    stores.events.forgotten = 3
    async with feeding(stores) as feed:
        found = await whole(job_story(feed, client("1-0"), stores.jobs, "j1"))

    assert kinds(found) == ["stream.opened", "stream.lost", "job.now"]
    assert found[-1].id.endswith(END)


async def test_a_job_that_is_forgotten_ends_its_story(stores: FakeStores):
    await stores.jobs.create(JobSpec("j1", "m", 1), stores.clock.now())
    async with feeding(stores) as feed:
        story = job_story(feed, client(keep_alive_s=0.01), stores.jobs, "j1")
        await until(story, "job.now")
        assert await stores.jobs.withdraw("j1")

        assert kinds(await whole(story)) == ["job.gone"]


async def test_a_job_nobody_knows_takes_no_place(stores: FakeStores):
    async with feeding(stores, most=1) as feed:
        with pytest.raises(UnknownJob):
            await anext(job_story(feed, client(), stores.jobs, "nobody"))
        await anext(fleet_story(feed, client()))
