"""What tenants have used of the GPUs' time, and what each may: the part of ``JobStore`` that keeps account of it.

Attempts are charged as they end (``finish``, ``give_back``, ``cancel``); what each has used comes with the demand.
"""

from collections.abc import Mapping
from typing import Protocol


class Accounts(Protocol):
    """Tenants' accounts. The empty tenant is nobody: jobs without one are charged only while tenants' jobs wait."""

    async def charge(self, tenant: str, gpu_s: float) -> None:
        """Charge a tenant GPU seconds for which no attempt stands: a load's."""

    async def set_shares(self, shares: Mapping[str, float]) -> None:
        """The tenants' shares, as far as they are not 1, in place of those that were known."""

    async def gpu_seconds(self) -> Mapping[str, float]:
        """All GPU seconds ever charged, by tenant."""
