"""The chaos harness's own judgement: every way in which a job can go wrong is seen for what it is."""

from collections.abc import Mapping

import pytest

from tests.chaos.faults import Injected
from tests.chaos.following import Followed
from tests.chaos.ledger import Ledger, Record
from tests.chaos.script import JobStep, Kind
from tests.chaos.verdict import Verdict, executions, judge, recovery_s

JOB = JobStep("j1", "m", {}, expected={"job": 1})
FAILING = JobStep("j1", "m", {}, expected=None)


def a_record(state: str = "succeeded", **more: object) -> Record:
    return {"id": "j1", "state": state, "result": {"job": 1}, "error": None, "finished_at": "t", **more}


def judged(
    record: Record | None,
    *events: Mapping[str, str],
    job: JobStep = JOB,
    seen: Record | None = None,
    accepted_at: float | None = 10.0,
    killed_at: float | None = None,
) -> Verdict:
    ledger, followed = Ledger(), Followed()
    entry = ledger.open(job, 9.0)
    entry.accepted_at = accepted_at
    if seen:
        entry.saw(seen, 12.0)
    for event in events:
        followed.take(dict(event))
    faults = [] if killed_at is None else [Injected(0, Kind.STORE_KILLED, "store", killed_at, killed_at + 1)]
    return judge(ledger, {} if record is None else {"j1": record}, followed, faults)


def event(kind: str, at: float, **more: str) -> Mapping[str, str]:
    return {"kind": f"job.{kind}", "at": str(at), "job": "j1", "worker": "w1", "state": "succeeded", **more}


def test_a_job_that_ran_once_and_has_its_own_result_is_right() -> None:
    verdict = judged(a_record(), event("started", 11), event("settled", 12), seen=a_record())
    assert not verdict.problems


@pytest.mark.parametrize(
    ("problem", "verdict"),
    [
        ("lost", judged(None)),
        ("stuck", judged(a_record("running"))),
        ("wrong", judged(a_record(result={"job": 2}))),
        ("wrong", judged(a_record("failed", error={"code": "job_failed"}))),
        ("wrong", judged(a_record("succeeded"), job=FAILING)),
        ("overwritten", judged(a_record(finished_at="later"), seen=a_record())),
        ("settled_twice", judged(a_record(), event("settled", 12), event("settled", 13))),
        ("started_after_end", judged(a_record(), event("settled", 12), event("started", 13))),
        ("never_accepted", judged(None, accepted_at=None)),
    ],
)
def test_what_is_wrong_is_named(problem: str, verdict: Verdict) -> None:
    assert list(verdict.problems) == [problem]


def test_only_what_the_store_may_have_forgotten_is_forgiven() -> None:
    assert judged(None, killed_at=11.5).found["forgotten"] == ["j1"]
    assert judged(None, event("settled", 19.0), killed_at=20.0).found["forgotten"] == ["j1"]
    assert list(judged(None, killed_at=12.5).problems) == ["lost"]
    assert list(judged(None, killed_at=9.5).problems) == ["lost"]
    assert list(judged(a_record("queued"), killed_at=11.5).problems) == ["stuck"]


def test_a_job_that_only_faults_have_failed_is_counted_by_code() -> None:
    verdict = judged(a_record("failed", error={"code": "attempts_exhausted"}))
    assert not verdict.problems
    assert verdict.blameless == {"attempts_exhausted": 1}


def test_duplicate_executions_and_the_time_to_get_over_a_fault_come_from_the_events() -> None:
    ledger, followed = Ledger(), Followed()
    ledger.open(JOB, 9.0).accepted_at = 9.1
    lost = event("requeued", 14, code="worker_lost")
    for each in (event("started", 9.2), lost, event("started", 14), event("settled", 15)):
        followed.take(dict(each))
    assert executions(followed) == {
        "started": 2,
        "jobs_started_more_than_once": 1,
        "duplicate_starts": 1,
        "most_starts_of_one_job": 2,
        "given_back_for": {"worker_lost": 1},
    }
    assert recovery_s(ledger, followed, Injected(0, Kind.WORKER_KILLED, "worker-1", 10.0, 12.0)) == 5.0
    assert recovery_s(ledger, followed, Injected(1, Kind.WORKER_KILLED, "worker-1", 16.0, 17.0)) is None
