"""Every error of the Redis client becomes one of ours, in one place."""

import asyncio
import inspect
from types import SimpleNamespace

import pytest
from redis import exceptions

from affinity.errors import Disposition, InvariantBroken, StoreUnavailable
from affinity.io.events import EVENTS_KEPT
from affinity.io.redis_client import BUG, TRANSLATED, RedisLink, lua, translate
from affinity.io.redis_line import RedisLine

CLASSES = [kind for _, kind in inspect.getmembers(exceptions, inspect.isclass) if issubclass(kind, Exception)]
ADDRESS = "cache.example:6379"


def made(kind: type[Exception], message: str) -> Exception:
    error = kind.__new__(kind)
    error.args = (message,)
    return error


def test_there_are_errors_to_translate() -> None:
    assert len(CLASSES) > 20


@pytest.mark.parametrize("kind", [*CLASSES, OSError, ConnectionResetError, TimeoutError])
async def test_every_error_of_the_client_is_caught_and_becomes_store_unavailable(kind: type[Exception]) -> None:
    assert issubclass(kind, TRANSLATED)
    link = RedisLink(f"redis://user:secret@{ADDRESS}/0")
    # IncorrectPolicyType and its like take other arguments: what counts is the class.
    error = made(kind, "boom")
    with pytest.raises(StoreUnavailable) as caught:
        async with link.guard():
            raise error
    assert ADDRESS in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is error
    await link.close()


async def test_a_connection_that_uvloop_calls_closed_is_lost_and_other_runtime_errors_are_bugs() -> None:
    link = RedisLink(f"redis://{ADDRESS}/0")
    with pytest.raises(StoreUnavailable, match=ADDRESS):
        async with link.guard():
            raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
    with pytest.raises(RuntimeError, match="of ours"):
        async with link.guard():
            raise RuntimeError("a bug of ours")
    await link.close()


class ClosedTransport(asyncio.Transport):
    """A connection that was lost a moment ago, as uvloop has it."""

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None: ...

    def get_protocol(self) -> asyncio.BaseProtocol:
        return asyncio.Protocol()

    def is_closing(self) -> bool:
        return False

    def write(self, data: object) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")


def test_a_command_on_a_connection_that_uvloop_calls_closed_is_not_answered_as_a_bug() -> None:
    connection = SimpleNamespace(
        _parser=SimpleNamespace(parse_error=ValueError),
        _writer=SimpleNamespace(transport=ClosedTransport()),
        encoder=SimpleNamespace(encoding="utf-8", encoding_errors="strict"),
    )
    line = RedisLine(connection, print, print)
    with pytest.raises(exceptions.ConnectionError, match="handler is closed"):
        line.send("PING")


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        (exceptions.AuthenticationError, "password in REDIS_URL"),
        (exceptions.NoPermissionError, "all commands"),
        (exceptions.OutOfMemoryError, "maxmemory"),
        (exceptions.ReadOnlyError, "primary"),
        (exceptions.BusyLoadingError, "loading"),
        (exceptions.MaxConnectionsError, "maxclients"),
        (exceptions.ConnectionError, "check that it runs"),
        (exceptions.TimeoutError, "check that it runs"),
    ],
)
def test_the_message_says_what_to_do(kind: type[Exception], advice: str) -> None:
    error = translate(kind("boom"), ADDRESS)
    assert isinstance(error, StoreUnavailable)
    assert advice in error.message


def test_a_broken_invariant_in_a_script_is_a_bug_and_not_an_outage() -> None:
    error = translate(exceptions.ResponseError(f"ERR {BUG}: job j1 cannot go from failed to queued"), ADDRESS)
    assert isinstance(error, InvariantBroken)
    assert error.disposition is Disposition.STOP


def test_scripts_and_python_mark_bugs_and_cap_the_stream_alike() -> None:
    assert f"error('{BUG}: " in lua("record")
    assert f"local EVENTS_KEPT = {EVENTS_KEPT}\n" in lua("record")


async def test_errors_of_our_own_pass_through() -> None:
    link = RedisLink(f"redis://{ADDRESS}/0")
    with pytest.raises(KeyError):
        async with link.guard():
            raise KeyError("x")
    await link.close()


@pytest.mark.parametrize("url", ["", "localhost:6379", "amqp://localhost/"])
def test_a_url_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="redis://"):
        RedisLink(url)


async def test_the_address_is_host_and_port_or_the_path_of_a_socket() -> None:
    for url, address in [
        ("redis://cache.example", "cache.example:6379"),
        ("redis://:pw@cache.example:7000/3", "cache.example:7000"),
        ("redis://", "localhost:6379"),
        ("unix:///run/redis.sock", "/run/redis.sock"),
    ]:
        link = RedisLink(url)
        assert link.address == address
        await link.close()
