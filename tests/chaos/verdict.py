"""What became of every job: the client's ledger held against the system's records and events. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields

from tests.chaos.faults import Injected
from tests.chaos.following import Course, Followed
from tests.chaos.ledger import TERMINAL, Entry, Ledger, Record
from tests.chaos.script import FAIL, Kind

FORGIVEN_S = 2.0
"""What Redis may forget when it is killed: ``appendfsync everysec`` puts a write on disk within a second, and while the
disk is slow holds the next ones back for up to two."""

BLAMELESS_CODES = frozenset({"attempts_exhausted", "quarantined"})
"""A job whose executor is killed at each of its attempts fails so, though it did nothing."""

SHARED = ("state", "result", "error", "finished_at")
"""What must not change once a job has ended."""


@dataclass(slots=True)
class Verdict:
    """Ids of jobs by what is wrong with them; all must be empty but ``forgotten`` and ``blameless``.

    ``forgotten``: accepted, or over, so shortly before the store was killed that it may have lost the write. Sending
    the job again under its id has it run. ``blameless``: failed by faults alone, by code.
    """

    lost: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    overwritten: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    settled_twice: list[str] = field(default_factory=list)
    started_after_end: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    server_errors: list[str] = field(default_factory=list)
    never_accepted: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    blameless: Counter[str] = field(default_factory=Counter)

    @property
    def problems(self) -> Mapping[str, list[str]]:
        """What must be empty and is not."""
        return {name: ids for name, ids in self.found.items() if ids and name != "forgotten"}

    @property
    def found(self) -> Mapping[str, list[str]]:
        """All lists of ids by name."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "blameless"}


def judge(ledger: Ledger, records: Mapping[str, Record], followed: Followed, injected: Iterable[Injected]) -> Verdict:
    """``records`` are all the system has, by id."""
    verdict = Verdict(strangers=sorted(records.keys() - ledger.entries.keys()))
    killed_at = [fault.at for fault in injected if fault.kind is Kind.STORE_KILLED]
    for job_id, entry in sorted(ledger.entries.items()):
        if entry.broken:
            verdict.server_errors.append(f"{job_id} ({entry.broken})")
        if entry.refused:
            verdict.refused.append(f"{job_id} ({entry.refused})")
        elif entry.accepted_at is None:
            verdict.never_accepted.append(job_id)
        else:
            _judge_one(verdict, entry, records.get(job_id), followed.course(job_id), killed_at)
    return verdict


def executions(followed: Followed) -> dict[str, object]:
    """How often jobs were started, and why they were given back."""
    starts = [len(course.started) for course in followed.courses.values()]
    codes = Counter(code or "handed back" for course in followed.courses.values() for _, code in course.requeued)
    return {
        "started": sum(starts),
        "jobs_started_more_than_once": sum(count > 1 for count in starts),
        "duplicate_starts": sum(max(0, count - 1) for count in starts),
        "most_starts_of_one_job": max(starts, default=0),
        "given_back_for": dict(codes.most_common()),
    }


def recovery_s(ledger: Ledger, followed: Followed, fault: Injected) -> float | None:
    """Seconds from the fault until the last job it can have touched was over: those under way, or sent within a second.

    ``None`` where there was no such job. Jobs that fail on purpose do not count. Faults that overlap are charged with
    each other's.
    """
    touched = []
    for job_id, entry in ledger.entries.items():
        settled = followed.course(job_id).settled
        on_purpose = job_id.endswith(tuple(FAIL.values()))
        if settled and entry.sent_at <= fault.at + 1.0 and settled[0][0] > fault.at and not on_purpose:
            touched.append(settled[0][0] - fault.at)
    return max(touched, default=None)


def _judge_one(
    verdict: Verdict, entry: Entry, record: Record | None, course: Course, killed_at: Iterable[float]
) -> None:
    job_id = entry.job.id
    instants = [entry.accepted_at, *(at for at, _ in course.settled)]
    forgiven = any(killed - FORGIVEN_S <= at <= killed for killed in killed_at for at in instants if at is not None)
    if record is None:
        (verdict.forgotten if forgiven else verdict.lost).append(job_id)
        return
    if record["state"] not in TERMINAL:
        verdict.stuck.append(f"{job_id} ({record['state']}, {entry.job.model})")
        return
    _judge_outcome(verdict, entry, record)
    if forgiven:
        return
    if entry.seen is not None and any(entry.seen[name] != record[name] for name in SHARED):
        verdict.overwritten.append(job_id)
    if len(course.settled) > 1:
        verdict.settled_twice.append(job_id)
    if course.started_after_end:
        verdict.started_after_end.append(job_id)


def _judge_outcome(verdict: Verdict, entry: Entry, record: Record) -> None:
    """Succeeded with its own input, or failed where it is to."""
    job = entry.job
    if job.expected is None:
        right = record["state"] == "failed"
    elif record["state"] == "failed":
        error = record["error"]
        code = str(error["code"]) if isinstance(error, dict) else ""
        verdict.blameless[code] += 1
        right = code in BLAMELESS_CODES
    else:
        right = record["state"] == "succeeded" and record["result"] == job.expected
    if not right:
        verdict.wrong.append(f"{job.id} ({record['state']}: {str(record['error'] or record['result'])[:200]})")
