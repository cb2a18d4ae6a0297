"""``JobStore`` in Redis: one hash per job, four indexes, the outbox and the demand; each change is one Lua script.

A script runs whole or not at all, and the client may run it twice (an answer can be lost on the wire): each header
under ``lua/`` says what the second run does. A missing answer is ``StoreUnavailable``; ask again.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from affinity.errors import AttemptsExhausted, IdConflict, NotCancellable, QueueFull, UnknownJob, WorkerLost
from affinity.fleet import Demand
from affinity.io import job_record as record
from affinity.io.letter_store import LETTER_RETENTION_S, RedisLetterStore
from affinity.io.ports import UNBOUNDED, Bounds, Created, Page, StartAnswer, Verdict
from affinity.io.redis_client import RedisLink, Script, lua
from affinity.io.stray_store import RedisStrayStore
from affinity.job import DUE_SLACK_S, MAX_LOSSES, TRANSITIONS, Attempt, Job, JobError, JobSpec, JobState, Outcome
from affinity.topology import Keys

RETENTION_S = 86400.0
MAX_RESULT_BYTES = 8 * 1024**2

CHARGED_MS = "60000"
"""How long a charge that was made is known, in ms: longer than the client repeats a command."""

PAGE_BYTES = 16 * 1024**2
"""A page ends early past this: 500 results of the largest size would not fit into a dispatcher."""

LOST = JobError(WorkerLost.code, "the worker's lease ran out while it held the job")
EXHAUSTED = JobError(
    AttemptsExhausted.code,
    f"lost {MAX_LOSSES} times through no fault of its own, the last time by LAST; see why, then submit it again",
)


class RedisJobStore:
    """See ``ports.JobStore``."""

    def __init__(
        self,
        link: RedisLink,
        keys: Keys,
        retention_s: float = RETENTION_S,
        max_result_bytes: int = MAX_RESULT_BYTES,
    ) -> None:
        """``retention_s``: how long a terminal record stays, at least a second. ``max_result_bytes``: of its JSON."""
        self._link = link
        self._keys = keys
        self._retention_ms = str(int(retention_s * 1000))
        self._max_result_bytes = max_result_bytes
        self._shared_keys = [keys.unpublished, keys.demand, keys.events, keys.retained]
        self._create = self._script("create")
        self._published = self._script("published")
        self._withdraw = self._script("withdraw")
        self._end_early = self._script("end_early")
        self._cancelled = link.script(lua("cancelled"))
        self._sight = self._script("sight")
        self._start = self._script("start")
        self._finish = self._script("finish")
        self._give_back = self._script("give_back")
        self._charge = self._script("charge")
        self._shares = link.script(lua("shares"))
        self._reclaim = self._script("reclaim")
        self._demand = link.script(lua("demand"))
        self._page = link.script(lua("page"))
        self._rates = link.script(lua("rates"))
        self.strays = RedisStrayStore(link, keys)
        self.letters = RedisLetterStore(link, keys, self._shared_keys, self._script)

    async def create(self, spec: JobSpec, now: float, bounds: Bounds = UNBOUNDED) -> Created:
        """See the port. A call that the client repeats is still ``fresh``."""
        most = ["" if bound is None else str(bound) for bound in (bounds.tenant, bounds.model, bounds.in_all)]
        args = self._args(now, _nonce(), *record.new_fields(spec, now), *most, spec.tenant)
        answer = await self._create(self._shared_keys, args)
        if answer[0] == "full":
            raise full(spec, answer[1], int(answer[2]))
        if answer[0] == "conflict":
            raise _conflict(spec)
        job = record.decode_job(answer[2]) if answer[2] else Job(spec, JobState.QUEUED, now)
        return Created(job, fresh=answer[0] == "made", published=bool(answer[1]))

    async def published(self, job_id: str) -> None:
        """See the port. A job that is gone or was published before is left alone."""
        await self._published(self._shared_keys, self._args(0.0, job_id))

    async def withdraw(self, job_id: str) -> bool:
        """See the port. True where nothing of it is left."""
        return bool(await self._withdraw(self._shared_keys, self._args(0.0, job_id)))

    async def unpublished(self, before: float, limit: int) -> Sequence[Job]:
        """See the port."""
        async with self._link.guard() as client:
            earlier = f"({record.millis(before)}"
            ids = await client.zrangebyscore(self._keys.unpublished, "-inf", earlier, start=0, num=limit)
        jobs = [await self._find(str(job_id)) for job_id in ids]
        return [job for job in jobs if job is not None]

    async def get(self, job_id: str) -> Job:
        """See the port."""
        if (job := await self._find(job_id)) is None:
            raise unknown(job_id)
        return job

    async def page(
        self, state: JobState | None, model: str | None, limit: int, cursor: str | None, tenant: str = ""
    ) -> Page:
        """See the port. ``limit`` is 1 to 500; a page of very large jobs may end before it."""
        place = ("", "") if cursor is None else record.decode_cursor(cursor)
        filters = (state or "", model or "")
        args = [self._keys.prefix, str(record.check_limit(limit)), str(PAGE_BYTES), *filters, *place, tenant]
        index = self._keys.tenant_index(tenant, *filters) if tenant else self._keys.index(*filters)
        more, *flats = await self._page([index], args)
        jobs = tuple(record.decode_job(flat) for flat in flats)
        return Page(jobs, record.encode_cursor(jobs[-1]) if more else None)

    async def cancel(self, job_id: str, now: float) -> Job:
        """See the port."""
        answer = await self._end(job_id, JobState.CANCELLED, None, now)
        if answer[0] == "missing":
            raise unknown(job_id)
        job = record.decode_job(answer[1])
        if answer[0] == "refused":
            raise NotCancellable(f"job {job_id} has ended already: it is {job.state}")
        return job

    async def cancelled(self, job_ids: Iterable[str]) -> frozenset[str]:
        """See the port."""
        return frozenset(await self._cancelled([], [self._keys.job(""), *job_ids]))

    async def fail(self, job_id: str, error: JobError, now: float) -> bool:
        """See the port."""
        answer = await self._end(job_id, JobState.FAILED, error, now)
        return bool(answer[0] == "settled")

    async def sight(self, spec: JobSpec, created_at: float, now: float) -> Job:
        """See the port. An instant after ``now`` counts as ``now``."""
        fields = record.new_fields(spec, record.sighted(created_at, now))
        answer = await self._sight(self._shared_keys, self._args(now, *fields))
        if answer[0] == "conflict":
            raise _conflict(spec)
        return record.decode_job(answer[1])

    async def start(self, attempts: Sequence[tuple[Attempt, JobSpec, float]], now: float) -> Sequence[StartAnswer]:
        """See the port."""
        lost, exhausted = record.encode_error(LOST), record.encode_error(EXHAUSTED)
        args = self._args(now, str(MAX_LOSSES), self._retention_ms, *lost, *exhausted)
        for attempt, spec, created_at in attempts:
            args += [attempt.token, attempt.worker, str(attempt.epoch)]
            args += record.new_fields(spec, record.sighted(created_at, now))
        answers = await self._start(self._shared_keys, args)
        return [
            StartAnswer(Verdict(verdict), record.decode_started(flat, spec))
            for (verdict, flat), (_, spec, _) in zip(answers, attempts, strict=True)
        ]

    async def finish(self, attempt: Attempt, outcome: Outcome, now: float) -> bool:
        """See the port. A result over its limit, or that is no JSON, is stored as a failure that says so."""
        outcome, result = record.encode_outcome(outcome, self._max_result_bytes)
        times = [outcome.start, repr(float(outcome.load_s)), repr(float(outcome.exec_s))]
        args = [attempt.job_id, attempt.token, outcome.state, self._retention_ms, *times, result]
        args += [*record.encode_error(outcome.error), _seconds(outcome.gpu_s), *record.encode_load(outcome)]
        return bool(await self._finish(self._shared_keys, self._args(now, *args)))

    async def give_back(
        self,
        attempt: Attempt,
        error: JobError | None,
        uses_attempt: bool,
        now: float,
        wait_s: float = 0.0,
        died: bool = False,
        gpu_s: float | None = None,
    ) -> bool:
        """See the port. The error stays in the record as ``last_error``; a queued job shows none."""
        mode = "attempt" if uses_attempt else "loss" if error else "neither"
        later = [repr(float(now + wait_s)) if wait_s else "", "1" if died else "", _seconds(gpu_s)]
        args = self._args(now, attempt.job_id, attempt.token, mode, *record.encode_error(error), *later)
        return bool(await self._give_back(self._shared_keys, args))

    async def reclaim(self, worker: str, now: float) -> int:
        """See the port."""
        return int(await self._reclaim(self._shared_keys, self._args(now, worker, *record.encode_error(LOST))))

    async def demand(self) -> Sequence[Demand]:
        """See the port."""
        rows = await self._demand([self._keys.demand, self._keys.delayed], [self._keys.prefix])
        return record.decode_demand(rows)

    async def charge(self, tenant: str, gpu_s: float) -> None:
        """See the port."""
        await self._charge(self._shared_keys, self._args(0.0, _nonce(), tenant, repr(gpu_s), CHARGED_MS))

    async def set_shares(self, shares: Mapping[str, float]) -> None:
        """See the port."""
        flat = [text for tenant in sorted(shares) for text in (tenant, repr(float(shares[tenant])))]
        await self._shares([self._keys.shares], flat)

    async def gpu_seconds(self) -> Mapping[str, float]:
        """See the port."""
        flat = await self._link.call("HGETALL", self._keys.used)
        return {tenant: float(text.split()[2]) for tenant, text in zip(flat[::2], flat[1::2], strict=True)}

    async def position(self, job_id: str, model: str) -> int | None:
        """See the port."""
        rank = await self._link.call("ZRANK", self._keys.queued(model), job_id)
        return None if rank is None else int(rank)

    async def drained(self) -> Mapping[str, int]:
        """See the port."""
        flat = await self._link.call("HGETALL", self._keys.drained)
        return {name: int(count) for name, count in zip(flat[::2], flat[1::2], strict=True)}

    async def rates(self) -> Mapping[str, float]:
        """See the port."""
        now_s, flat = await self._rates([self._keys.rates], [])
        return record.decode_rates(flat, float(now_s))

    def _script(self, name: str) -> Script:
        return self._link.script(prelude(), lua("record"), lua(name))

    def _args(self, now: float, *rest: str) -> list[str]:
        return [self._keys.prefix, repr(float(now)), *rest]

    async def _find(self, job_id: str) -> Job | None:
        flat = await self._link.call("HGETALL", self._keys.job(job_id))
        return record.decode_job(flat) if flat else None

    async def _end(self, job_id: str, state: JobState, error: JobError | None, now: float) -> list[Any]:
        args = [job_id, state, _nonce(), self._retention_ms, *record.encode_error(error)]
        answer: list[Any] = await self._end_early(self._shared_keys, self._args(now, *args))
        return answer


def prelude() -> str:
    """What every job script begins with: rules that are written down once, here in Lua."""
    constants = {
        "RATE_TAU_S": record.RATE_TAU_S,
        "USED_TAU_S": record.USED_TAU_S,
        "DUE_SLACK_S": DUE_SLACK_S,
        "LETTER_RETENTION_S": LETTER_RETENTION_S,
    }
    return "\n".join([moves_table(), *(f"local {name} = {value!r}" for name, value in constants.items())])


def moves_table() -> str:
    """``job.TRANSITIONS`` in Lua, as one text to search: every call of a script would build a table anew."""
    moves = sorted(f"{before}>{after}" for before, afters in TRANSITIONS.items() for after in afters)
    return f"local MOVES = ' {' '.join(moves)} '"


def full(spec: JobSpec, bound: str, queued: int) -> QueueFull:
    """The refusal of a job that would go over a bound."""
    whose = {"tenant": f"tenant {spec.tenant}", "model": f"model {spec.model}", "all": "all models together"}[bound]
    return QueueFull(f"{queued} jobs of {whose} are queued, and no more may be: wait until some have run", bound=bound)


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else repr(float(seconds))


def _nonce() -> str:
    return secrets.token_hex(8)


def _conflict(spec: JobSpec) -> IdConflict:
    return IdConflict(f"job {spec.id} exists with other content; use another id for other content")


def unknown(job_id: str) -> UnknownJob:
    """The answer about a job that is not there."""
    return UnknownJob(f"there is no job {job_id}, or its record has passed its retention")
