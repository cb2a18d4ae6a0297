"""What the client knows of its own: every id it sent, what it was answered, and what it saw the job end as."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.chaos.script import JobStep

Record = Mapping[str, object]
"""A job as ``GET /jobs/{id}`` shows it."""

TERMINAL = frozenset({"succeeded", "failed", "cancelled", "expired"})


@dataclass(slots=True)
class Entry:
    """One job of the client. ``answers`` counts HTTP statuses and names of connection errors.

    ``accepted_at``: when it was first answered 202 or 200, epoch seconds. ``seen``: the first answer that had it ended.
    ``refused``: an answer that no job of a chaos run should get. ``broken``: what a dispatcher said when it had no
    answer to give but 500.
    """

    job: JobStep
    sent_at: float
    accepted_at: float | None = None
    seen: Record | None = None
    seen_at: float | None = None
    refused: str | None = None
    broken: str | None = None
    answers: Counter[str] = field(default_factory=Counter)

    def saw(self, record: Record, now: float) -> None:
        """The system has said how the job stands."""
        if self.seen is None and record["state"] in TERMINAL:
            self.seen, self.seen_at = record, now


class Ledger:
    """All entries by id."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def open(self, job: JobStep, now: float) -> Entry:
        """A job is about to be sent for the first time."""
        self.entries[job.id] = Entry(job, now)
        return self.entries[job.id]

    @property
    def accepted(self) -> dict[str, Entry]:
        """Those the system has promised to carry out."""
        return {job_id: entry for job_id, entry in self.entries.items() if entry.accepted_at is not None}

    def answers(self) -> Counter[str]:
        """Everything that was answered."""
        total: Counter[str] = Counter()
        for entry in self.entries.values():
            total.update(entry.answers)
        return total
