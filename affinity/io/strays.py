"""The port to jobs that went astray: a server lost a moment, and what is said of them is not so any more.

They are ``queued`` and no queue has them, or ``running`` on a worker that has never heard of them. Whoever looks for
them asks here what the store believes.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol


class StrayStore(Protocol):
    """What the store believes of jobs. Calls may raise ``StoreUnavailable`` and may be repeated."""

    async def take_turn(self, by: str, lease_s: float) -> bool:
        """Take or renew the right to look for jobs that no queue has; false while somebody else does."""

    async def queued(self, model: str, most: int) -> Sequence[str]:
        """Ids of a model's queued jobs that may run now, oldest first; or only of those in a tenant's lane."""

    async def running(self, worker: str, epoch: int) -> Mapping[str, str]:
        """Ids of the jobs that run in this life of a worker, each with the token of its attempt."""
