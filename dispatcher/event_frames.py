"""Events as text/event-stream frames. All that is not ours is inside one line of JSON, which nothing in it can end: the
line is ASCII, since there are readers that take other characters of Unicode for the end of a line, too.

Frames about the stream itself have no id: whoever reconnects goes on after the last event of the fleet.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from affinity.io.event_port import Event
from affinity.io.events import order_of
from affinity.job import Job
from affinity.wire import dumps, job_to_json, rfc3339

MEDIA_TYPE = "text/event-stream"
KEEP_ALIVE = b": still here\n\n"

END = ".end"
"""At the end of the id of a job's last event: a browser comes back after each end, and is told by it to stop."""

_RETRY = b"retry: 2000\n"
_LARGE = frozenset({"result", "metadata"})
_KIND = re.compile(r"[a-z_.]{1,64}\Z")
_NUMBERS = {"attempt": int, "life": int, "jobs": int, "load_s": float}


@dataclass(frozen=True, slots=True)
class Told:
    """One frame, ready to be sent. ``order`` is that of its event, ``None`` of a frame about the stream itself.

    ``last``: the job that is followed has ended by it.
    """

    frame: bytes
    order: tuple[int, int] | None = None
    id: str = ""
    last: bool = False


def told(event: Event, of_job: bool = False) -> Told:
    """An event of the fleet. ``of_job``: for those who follow its job."""
    last = of_job and event.kind == "job.settled"
    numbers = {name: _number(name, text) for name, text in event.fields.items() if name in _NUMBERS}
    said = {**event.fields, **numbers, "at": _instant(event.at), "id": event.id}
    return Told(_frame(event.kind, said, event.id + END * last), order_of(event.id), event.id, last)


def opened(place: str) -> bytes:
    """The first frame: from here on. With an id, so that whoever is cut off before the first event misses none."""
    return _RETRY + _frame("stream.opened", {}, place)


def job_now(job: Job, place: str) -> bytes:
    """The job as it stands, without what may be large."""
    as_it_stands = {name: value for name, value in job_to_json(job).items() if name not in _LARGE}
    return _RETRY + _frame("job.now", {"job": as_it_stands}, place + END * job.state.terminal)


def about_stream(kind: str, detail: str, **more: str) -> bytes:
    """A frame about the stream itself."""
    return _frame(kind, {"detail": detail, **more}, "")


def _frame(kind: str, said: Mapping[str, object], event_id: str) -> bytes:
    named = kind if _KIND.match(kind) else "unknown"
    head = f"id: {event_id}\n" if event_id else ""
    return f"{head}event: {named}\ndata: {dumps({**said, 'kind': kind})}\n\n".encode()


def _number(name: str, text: str) -> object:
    try:
        number = _NUMBERS[name](text)
        return number if math.isfinite(number) else text  # JSON has no other numbers.
    except (ValueError, OverflowError):
        return text


def _instant(at: float) -> str | None:
    try:
        return rfc3339(at)
    except (ValueError, OverflowError, OSError):
        return None  # An entry made by hand.
