"""``GET /events`` and ``GET /jobs/{id}/events`` as answers: who may, what is refused, and how an answer ends."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Message

from affinity.errors import StoreUnavailable
from dispatcher.auth import still_opens
from dispatcher.event_answer import EventAnswer
from dispatcher.keys import KeyRing
from tests.support.dispatcher import DispatcherWorld, dispatcher_world
from tests.support.sse import seen_in
from tests.unit.dispatcher.test_keys import a_file

OPERATOR, ACME, OTHER = ({"X-API-Key": key} for key in ("ops", "acme-key", "other-key"))


async def ended_job(world: DispatcherWorld) -> None:
    await world.post("/jobs", {"model": "echo", "input": 1, "id": "j1"})
    await world.serve("j1", result="much")


async def test_a_job_that_is_over_is_an_answer_that_ends(world: DispatcherWorld):
    await ended_job(world)

    answer = await world.http.get("/jobs/j1/events")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    (now,) = seen_in(answer.text)
    assert (now.kind, now.said["job"]["state"]) == ("job.now", "succeeded")
    assert world.dispatcher.feed.followers == 0


async def test_a_browser_that_comes_back_after_the_end_is_told_to_stop(world: DispatcherWorld):
    await ended_job(world)
    (now,) = seen_in((await world.http.get("/jobs/j1/events")).text)

    again = await world.http.get("/jobs/j1/events", headers={"Last-Event-ID": now.id})
    by_query = await world.http.get("/jobs/j1/events", params={"last_event_id": now.id})

    assert (again.status_code, again.content, by_query.status_code) == (204, b"", 204)


async def test_the_header_wins_over_the_query_it_was_once_opened_with(world: DispatcherWorld):
    await ended_job(world)

    answer = await world.http.get("/jobs/j1/events?last_event_id=1-0", headers={"Last-Event-ID": "2-0"})

    assert [event.kind for event in seen_in(answer.text)] == ["stream.opened", "job.settled"]


@pytest.mark.parametrize("place", ["x", "-1", "1-2-3", "99999999999999999999", ".end", "$", "1" * 65])
async def test_a_place_that_is_none_is_refused(world: DispatcherWorld, place: str):
    for path in ("/events", "/jobs/j1/events"):
        by_query = await world.http.get(path, params={"last_event_id": place}, headers={"Last-Event-ID": ""})
        by_header = await world.http.get(path, headers={"Last-Event-ID": place})
        for answer in (by_query, by_header):
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
            assert answer.json()["errors"][0]["field"] == "last_event_id"


@pytest.mark.parametrize("job_id", ["nobody", "a b", "~x", "é" * 200])
async def test_a_job_that_is_not_there_is_404(world: DispatcherWorld, job_id: str):
    answer = await world.http.get(f"/jobs/{job_id}/events")

    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_job")


async def test_without_a_store_it_is_503_and_not_a_stream(world: DispatcherWorld):
    world.stores.down = True

    for path in ("/events", "/jobs/j1/events"):
        answer = await world.http.get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
        assert answer.headers["retry-after"]
    world.stores.down = False


async def test_more_than_may_follow_are_refused_with_a_time_to_come_back():
    async with dispatcher_world(dispatcher_max_event_clients=1) as world:
        with world.dispatcher.feed.joined():
            answer = await world.http.get("/events")

    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (429, "overloaded", "5")
    assert "DISPATCHER_MAX_EVENT_CLIENTS" in answer.json()["detail"]


async def test_the_fleet_is_for_operators_and_a_job_for_its_tenant(tmp_path: Path):
    keys = a_file(tmp_path / "keys", {"other": ["other-key"], "acme": ["acme-key"]}, "", ["ops"])
    async with dispatcher_world(affinity_api_keys_file=keys) as world:
        await world.http.post("/jobs", json={"id": "j1", "model": "echo", "input": 1}, headers=ACME)
        await world.serve("j1")
        paths = ("/events?last_event_id=x", "/jobs/j1/events")
        found = {
            name: [(await world.http.get(path, headers=key)).status_code for path in paths]
            for name, key in {"nobody": {}, "operator": OPERATOR, "acme": ACME, "other": OTHER}.items()
        }
        theirs = await world.http.get("/jobs/j1/events", headers=OTHER)
        none = await world.http.get("/jobs/j2/events", headers=OTHER)

    assert found == {"nobody": [401, 401], "operator": [422, 200], "acme": [403, 200], "other": [403, 404]}
    assert theirs.json()["detail"] == none.json()["detail"].replace("j2", "j1")


def test_a_key_that_is_no_more_does_not_go_on_opening(tmp_path: Path):
    file = a_file(tmp_path / "keys", {"acme": ["acme-key"]}, "", ["ops"])
    ring = KeyRing((), file)
    scope = {"type": "http", "headers": [(b"x-api-key", b"acme-key")], "affinity.caller": ring.find("acme-key")}
    request = Request(scope)
    opened = still_opens(ring, request)
    a_file(file, {"acme": ["another-key"]}, "", ["ops"])
    ring.reload()

    assert (opened, still_opens(ring, request)) == (True, False)
    assert still_opens(KeyRing(()), Request({"type": "http", "headers": []})), "no keys are asked for"


class Wire:
    """Both ends of one ASGI answer. ``takes``: how many messages the client takes before it stops reading."""

    def __init__(self, takes: int = 1000) -> None:
        self.sent: list[Message] = []
        self.gone = asyncio.Event()
        self._takes = takes

    async def send(self, message: Message) -> None:
        if len(self.sent) >= self._takes:
            await asyncio.Event().wait()
        self.sent.append(message)

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def ask(self, answer: EventAnswer) -> None:
        async with asyncio.timeout(10):
            await answer({"type": "http", "path": "/events"}, self.receive, self.send)


async def endless(closed: list[str], *first: bytes) -> AsyncGenerator[bytes, None]:
    try:
        for chunk in first:
            yield chunk
        await asyncio.Event().wait()
    finally:
        closed.append("closed")


async def test_a_client_that_leaves_frees_its_place():
    closed: list[str] = []
    wire = Wire()
    asking = asyncio.ensure_future(wire.ask(EventAnswer(endless(closed, b"a", b"b"))))
    while len(wire.sent) < 3:  # noqa: ASYNC110 - the two chunks are on their way
        await asyncio.sleep(0)
    wire.gone.set()
    await asking

    assert [message.get("body") for message in wire.sent] == [None, b"a", b"b"]
    assert closed == ["closed"]


async def test_a_client_that_takes_nothing_is_left_and_that_is_logged(logged: list[dict[str, Any]]):
    closed: list[str] = []
    wire = Wire(takes=2)
    await wire.ask(EventAnswer(endless(closed, b"a", b"b"), unread_s=0.01))

    assert closed == ["closed"]
    assert [line["event"] for line in logged] == ["events.unread"]


async def test_an_answer_that_ends_by_itself_is_whole():
    async def short() -> AsyncIterator[bytes]:
        yield b"a"

    wire = Wire()
    await wire.ask(EventAnswer(short()))  # type: ignore[arg-type]

    assert [(m["body"], m["more_body"]) for m in wire.sent[1:]] == [(b"a", True), (b"", False)]


async def test_an_error_before_the_first_chunk_is_raised_before_anything_is_sent():
    async def failing() -> AsyncIterator[bytes]:
        raise StoreUnavailable("away")
        yield b""

    wire = Wire()
    with pytest.raises(StoreUnavailable):
        await wire.ask(EventAnswer(failing()))  # type: ignore[arg-type]
    assert wire.sent == []


async def test_a_bug_in_a_stream_is_not_swallowed():
    async def failing() -> AsyncIterator[bytes]:
        yield b"a"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await Wire().ask(EventAnswer(failing()))  # type: ignore[arg-type]
