"""One job as the fake store keeps it."""

from dataclasses import dataclass

from affinity.job import Job


@dataclass(slots=True)
class Record:
    """``gone_at``: when it is forgotten, by the world's clock. ``beside``: jobs in its last attempt's batch."""

    job: Job
    token: str = ""
    epoch: int = 0
    last_code: str = ""
    gone_at: float = float("inf")
    beside: int = 1
