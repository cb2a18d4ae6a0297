"""``StrayStore`` in Redis. The indexes are kept by ``record.lua``; nothing here changes a job."""

from collections.abc import Mapping, Sequence

from affinity.io.redis_client import RedisLink, lua
from affinity.topology import Keys


class RedisStrayStore:
    """See ``strays.StrayStore``."""

    def __init__(self, link: RedisLink, keys: Keys) -> None:
        self._link = link
        self._keys = keys
        self._hold = link.script(lua("hold"))
        self._running = link.script(lua("running"))

    async def take_turn(self, by: str, lease_s: float) -> bool:
        """See the port."""
        return bool(await self._hold([self._keys.turn], [by, str(max(1, int(lease_s * 1000)))]))

    async def queued(self, model: str, most: int) -> Sequence[str]:
        """See the port."""
        return [str(job_id) for job_id in await self._link.call("ZRANGE", self._keys.queued(model), 0, most - 1)]

    async def running(self, worker: str, epoch: int) -> Mapping[str, str]:
        """See the port."""
        flat = await self._running([self._keys.held(worker)], [self._keys.job(""), worker, str(epoch)])
        return dict(zip(flat[::2], flat[1::2], strict=True))
