"""A body that comes a byte at a time, or not at all, is given up; a wait after a whole one is not."""

import asyncio
from collections.abc import Sequence

import pytest
from starlette.types import Message, Receive, Scope, Send

from dispatcher.limits import BodyLimit
from dispatcher.problems import RequestTimeout


async def told(within_s: float, messages: Sequence[Message], reads: int, **headers: str) -> list[Message]:
    """What an application hears that reads so often, of a client that sends these and then nothing more."""
    coming = asyncio.Queue[Message]()
    for message in messages:
        coming.put_nowait(message)
    heard: list[Message] = []

    async def app(_: Scope, receive: Receive, __: Send) -> None:
        while len(heard) < reads:
            heard.append(await receive())

    async def send(_: Message) -> None:
        raise AssertionError("nothing is answered here")

    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    await BodyLimit(app, 100, within_s)({"type": "http", "headers": named}, coming.get, send)
    return heard


def part(body: bytes, more: bool) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


@pytest.mark.parametrize("headers", [{"content_length": "10"}, {"transfer_encoding": "chunked"}])
@pytest.mark.parametrize("sent", [[], [part(b"1", True), part(b"2", True)]])
async def test_a_body_that_is_not_whole_in_time_is_given_up(headers: dict[str, str], sent: list[Message]):
    with pytest.raises(RequestTimeout, match="not whole"):
        await told(0.01, sent, len(sent) + 1, **headers)


async def test_the_time_is_that_of_the_whole_body_not_of_its_parts():
    parts = [part(b"x", True)] * 50
    with pytest.raises(RequestTimeout):
        await told(0.0, parts, 51, content_length="60")


async def test_a_whole_body_is_passed_on_and_nothing_after_it_is_timed():
    gone: Message = {"type": "http.disconnect"}

    async with asyncio.timeout(5.0):
        heard = await told(30.0, [part(b"12", True), part(b"3", False), gone], 3, content_length="3")

    assert [message["type"] for message in heard] == ["http.request", "http.request", "http.disconnect"]
    waiting = asyncio.create_task(told(0.01, [part(b"123", False)], 2, content_length="3"))
    done, _ = await asyncio.wait({waiting}, timeout=0.05)
    assert not done
    waiting.cancel()
