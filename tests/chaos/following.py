"""Reads the event stream all the while: how often each job was started, given back and settled, and when."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio as redis
from redis import exceptions

READ_AT_ONCE = 500
BLOCK_MS = 500
PAUSE_S = 0.1
FROM_THE_BEGINNING = "0-0"


@dataclass(slots=True)
class Course:
    """What the events said of one job, each with its instant (epoch seconds), in order."""

    started: list[tuple[float, str]] = field(default_factory=list)
    requeued: list[tuple[float, str]] = field(default_factory=list)
    settled: list[tuple[float, str]] = field(default_factory=list)

    @property
    def started_after_end(self) -> bool:
        """True where a job that had ended was started again."""
        return bool(self.settled) and any(at > self.settled[0][0] for at, _ in self.started)


@dataclass(slots=True)
class Followed:
    """Courses by job; ``others`` counts the events that are of no job, by kind."""

    courses: dict[str, Course] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)

    def course(self, job_id: str) -> Course:
        """The job's course; empty where nothing was heard of it."""
        return self.courses.get(job_id, Course())

    def take(self, event: dict[str, str]) -> None:
        """Note one event."""
        kind, at = event["kind"], float(event["at"])
        course = self.courses.setdefault(event["job"], Course()) if "job" in event else None
        match kind:
            case "job.started" if course:
                course.started.append((at, event["worker"]))
            case "job.requeued" if course:
                course.requeued.append((at, event.get("code", "")))
            case "job.settled" if course:
                course.settled.append((at, event["state"]))
            case _:
                self.others[kind] = self.others.get(kind, 0) + 1


@asynccontextmanager
async def following(url: str, stream: str) -> AsyncIterator[Followed]:
    """Follow until the end of the context, by a connection that no fault touches but those of the store itself."""
    followed = Followed()
    async with redis.Redis.from_url(url, decode_responses=True) as client:
        task = asyncio.create_task(_follow(client, stream, followed), name="following")
        try:
            yield followed
        finally:
            task.cancel()
            await asyncio.wait({task})


async def _follow(client: redis.Redis, stream: str, followed: Followed) -> None:
    place = FROM_THE_BEGINNING
    while True:
        try:
            replies: Any = await client.xread({stream: place}, count=READ_AT_ONCE, block=BLOCK_MS)
        except (exceptions.RedisError, OSError):
            await asyncio.sleep(PAUSE_S)  # It is being restarted.
            continue
        for _, entries in replies:
            for entry_id, event in entries:
                place = entry_id
                followed.take(event)
