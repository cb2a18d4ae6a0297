"""Tells workers, by way of the store, what share of the GPUs' time each tenant has: only dispatchers read the keys."""

from collections.abc import Mapping

from affinity.io.ports import JobStore
from dispatcher.keys import KeyRing


class Shares:
    """``tell`` is to be called every few seconds: a store that was emptied has forgotten them."""

    def __init__(self, keys: KeyRing, store: JobStore) -> None:
        self._keys = keys
        self._store = store
        self._told: Mapping[str, float] | None = None

    async def tell(self) -> None:
        """Write them, unless there are none and that is known. Raises ``StoreUnavailable``."""
        if (shares := self._keys.shares) or shares != self._told:
            await self._store.set_shares(shares)
            self._told = shares
