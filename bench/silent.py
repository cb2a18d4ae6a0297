"""``python -m bench.silent dispatcher|worker``: the service without metrics and events, to measure what those cost.

There is no such setting: nobody should run a fleet that cannot be seen. So what counts and what tells is taken out
here, before the service is imported: every method of its metrics that only takes note, the timer around requests, and
the line of Lua by which jobs append to the stream of events. Whatever is not found where it was is an error, so that a
change there does not turn the comparison into one of two equal systems.
"""

import importlib
import inspect
import runpy
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from affinity.io import events, redis_client

EMIT = "  redis.call('XADD', EVENTS, 'MAXLEN', '~', EVENTS_KEPT, '*', 'kind', kind, 'at', at, ...)\n"

METRICS = {"dispatcher": "DispatcherMetrics", "worker": "WorkerMetrics"}


class NothingToSilence(Exception):
    """What this module takes out is not where it was: look what it has become, and follow it."""


def without_events(script: str) -> str:
    """``record.lua``, which all scripts of jobs begin with, as one that tells nobody what it does."""
    if EMIT not in script:
        raise NothingToSilence("record.lua does not append events as it did")
    return script.replace(EMIT, "")


def silence_metrics(kind: type) -> list[str]:
    """Take from a class every method that answers nothing; their names."""
    found = [
        name
        for name, method in vars(kind).items()
        if inspect.isfunction(method)
        and not name.startswith("_")
        and method.__annotations__.get("return", "?") in (None, "None")
    ]
    if not found:
        raise NothingToSilence(f"{kind.__name__} has nothing that only takes note")
    for name in found:
        setattr(kind, name, _nothing)
    return found


def silence_requests(kind: type) -> None:
    """Have a piece of middleware hand every request on, and do nothing else."""
    if "_app" not in inspect.getsource(kind):
        raise NothingToSilence(f"{kind.__name__} hands on in another way than it did")

    def through(self: Any, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        handed_on: Awaitable[None] = self._app(scope, receive, send)
        return handed_on

    kind.__call__ = through  # type: ignore[assignment, method-assign, unused-ignore]


def silence(service: str) -> None:
    """Take all of it out of a service that has not been imported yet."""
    read: Callable[[str], str] = redis_client.lua
    redis_client.lua = lambda name: without_events(read(name)) if name == "record" else read(name)
    events.RedisEventStream.emit = _told_nobody  # type: ignore[method-assign]
    metrics = importlib.import_module(f"{service}.metrics")
    silence_metrics(getattr(metrics, METRICS[service]))
    if service == "dispatcher":
        silence_requests(metrics.RequestTimer)


def _nothing(*_: object, **__: object) -> None:
    """In the place of what took note."""


async def _told_nobody(*_: object, **__: object) -> None:
    """In the place of what told."""


if __name__ == "__main__":
    silence(sys.argv[1])
    runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=True)
