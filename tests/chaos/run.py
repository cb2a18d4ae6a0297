"""One chaos run: start, send and inject by the script, heal, look, stop, judge."""

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import redis.asyncio as redis
from redis import exceptions

from tests.chaos.checks import Checks
from tests.chaos.client import Client
from tests.chaos.faults import Faults, Injected
from tests.chaos.fleet import Fleet, marked, running_fleet
from tests.chaos.following import Followed, following
from tests.chaos.keys import KEYS
from tests.chaos.ledger import TERMINAL, Ledger, Record
from tests.chaos.script import FaultStep, Kind, first_jobs, script
from tests.chaos.verdict import Verdict, judge

HEALED_WITHIN_S = 30.0
"""What the system has to be whole again, once the last fault is over."""

WATCHED_S = 90.0
"""How long it is watched after that: late is told from never."""

SENT_WITHIN_S = 120.0
"""How long the client goes on trying once every fault is healed."""

FAULT_JOB_WITHIN_S = 900.0
"""What a job may take that fails at each attempt: the waits between ten losses add up to four minutes, and where the
machine is busy it takes its time in between.
"""

ALONE_WITHIN_S = 60.0
STALLED_S = 120.0
"""The client has no slot for its next job for that long: the system is not taking any."""

QUEUES_ON_DISK_S = 3.0
"""RabbitMQ 3.10 has a new queue's name on disk by then."""

LOOK_EVERY_S = 1.0
SAY_EVERY = 200
EXPLAINED = 5


class Stalled(Exception):
    """Nothing can be sent any more."""


@dataclass(frozen=True, slots=True)
class Options:
    """What to run. ``rate``: jobs per second at most. ``kinds``: these instead of all.

    ``alone``: each fault waits until the one before is over and done with, which measures how long each takes to get
    over. ``young``: queues are declared while the broker is killed, which RabbitMQ 3.10 does not survive
    (``docs/reliability.md``).
    """

    jobs: int
    faults: int
    seed: int
    dispatchers: int = 2
    workers: int = 4
    rate: float = 40.0
    alone: bool = False
    young: bool = False
    kinds: Sequence[Kind] | None = None


@dataclass(slots=True)
class Looked:
    """A check: what was wrong when it was looked at last, and how long after healing it was right (and stayed so)."""

    wrong: str = "was not looked at"
    after_s: float | None = None

    @property
    def in_time(self) -> bool:
        """Right, and soon enough."""
        return self.after_s is not None and self.after_s <= HEALED_WITHIN_S


@dataclass(slots=True)
class Outcome:
    """All there is to report of a run."""

    options: Options
    ledger: Ledger = field(default_factory=Ledger)
    injected: list[Injected] = field(default_factory=list)
    followed: Followed = field(default_factory=Followed)
    looked: dict[str, Looked] = field(default_factory=dict)
    records: Mapping[str, Record] = field(default_factory=dict)
    ended: list[str] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Verdict)
    stalled: bool = False
    sent_for_s: float = 0.0
    took_s: float = 0.0

    @property
    def passed(self) -> bool:
        """Nothing is wrong, and all was right in time."""
        in_time = bool(self.looked) and all(look.in_time for look in self.looked.values())
        return in_time and not (self.stalled or self.verdict.problems or self.left_behind or self.ended)


async def run(options: Options, directory: Path, say: Callable[[str], None]) -> Outcome:
    """Carry it out under ``directory``, which keeps the logs. Raises what keeps the harness itself from working."""
    outcome, mark, began = Outcome(options), secrets.token_hex(8), time.monotonic()
    say(f"starting RabbitMQ, Redis, {options.dispatchers} dispatchers and {options.workers} workers")
    async with running_fleet(directory, mark, options.dispatchers, options.workers) as fleet:
        store_url = fleet.servers.redis.url
        outcome.ended = fleet.ended
        async with following(store_url, KEYS.events) as followed:
            outcome.followed = followed
            await _torment(options, fleet, outcome, say)
            async with (
                httpx.AsyncClient(timeout=30.0) as http,
                redis.Redis.from_url(store_url, decode_responses=True) as store,
            ):
                await _look(Checks(fleet, http, store), outcome, say)
    outcome.left_behind = [f"{pid} {command}" for pid, command in marked(mark).items()]
    outcome.verdict = judge(outcome.ledger, outcome.records, outcome.followed, outcome.injected)
    outcome.took_s = time.monotonic() - began
    return outcome


async def _torment(options: Options, fleet: Fleet, outcome: Outcome, say: Callable[[str], None]) -> None:
    """Send every job and inject every fault; return once all is healed and every job accepted."""
    client = Client([dispatcher.url for dispatcher in fleet.dispatchers], outcome.ledger, options.seed)

    async def send(step: FaultStep) -> None:
        assert step.job is not None
        job_id = (await client.send(step.job)).job.id
        await _until(lambda: bool(outcome.followed.course(job_id).settled), FAULT_JOB_WITHIN_S)

    if not options.young:
        await _declare_queues(options, client, outcome)
    faults = Faults(fleet, send, outcome.injected)
    began = time.monotonic()
    try:
        await _follow(options, client, faults, outcome, say)
    except Stalled:
        say(f"no job could be sent for {STALLED_S:.0f} s")
        outcome.stalled = True
    await faults.healed()
    client.give_up_at = time.monotonic() + (0.0 if outcome.stalled else SENT_WITHIN_S)
    await client.all_sent()
    await client.close()
    outcome.sent_for_s = time.monotonic() - began


async def _declare_queues(options: Options, client: Client, outcome: Outcome) -> None:
    """Have every model asked for once, and every queue on disk."""
    first = first_jobs(options.seed, options.jobs, options.faults)
    for step in first:
        await client.begin(step)
    await client.all_sent()
    await _until(lambda: all(outcome.followed.course(step.id).settled for step in first), ALONE_WITHIN_S)
    await asyncio.sleep(QUEUES_ON_DISK_S)


async def _follow(
    options: Options, client: Client, faults: Faults, outcome: Outcome, say: Callable[[str], None]
) -> None:
    """Send and inject by the script. Raises ``Stalled``."""
    began, pace = time.monotonic(), _Pace(options.rate)
    over: asyncio.Task[None] | None = None
    for step in script(options.seed, options.jobs, options.faults, options.kinds):
        if isinstance(step, FaultStep):
            if over is not None:
                await over
            injected = await faults.inject(step)
            say(f"{time.monotonic() - began:6.1f} s  fault {step.number}: {step.kind} {injected.target}")
            if options.alone:
                over = asyncio.create_task(_get_over(faults, injected, outcome))
            continue
        await pace.next()
        try:
            async with asyncio.timeout(STALLED_S):
                await client.begin(step)
        except TimeoutError:
            raise Stalled from None
        if len(outcome.ledger.entries) % SAY_EVERY == 0:
            say(f"{time.monotonic() - began:6.1f} s  {len(outcome.ledger.entries)} jobs sent")
    if over is not None:
        await over


async def _get_over(faults: Faults, injected: Injected, outcome: Outcome) -> None:
    """Wait until it is healed and every job that was under way is over."""
    await faults.healed()
    await asyncio.sleep(1.0)  # Jobs sent within this second count as touched by it.
    touched = [job_id for job_id, entry in outcome.ledger.entries.items() if entry.sent_at <= injected.at + 1.0]
    await _until(lambda: all(outcome.followed.course(job_id).settled for job_id in touched), ALONE_WITHIN_S)


async def _look(checks: Checks, outcome: Outcome, say: Callable[[str], None]) -> None:
    """Look again and again until all is right, then take down every record."""
    began = time.monotonic()
    said: dict[str, str] = {}
    outcome.looked = {name: Looked() for name in checks.all()}
    while time.monotonic() - began < WATCHED_S:
        for name, check in checks.all().items():
            looked = outcome.looked[name]
            try:
                looked.wrong = await check()
            except (httpx.HTTPError, exceptions.RedisError, OSError, RuntimeError) as error:
                looked.wrong = f"{type(error).__name__}: {error}"
            if looked.wrong:
                looked.after_s = None
            elif looked.after_s is None:
                looked.after_s = round(time.monotonic() - began, 1)
        wrong = {name: looked.wrong[:300] for name, looked in outcome.looked.items() if looked.wrong}
        if not wrong:
            break
        if wrong != said:
            say(f"healed for {time.monotonic() - began:.0f} s, not right yet: {wrong}")
            said = wrong
        await asyncio.sleep(LOOK_EVERY_S)
    outcome.records = await checks.records()
    for job_id in [job_id for job_id, record in outcome.records.items() if record["state"] not in TERMINAL][:EXPLAINED]:
        say(f"{job_id}: {await checks.explained(job_id)}")


async def _until(true: Callable[[], bool], within_s: float) -> None:
    """Wait, but not for ever: what never comes shows up in the verdict."""
    deadline = time.monotonic() + within_s
    while not true() and time.monotonic() < deadline:  # noqa: ASYNC110 - events come by the stream
        await asyncio.sleep(0.05)


class _Pace:
    """At most ``rate`` a second; what a fault has delayed is not caught up with."""

    def __init__(self, rate: float) -> None:
        self._gap_s = 1 / rate
        self._next_at = time.monotonic()

    async def next(self) -> None:
        self._next_at = max(self._next_at + self._gap_s, time.monotonic() - self._gap_s)
        await asyncio.sleep(max(0.0, self._next_at - time.monotonic()))
