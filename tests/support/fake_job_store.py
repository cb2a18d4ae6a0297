"""``JobStore`` in memory, part of ``fake_stores``."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import exp
from typing import Any, cast

from affinity.errors import IdConflict, NotCancellable
from affinity.fleet import Demand, Lane
from affinity.io import job_record as record
from affinity.io.job_store import EXHAUSTED, LOST, full, unknown
from affinity.io.letter_store import LETTER_RETENTION_S
from affinity.io.ports import UNBOUNDED, Bounds, Created, Page, StartAnswer, Verdict
from affinity.job import (
    DUE_SLACK_S,
    MAX_LOSSES,
    Attempt,
    Job,
    JobError,
    JobSpec,
    JobState,
    Outcome,
    StartKind,
    check_transition,
)
from affinity.wire import dumps, loads, spec_to_json
from tests.support.fake_letters import FakeLetterStore
from tests.support.fake_record import Record
from tests.support.fake_strays import FakeStrayStore
from tests.support.fake_world import FakeWorld


class FakeJobStore:
    """See ``ports.JobStore``. Every change of state goes through the transition table."""

    def __init__(self, world: FakeWorld, retention_s: float, max_result_bytes: int) -> None:
        self._world = world
        self._retention_s = retention_s
        self._max_result_bytes = max_result_bytes
        self._records: dict[str, Record] = {}
        self.letters = FakeLetterStore(world, self)
        self.strays = FakeStrayStore(world, self)
        self._outbox: set[str] = set()
        self._arrivals: defaultdict[str, list[float]] = defaultdict(list)
        self._drained: Counter[str] = Counter()
        self._used: dict[str, tuple[float, float]] = {}
        self._charged: dict[str, float] = {}
        self._shares: Mapping[str, float] = {}

    async def create(self, spec: JobSpec, now: float, bounds: Bounds = UNBOUNDED) -> Created:
        found = self._find(spec.id)
        if found is not None:
            _check_content(found, spec)
            return Created(found.job, fresh=False, published=spec.id not in self._outbox)
        self._check_room(spec, bounds)
        self._outbox.add(spec.id)
        return Created(self._make(spec, now).job, fresh=True, published=False)

    async def published(self, job_id: str) -> None:
        if (found := self._find(job_id)) is not None:
            self._accept(found, self._world.clock.now())

    async def withdraw(self, job_id: str) -> bool:
        if self._find(job_id) is None:
            return True
        if job_id not in self._outbox:
            return False
        self._outbox.discard(job_id)
        del self._records[job_id]
        return True

    async def unpublished(self, before: float, limit: int) -> Sequence[Job]:
        self._world.reach()
        jobs = [self._records[job_id].job for job_id in self._outbox]
        early = [job for job in jobs if _place(job)[0] < record.millis(before)]
        return sorted(early, key=_place)[:limit]

    async def get(self, job_id: str) -> Job:
        if (found := self._find(job_id)) is None:
            raise unknown(job_id)
        return found.job

    async def page(
        self, state: JobState | None, model: str | None, limit: int, cursor: str | None, tenant: str = ""
    ) -> Page:
        record.check_limit(limit)
        place = None if cursor is None else record.decode_cursor(cursor)
        whose = [job for job in self._all() if not tenant or job.spec.tenant == tenant]
        chosen = sorted((job for job in whose if _matches(job, state, model)), key=_place, reverse=True)
        if place is not None:
            chosen = [job for job in chosen if _place(job) < (int(place[0]), place[1])]
        jobs = tuple(chosen[:limit])
        return Page(jobs, record.encode_cursor(jobs[-1]) if len(chosen) > limit else None)

    async def cancel(self, job_id: str, now: float) -> Job:
        if (found := self._find(job_id)) is None:
            raise unknown(job_id)
        running = found.job.state is JobState.RUNNING
        if not running and found.job.state is not JobState.QUEUED:
            raise NotCancellable(f"job {job_id} has ended already: it is {found.job.state}")
        job = found.job
        self._settle(found, JobState.CANCELLED, now)
        if running:
            if job.spec.tenant and job.started_at is not None:
                self._account(job.spec.tenant, max(0.0, now - job.started_at) / found.beside)
            self._world.hint(job_id)
        return found.job

    async def cancelled(self, job_ids: Iterable[str]) -> frozenset[str]:
        found = [record for job_id in job_ids if (record := self._find(job_id)) is not None]
        return frozenset(record.job.id for record in found if record.job.state is JobState.CANCELLED)

    async def sight(self, spec: JobSpec, created_at: float, now: float) -> Job:
        found = self._find(spec.id)
        if found is None:
            return self._make_accepted(spec, created_at, now).job
        _check_content(found, spec)
        self._accept(found, now)
        return found.job

    async def start(self, attempts: Sequence[tuple[Attempt, JobSpec, float]], now: float) -> Sequence[StartAnswer]:
        self._world.reach()
        answers = []
        for attempt, spec, created_at in attempts:
            found = self._find(spec.id) or self._make_accepted(spec, created_at, now)
            if found.job.spec.digest != spec.digest:
                answers.append(StartAnswer(Verdict.STRANGER, found.job))
                continue
            self._accept(found, now)
            verdict = self._start(found, attempt, now)
            if verdict is Verdict.STARTED:
                found.beside = len(attempts)
            answers.append(StartAnswer(verdict, found.job))
        return answers

    async def finish(self, attempt: Attempt, outcome: Outcome, now: float) -> bool:
        found = self._find(attempt.job_id)
        if found is None or found.token != attempt.token:
            return False
        if found.job.state is not JobState.RUNNING:
            return found.job.state in (JobState.SUCCEEDED, JobState.FAILED)
        outcome, text = record.encode_outcome(outcome, self._max_result_bytes)
        found.job = replace(
            found.job,
            start=outcome.start,
            load_s=outcome.load_s,
            exec_s=outcome.exec_s,
            evicted=outcome.evicted if outcome.start is StartKind.COLD else None,
            result=loads(text) if text else None,
        )
        self._settle(found, outcome.state, now, outcome.error)
        if outcome.gpu_s is not None:
            self._account(found.job.spec.tenant, outcome.gpu_s)
        return True

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
        found = self._find(attempt.job_id)
        if found is None or found.token != attempt.token:
            return False
        if found.job.state is JobState.RUNNING:
            self._requeue(found, error, uses_attempt, now, now + wait_s if wait_s else None, died)
            if gpu_s is not None:
                self._account(found.job.spec.tenant, gpu_s)
        return found.job.state is JobState.QUEUED

    async def reclaim(self, worker: str, now: float) -> int:
        alive = self._world.holder("lease", worker)
        running = [f for job in self._all() if job.state is JobState.RUNNING and (f := self._find(job.id))]
        lost = [found for found in running if found.job.worker == worker and str(found.epoch) != alive]
        for found in lost:
            self._requeue(found, LOST, uses_attempt=False, now=now)
        return len(lost)

    async def fail(self, job_id: str, error: JobError, now: float) -> bool:
        found = self._find(job_id)
        if found is None or found.job.state is not JobState.QUEUED:
            return False
        self._settle(found, JobState.FAILED, now, error)
        return True

    async def demand(self) -> Sequence[Demand]:
        queued: dict[str, dict[str, list[int]]] = {}
        for job in self._all():
            if job.state is JobState.QUEUED and self._due(job):
                of_model = queued.setdefault(job.spec.model, {})
                of_model.setdefault(job.spec.tenant, []).append(_place(job)[0])
        shared = any(tenant for of_model in queued.values() for tenant in of_model)
        found = []
        for model, of_model in sorted(queued.items()):
            at = [one for ats in of_model.values() for one in ats]
            lanes = tuple(self._lane(tenant, of_model[tenant]) for tenant in sorted(of_model)) if shared else ()
            found.append(Demand(model, len(at), min(at) / 1000, sum(at) / 1000, lanes=lanes))
        return found

    async def charge(self, tenant: str, gpu_s: float) -> None:
        self._world.reach()
        self._account(tenant, gpu_s)

    async def set_shares(self, shares: Mapping[str, float]) -> None:
        self._world.reach()
        self._shares = dict(shares)

    async def gpu_seconds(self) -> Mapping[str, float]:
        self._world.reach()
        return dict(self._charged)

    async def position(self, job_id: str, model: str) -> int | None:
        mine = (job for job in self._all() if job.state is JobState.QUEUED and job.spec.model == model)
        queued = (job for job in mine if self._due(job))
        ids = [job.id for job in sorted(queued, key=_place)]
        return ids.index(job_id) if job_id in ids else None

    async def drained(self) -> Mapping[str, int]:
        self._world.reach()
        return dict(self._drained)

    async def rates(self) -> Mapping[str, float]:
        self._world.reach()
        now = self._world.clock.now()
        flat = ["", repr(min((at for ats in self._arrivals.values() for at in ats), default=now))]
        for model, ats in self._arrivals.items():
            rate = sum(exp((at - now) / record.RATE_TAU_S) / record.RATE_TAU_S for at in ats)
            flat += [model, f"{rate!r} {now!r}"]
        return record.decode_rates(flat, now)

    def _find(self, job_id: str) -> Record | None:
        self._world.reach()
        found = self._records.get(job_id)
        if found is not None and found.gone_at <= self._world.clock.now():
            del self._records[job_id]
            return None
        return found

    def _all(self) -> list[Job]:
        self._world.reach()
        return [found.job for job_id in list(self._records) if (found := self._find(job_id)) is not None]

    def _check_room(self, spec: JobSpec, bounds: Bounds) -> None:
        queued = [job.spec for job in self._all() if job.state is JobState.QUEUED]
        for bound, most, count in (
            ("tenant", bounds.tenant if spec.tenant else None, sum(job.tenant == spec.tenant for job in queued)),
            ("model", bounds.model, sum(job.model == spec.model for job in queued)),
            ("all", bounds.in_all, len(queued)),
        ):
            if most is not None and count >= most:
                raise full(spec, bound, count)

    def _lane(self, tenant: str, at: list[int]) -> Lane:
        return Lane(tenant, len(at), min(at) / 1000, self._left_s(tenant), self._shares.get(tenant, 1.0))

    def _left_s(self, tenant: str) -> float:
        used, at = self._used.get(tenant, (0.0, 0.0))
        return used * exp((at - self._world.clock.now()) / record.USED_TAU_S)

    def _account(self, tenant: str, gpu_s: float) -> None:
        self._used[tenant] = (self._left_s(tenant) + gpu_s, self._world.clock.now())
        self._charged[tenant] = self._charged.get(tenant, 0.0) + gpu_s

    def _left_the_queue(self, job: Job) -> None:
        self._drained[job.spec.model] += 1
        if job.spec.tenant:
            self._drained[f"@{job.spec.tenant}"] += 1

    def _due(self, job: Job) -> bool:
        return job.not_before is None or job.not_before <= self._world.clock.now()

    def _make(self, spec: JobSpec, created_at: float) -> Record:
        stored = JobSpec(**cast(dict[str, Any], loads(dumps(spec_to_json(spec)))))
        made = self._records[spec.id] = Record(Job(stored, JobState.QUEUED, created_at))
        return made

    def _make_accepted(self, spec: JobSpec, created_at: float, now: float) -> Record:
        self._outbox.add(spec.id)
        made = self._make(spec, record.sighted(created_at, now))
        self._accept(made, now)
        return made

    def _accept(self, found: Record, at: float) -> None:
        if found.job.id in self._outbox:
            self._outbox.discard(found.job.id)
            self._arrivals[found.job.spec.model].append(self._world.clock.now())
            self._say("job.accepted", at, found.job)

    def _start(self, found: Record, attempt: Attempt, now: float) -> Verdict:
        job = found.job
        if job.state is JobState.RUNNING:
            if found.token == attempt.token:
                return Verdict.STARTED
            if self._world.holder("lease", job.worker or "") == str(found.epoch):
                return Verdict.HELD
            self._requeue(found, LOST, uses_attempt=False, now=now)
        if found.job.state is not JobState.QUEUED:
            return _verdict_on_ended(found, attempt.token)
        return self._begin(found, attempt, now)

    def _begin(self, found: Record, attempt: Attempt, now: float) -> Verdict:
        job, found.token = found.job, attempt.token
        waits = job.not_before is not None or (job.attempts == 0 and job.losses == 0)
        if job.spec.ttl_s is not None and waits and now > job.created_at + job.spec.ttl_s:
            self._settle(found, JobState.EXPIRED, now)
            return Verdict.EXPIRED
        if job.losses >= MAX_LOSSES:
            last = found.last_code or "unknown"
            self._settle(
                found, JobState.FAILED, now, replace(EXHAUSTED, message=EXHAUSTED.message.replace("LAST", last))
            )
            return Verdict.EXHAUSTED
        if job.not_before is not None and now < job.not_before - DUE_SLACK_S:
            return Verdict.DELAYED
        check_transition(job.state, JobState.RUNNING)
        self._left_the_queue(job)
        found.epoch = attempt.epoch
        found.job = replace(
            job,
            state=JobState.RUNNING,
            worker=attempt.worker,
            started_at=now,
            wait_s=record.waited(job.created_at, now),
            attempts=job.attempts + 1,
            not_before=None,
        )
        self._say("job.started", now, found.job, worker=attempt.worker, attempt=str(found.job.attempts))
        return Verdict.STARTED

    def _requeue(
        self,
        found: Record,
        error: JobError | None,
        uses_attempt: bool,
        now: float,
        not_before: float | None = None,
        died: bool = False,
    ) -> None:
        job = found.job
        check_transition(job.state, JobState.QUEUED)
        found.job = replace(
            job,
            state=JobState.QUEUED,
            worker=None,
            started_at=None,
            wait_s=None,
            attempts=job.attempts if uses_attempt else max(0, job.attempts - 1),
            losses=job.losses + (1 if error and not uses_attempt else 0),
            deaths=job.deaths + died,
            not_before=not_before,
        )
        found.last_code = error.code if error else found.last_code
        self._say("job.requeued", now, job, **({"code": error.code} if error else {}))

    def _settle(self, found: Record, state: JobState, now: float, error: JobError | None = None) -> None:
        check_transition(found.job.state, state)
        if found.job.state is JobState.QUEUED:
            self._left_the_queue(found.job)
        job = found.job = replace(found.job, state=state, finished_at=now, error=error, not_before=None)
        found.gone_at = self._world.clock.now() + self._retention_s
        if state is JobState.FAILED:
            found.gone_at = self._world.clock.now() + max(self._retention_s, LETTER_RETENTION_S)
            self.letters.add(found)
        self._outbox.discard(job.id)
        start = {"start": str(job.start)} if job.start else {}
        code = {"code": error.code} if error else {}
        self._say("job.settled", now, job, state=str(state), worker=job.worker or "", **start, **code)

    def _say(self, kind: str, at: float, job: Job, **more: str) -> None:
        self._world.say(kind, at, {"job": job.id, "model": job.spec.model, **more})


def _check_content(found: Record, spec: JobSpec) -> None:
    if found.job.spec.digest != spec.digest:
        raise IdConflict(f"job {spec.id} exists with other content")


def _verdict_on_ended(found: Record, token: str) -> Verdict:
    if found.token == token and found.job.state is JobState.EXPIRED:
        return Verdict.EXPIRED
    if found.token == token and found.job.error is not None and found.job.error.code == EXHAUSTED.code:
        return Verdict.EXHAUSTED
    return Verdict.FINISHED


def _matches(job: Job, state: JobState | None, model: str | None) -> bool:
    return (state is None or job.state is state) and (model is None or job.spec.model == model)


def _place(job: Job) -> tuple[int, str]:
    return record.millis(job.created_at), job.id
