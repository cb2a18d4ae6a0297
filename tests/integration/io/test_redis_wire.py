"""The short way to Redis: answers find their calls, over every kind of socket, and whatever the server sends."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path

import pytest
from redis import exceptions

from affinity.errors import StoreUnavailable
from affinity.io.redis_client import Patience, RedisLink
from deploy.local.redis import PrivateRedis
from deploy.local.warden import Warden
from tests.support.servers import require_programs

SILENCE_S = 30.0
HASTY = Patience(connect_s=1.0, answer_s=0.2, deadline_s=0.5, retries=1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateRedis]:
    with Warden() as warden:
        redis = PrivateRedis(require_programs(os.environ), tmp_path_factory.mktemp("wire"), warden, os.environ)
        redis.start()
        yield redis
        redis.stop()


@pytest.fixture(params=["tcp", "unix"])
async def link(request: pytest.FixtureRequest, server: PrivateRedis, tmp_path: Path) -> AsyncIterator[RedisLink]:
    """To the real server, directly or through a Unix socket."""
    if request.param == "tcp":
        opened = RedisLink(server.url)
        yield opened
        await opened.close()
        return
    async with forwarded(tmp_path / "redis.sock", server.port):
        opened = RedisLink(f"unix://{tmp_path / 'redis.sock'}")
        yield opened
        await opened.close()


@asynccontextmanager
async def forwarded(path: Path, port: int) -> AsyncIterator[None]:
    """A Unix socket that leads to a port of this machine."""
    ends: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while piece := await reader.read(65536):
                writer.write(piece)
        writer.close()

    async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection("127.0.0.1", port)
        for source, sink in ((reader, there[1]), (there[0], writer)):
            ends.add(asyncio.create_task(pump(source, sink)))

    async with await asyncio.start_unix_server(joined, path):
        yield
        await asyncio.gather(*ends)


@asynccontextmanager
async def answering(reply: bytes) -> AsyncIterator[str]:
    """The URL of something that shakes hands like Redis and then has one answer to everything."""

    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while asked := await reader.read(65536):
                shakes_hands = asked.upper().count(b"SETINFO")
                writer.write(b"+OK\r\n" * shakes_hands or reply)
        writer.close()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.create_task(serve(reader, writer)))

    async with await asyncio.start_server(begin, "127.0.0.1", 0) as listening:
        yield f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0"
        await asyncio.gather(*serving)


async def test_every_call_gets_its_own_answer(link: RedisLink) -> None:
    texts = [f"{number}" * (1 + 5000 * (number % 3)) for number in range(200)]
    assert await asyncio.gather(*(link.call("ECHO", text) for text in texts)) == texts


async def test_an_error_is_its_callers_and_the_others_have_their_answers(link: RedisLink) -> None:
    await link.call("SET", "text", "x")
    answers = await asyncio.gather(
        link.call("ECHO", "a"), link.call("LPUSH", "text", "y"), link.call("ECHO", "b"), return_exceptions=True
    )
    assert (answers[0], answers[2]) == ("a", "b")
    assert isinstance(answers[1], StoreUnavailable)
    assert "WRONGTYPE" in answers[1].message


async def test_what_is_published_is_heard_in_order_however_large(link: RedisLink) -> None:
    texts = ["ä", "x" * 2_000_000, "", "last"]
    async with asyncio.timeout(20), aclosing(link.messages("channel", SILENCE_S)) as heard:
        assert await anext(heard) is None
        for text in texts:
            await link.call("PUBLISH", "channel", text)
        assert [await anext(heard) for _ in texts] == texts


async def test_a_closed_link_opens_again_at_the_next_call(link: RedisLink) -> None:
    assert await link.call("ECHO", "a") == "a"
    await link.close()
    assert await link.call("ECHO", "b") == "b"


async def test_a_server_that_is_loading_is_said_to_be() -> None:
    async with answering(b"-LOADING Redis is loading the dataset in memory\r\n") as url:
        link = RedisLink(url, HASTY)
        with pytest.raises(StoreUnavailable, match="still loading its data: wait"):
            await link.call("ECHO", "a")
        await link.close()


async def test_a_primary_without_its_replicas_is_said_to_be_and_not_asked_again_on_that_connection() -> None:
    async with answering(b"-NOREPLICAS Not enough good replicas to write.\r\n") as url:
        link = RedisLink(url, HASTY)
        with pytest.raises(StoreUnavailable, match="lower its min-replicas-to-write"):
            await link.call("SET", "a", "b")
        assert link._wire._open
        assert link._wire._open.lost, "whoever is the primary now is asked for again"
        await link.close()


@pytest.mark.parametrize("reply", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"*3\r\n$-5\r\n"])
async def test_what_is_no_redis_is_an_outage(reply: bytes) -> None:
    async with answering(reply) as url:
        link = RedisLink(url, HASTY)
        with pytest.raises(StoreUnavailable, match="what is no answer"):
            await link.call("ECHO", "a")
        await link.close()


async def test_one_call_without_an_answer_ends_all_that_came_after_it_on_its_connection() -> None:
    async with answering(b"") as url:
        link = RedisLink(url, HASTY)
        began_s = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*(link.call("ECHO", "a") for _ in range(20)), return_exceptions=True)
        assert asyncio.get_running_loop().time() - began_s < HASTY.deadline_s + 0.5
        assert all(isinstance(answer, StoreUnavailable) for answer in answers)
        await link.close()


async def test_an_unknown_script_is_told_to_the_caller(link: RedisLink) -> None:
    with pytest.raises(exceptions.NoScriptError):
        await link.call("EVALSHA", "0" * 40, 0)
