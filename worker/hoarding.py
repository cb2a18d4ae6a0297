"""The hoarding rule as a worker keeps it (decision 0001): how long consumers go on beside a batch, what starts first.

Pure: the loop says what it knows and does what it is told. The numbers were measured by ``python -m bench hoarding``.
"""

from collections.abc import Collection

AT_ONCE_FROM_S = 0.03
"""Where a model's batches take so long in the mean, or longer, the consumers are stopped as one starts: what they would
bring has something better to do than to wait for it."""

STOP_AFTER_S = 0.05
"""Shorter batches keep the consumers running: stopping and starting them would cost more than it gives. One that runs
for so long all the same is not short."""

AHEAD_S = 0.01
"""A batch is fetched so long before the one that runs is expected to end: finding and fetching it takes 3 to 5 ms."""

AHEAD_BELOW_S = 0.5
"""A batch that takes as long as this does not notice."""

BACKLOG_S = 0.01
"""A job that a consumer brought and that is younger than this has none before it: the store is not asked for more."""


def stop_after_s(mean_exec_s: float) -> float:
    """Seconds that a batch runs before the consumers are stopped; batches of its model take ``mean_exec_s``."""
    return 0.0 if mean_exec_s >= AT_ONCE_FROM_S else STOP_AFTER_S


def hand_first(max_batch: int, unheard: Collection[str]) -> bool:
    """True if what a consumer brought is started before anybody looks at what else waits.

    ``max_batch`` is its model's: batches form from the backlog. ``unheard`` are the models served here that have no
    consumer: where others' consumers bring one job after the other, they would never have their turn.
    """
    return max_batch == 1 and not unheard


def ahead_after_s(mean_exec_s: float) -> float | None:
    """How long a batch has run when the next one is fetched; ``None`` where that is only fetched once this one is over.

    For those in between: while shorter ones run, consumers bring the next job, and longer ones do not notice.
    """
    return max(0.0, mean_exec_s - AHEAD_S) if AT_ONCE_FROM_S <= mean_exec_s < AHEAD_BELOW_S else None
