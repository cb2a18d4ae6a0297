"""What every ``EventStream`` does."""

import asyncio

import pytest

from affinity.errors import InvalidInput
from affinity.io.event_port import Event
from affinity.job import Attempt, JobSpec, JobState, Outcome, StartKind
from tests.support.stores import Stores

AT = 1_700_000_000.123456


async def take(stores: Stores, after: str | None, count: int) -> list[Event]:
    found: list[Event] = []
    async with asyncio.timeout(10):
        async for event in stores.events.read(after):
            found.append(event)
            if len(found) == count:
                return found
    raise AssertionError("the stream ended")


async def test_events_come_in_order_with_all_they_say(stores: Stores) -> None:
    for number in range(250):
        await stores.events.emit("model.loading", AT + number, {"model": f"m{number}", "why": "ä"})
    events = await take(stores, "0-0", 250)
    assert [event.kind for event in events] == ["model.loading"] * 250
    assert [event.at for event in events] == [AT + number for number in range(250)]
    assert [event.fields for event in events] == [{"model": f"m{number}", "why": "ä"} for number in range(250)]


async def test_a_reader_goes_on_after_the_last_event_it_has_seen(stores: Stores) -> None:
    for number in range(4):
        await stores.events.emit("k", AT, {"n": str(number)})
    first = await take(stores, "0", 2)
    rest = await take(stores, first[-1].id, 2)
    assert [event.fields["n"] for event in first + rest] == ["0", "1", "2", "3"]
    assert len({event.id for event in first + rest}) == 4


async def test_a_reader_waits_for_what_comes(stores: Stores) -> None:
    waiting = asyncio.ensure_future(take(stores, "0-0", 1))
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    await stores.events.emit("k", AT, {"n": "1"})
    assert [event.fields for event in await waiting] == [{"n": "1"}]


async def test_a_reader_without_a_place_sees_only_what_comes_after_it_began(stores: Stores) -> None:
    await stores.events.emit("k", AT, {"n": "before"})
    waiting = asyncio.ensure_future(take(stores, None, 1))
    while not waiting.done():
        await stores.events.emit("k", AT, {"n": "after"})
        await asyncio.wait([waiting], timeout=0.02)
    assert [event.fields["n"] for event in waiting.result()] == ["after"]


async def test_several_readers_each_see_everything(stores: Stores) -> None:
    readers = [asyncio.ensure_future(take(stores, "0-0", 3)) for _ in range(3)]
    for number in range(3):
        await stores.events.emit("k", AT, {"n": str(number)})
    for events in await asyncio.gather(*readers):
        assert [event.fields["n"] for event in events] == ["0", "1", "2"]


async def test_a_place_in_a_stream_that_is_no_more_does_not_hang_the_reader(stores: Stores) -> None:
    await stores.events.emit("k", AT, {"n": "new"})
    events = await take(stores, "9999999999999-5", 1)
    assert [event.fields["n"] for event in events] == ["new"]


async def test_fields_cannot_pass_for_kind_or_instant(stores: Stores) -> None:
    await stores.events.emit("k", AT, {"kind": "forged", "at": "0", "n": "1"})
    (event,) = await take(stores, "0-0", 1)
    assert (event.kind, event.at, event.fields) == ("k", AT, {"n": "1"})


@pytest.mark.parametrize("place", ["", "$", "x", "1-", "-1", "1-2-3", "1 2", "99999999999999999999", "1\n"])
async def test_a_place_that_is_no_id_is_refused(stores: Stores, place: str) -> None:
    with pytest.raises(InvalidInput, match="after"):
        await take(stores, place, 1)
    with pytest.raises(InvalidInput, match="after"):
        await stores.events.since(place)


async def test_a_look_does_not_wait_and_the_next_goes_on_from_its_place(stores: Stores) -> None:
    begin = await stores.events.since(None)
    assert begin.events == ()
    assert await stores.events.since(begin.place) == begin, "nothing has happened"
    for number in range(5):
        await stores.events.emit("k", AT, {"n": str(number)})
    first = await stores.events.since(begin.place, 3)
    rest = await stores.events.since(first.place, 3)
    assert [event.fields["n"] for event in first.events + rest.events] == ["0", "1", "2", "3", "4"]
    assert (first.more, first.missed, first.place) == (True, False, first.events[-1].id)
    assert (rest.more, rest.missed, rest.place) == (False, False, rest.events[-1].id)
    end = await stores.events.since(None)
    assert (end.events, end.place) == ((), rest.place)


async def test_a_look_from_a_place_that_is_no_more_says_that_events_are_missing(stores: Stores) -> None:
    await stores.events.emit("k", AT, {"n": "0"})
    look = await stores.events.since("9999999999999-5")
    assert look.missed
    assert [event.fields["n"] for event in look.events] == ["0"]
    assert not (await stores.events.since("0-0")).missed, "the beginning is always there"


async def test_the_end_of_a_job_is_told_with_its_record_or_to_be_read(stores: Stores) -> None:
    attempt = Attempt("j1", "token", "w1", 1)
    told = stores.events.settled()
    async with asyncio.timeout(10):
        assert await anext(told) is None, "listening has begun"
        await stores.jobs.start([(attempt, JobSpec("j1", "m", 1), AT)], AT + 1)
        await stores.jobs.finish(attempt, Outcome(StartKind.WARM, 0.0, 0.5, result={"é": [1.5, None]}), AT + 2)
        settled = await anext(told)
    assert settled is not None
    assert settled.job_id == "j1"
    stored = await stores.jobs.get("j1")
    assert stored.state is JobState.SUCCEEDED
    assert settled.record is None or settled.record() == stored
    await told.aclose()


async def test_a_large_record_is_not_told_around(stores: Stores) -> None:
    attempt = Attempt("j1", "token", "w1", 1)
    told = stores.events.settled()
    async with asyncio.timeout(10):
        await anext(told)
        await stores.jobs.start([(attempt, JobSpec("j1", "m", "x" * 20_000), AT)], AT + 1)
        await stores.jobs.finish(attempt, Outcome(StartKind.WARM, 0.0, 0.5, result="y"), AT + 2)
        settled = await anext(told)
    assert settled is not None
    assert (settled.job_id, settled.record) == ("j1", None)
    await told.aclose()
