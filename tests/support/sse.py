"""Server-sent events as a client reads them, by the rules of the HTML standard."""

import json
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Seen:
    """One event. ``id`` is the last one that was given, by this event or one before."""

    kind: str
    said: dict[str, Any]
    id: str


def seen_in(text: str) -> list[Seen]:
    """The events of a stream that has ended; a last one without its blank line is none."""
    return list(_events(text.splitlines()))


async def seen(lines: AsyncIterator[str]) -> AsyncIterator[Seen]:
    """Events as they come."""
    event_id = ""
    held: list[str] = []
    async for line in lines:
        held.append(line)
        if not line:
            for event in _events(held, event_id):
                event_id = event.id
                yield event
            held.clear()


def _events(lines: Iterable[str], event_id: str = "") -> Iterator[Seen]:
    kind, said = "message", list[str]()
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if said:
                yield Seen(kind, json.loads("\n".join(said)), event_id)
            kind, said = "message", []
        elif name == "event":
            kind = value
        elif name == "id":
            event_id = value
        elif name == "data":
            said.append(value)
