"""The fake and the real job store, driven through the same random lives, must say the same at every step."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from affinity.errors import AffinityError
from affinity.io.fleet_store import RedisFleetStore
from affinity.io.job_store import RedisJobStore
from affinity.io.letters import LetterFilter
from affinity.io.redis_client import RedisLink
from affinity.job import Attempt, JobError, JobState
from affinity.topology import Keys
from tests.support.clock import FakeClock
from tests.support.fake_stores import FakeStores
from tests.support.job_samples import a_report, a_spec, an_outcome

NOW = 1_700_000_000.0
SPECS = [a_spec("a", "m"), a_spec("b", "m"), a_spec("b", "m", n=2), a_spec("c", "n", ttl_s=5.0), a_spec("d", "n")]
IDS = sorted({spec.id for spec in SPECS})
LATE = NOW + 1e6
"""By the stores' own clocks, the real server's among them: every short wait is over, and a long one never is."""

WAITS_S = [0.0, 2.0, 1e10]
WORKERS = ["w1", "w2"]
ERRORS = [None, JobError("out_of_vram", "no room"), JobError("job_timeout", "too long")]

specs = st.sampled_from(SPECS)
ids = st.sampled_from(IDS)
workers = st.sampled_from(WORKERS)
# Few tokens, so that one comes again: as a repeated call, and as one that is out of date.
attempts = st.builds(Attempt, ids, st.sampled_from(["t1", "t2", "t3"]), workers, st.integers(1, 2))


class Comparison(RuleBasedStateMachine):
    """Every rule asks both stores; their answers (or errors) must be equal."""

    redis_url = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.link = RedisLink(self.redis_url)
        self.keys = Keys(f"machine{secrets.token_hex(6)}")
        self.real = RedisJobStore(self.link, self.keys)
        self.real_fleet = RedisFleetStore(self.link, self.keys)
        self.fake = FakeStores(FakeClock(LATE))
        self.now = NOW
        self.ended: dict[str, JobState] = {}

    def teardown(self) -> None:
        async def clean() -> None:
            async with self.link.guard() as client:
                async for key in client.scan_iter(f"{self.keys.prefix}*", count=1000):
                    await client.delete(key)
            await self.link.close()

        self.runner.run(clean())
        self.runner.close()

    def both(self, call: Callable[[Any], Awaitable[Any]]) -> Any:
        """The answer both give."""
        answers = []
        for store in (self.fake.jobs, self.real):
            try:
                answers.append(self.runner.run(_await(call(store))))
            except AffinityError as error:
                answers.append(type(error))
        assert answers[0] == answers[1]
        return answers[0]

    @rule(spec=specs)
    def create(self, spec: Any) -> None:
        self.both(lambda store: store.create(spec, self.now))

    @rule(job_id=ids)
    def publish(self, job_id: str) -> None:
        self.both(lambda store: store.published(job_id))

    @rule(job_id=ids)
    def withdraw(self, job_id: str) -> None:
        if self.both(lambda store: store.withdraw(job_id)):
            self.ended.pop(job_id, None)

    @rule(spec=specs, age=st.sampled_from([-1.0, 0.0, 2.5]))
    def sight(self, spec: Any, age: float) -> None:
        self.both(lambda store: store.sight(spec, self.now - age, self.now))

    @rule(batch=st.lists(attempts, min_size=1, max_size=3))
    def start(self, batch: list[Attempt]) -> None:
        by_id = {spec.id: spec for spec in SPECS}
        deliveries = [(attempt, by_id[attempt.job_id], self.now - 1) for attempt in batch]
        self.both(lambda store: store.start(deliveries, self.now))

    @rule(attempt=attempts, error=st.sampled_from(ERRORS))
    def finish(self, attempt: Attempt, error: JobError | None) -> None:
        self.both(lambda store: store.finish(attempt, an_outcome(error=error), self.now))

    @rule(
        attempt=attempts,
        error=st.sampled_from(ERRORS),
        uses_attempt=st.booleans(),
        wait_s=st.sampled_from(WAITS_S),
        died=st.booleans(),
    )
    def give_back(
        self, attempt: Attempt, error: JobError | None, uses_attempt: bool, wait_s: float, died: bool
    ) -> None:
        self.both(lambda store: store.give_back(attempt, error, uses_attempt, self.now, wait_s, died))

    @rule(job_id=ids)
    def ask_for_a_redrive(self, job_id: str) -> None:
        taken = self.both(lambda store: _first(store.letters.redrive([job_id], 0.001)))
        assert list(taken) == ([job_id] if self.ended.get(job_id) is JobState.FAILED else [])

    @rule(job_id=ids)
    def revive(self, job_id: str) -> None:
        if self.both(lambda store: store.letters.revive(job_id, self.now)):
            assert self.ended.pop(job_id) is JobState.FAILED

    @rule(spec=specs, life=st.sampled_from([None, 0, 1]))
    def bury(self, spec: Any, life: int | None) -> None:
        error = JobError("undeliverable", "in vain")
        self.both(lambda store: store.letters.bury(spec, self.now, life, error, self.now))

    @rule(job_id=ids)
    def cancel(self, job_id: str) -> None:
        self.both(lambda store: store.cancel(job_id, self.now))

    @invariant()
    def the_cancelled_are_known(self) -> None:
        found = self.both(lambda store: store.cancelled(IDS))
        listed = self.both(lambda store: store.page(JobState.CANCELLED, None, 500, None)).jobs
        assert found == {job.id for job in listed}

    @rule(job_id=ids)
    def fail(self, job_id: str) -> None:
        self.both(lambda store: store.fail(job_id, JobError("load_failed", "no"), self.now))

    @rule(worker=workers, epoch=st.integers(1, 2))
    def report(self, worker: str, epoch: int) -> None:
        report = replace(a_report(worker, epoch), lease_s=1e6)
        assert self.runner.run(self.fake.fleet.report(report)) == self.runner.run(self.real_fleet.report(report))

    @rule(worker=workers)
    def lose(self, worker: str) -> None:
        async def drop() -> None:
            async with self.link.guard() as client:
                await client.delete(self.keys.lease(worker))

        self.runner.run(drop())
        self.fake.drop("lease", worker)

    @rule(seconds=st.sampled_from([0.25, 3.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def jobs_are_equal_and_an_end_is_an_end(self) -> None:
        for job_id in IDS:
            job = self.both(lambda store, job_id=job_id: store.get(job_id))
            if isinstance(job, type):
                continue
            if job_id in self.ended:
                assert job.state is self.ended[job_id]
            elif job.state.terminal:
                self.ended[job_id] = job.state

    @invariant()
    def each_job_is_in_the_index_of_its_state_and_in_no_other(self) -> None:
        everything = self.both(lambda store: store.page(None, None, 500, None)).jobs
        pages = [self.both(lambda store, s=state: store.page(s, None, 500, None)).jobs for state in JobState]
        assert sorted(job.id for page in pages for job in page) == sorted(job.id for job in everything)
        for model in ("m", "n"):
            self.both(lambda store, model=model: store.page(JobState.QUEUED, model, 500, None))
        self.both(lambda store: store.unpublished(self.now + 1, 10))

    @invariant()
    def demand_is_what_is_queued(self) -> None:
        demand = self.both(lambda store: store.demand())
        listed = self.both(lambda store: store.page(JobState.QUEUED, None, 500, None)).jobs
        queued = [job for job in listed if job.not_before is None or job.not_before <= LATE]
        assert sum(one.queued for one in demand) == len(queued)
        assert sum(one.summed_arrival_s for one in demand) == sum(job.created_at for job in queued)

    @invariant()
    def what_has_failed_is_a_dead_letter_and_nothing_else_is(self) -> None:
        letters = self.both(lambda store: store.letters.page(LetterFilter(), 500, None)).letters
        failed = self.both(lambda store: store.page(JobState.FAILED, None, 500, None)).jobs
        assert sorted(letter.id for letter in letters) == sorted(job.id for job in failed)
        assert sum(self.both(lambda store: store.letters.counts()).values()) == len(failed)
        self.both(lambda store: store.letters.page(LetterFilter("load_failed", "m"), 500, None))

    @invariant()
    def the_same_was_said(self) -> None:
        async def told() -> list[dict[str, str]]:
            async with self.link.guard() as client:
                return [fields for _, fields in await client.xrange(self.keys.events)]

        said = [{**event.fields, "kind": event.kind} for event in self.fake.said]
        assert [{name: text for name, text in one.items() if name != "at"} for one in self.runner.run(told())] == said


async def _first(answer: Awaitable[Any]) -> Any:
    return (await answer)[0]


async def _await(answer: Awaitable[Any]) -> Any:
    return await answer


def test_fake_and_real_store_agree_on_every_life(redis_url: str) -> None:
    class Against(Comparison):
        pass

    Against.redis_url = redis_url
    examples = max(10, settings().max_examples // 3)
    run_state_machine_as_test(Against, settings=settings(max_examples=examples, stateful_step_count=25, deadline=None))
