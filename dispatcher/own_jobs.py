"""The job store as a tenant sees it: jobs of others are not there.

Every route reads jobs through ``services.store``, so none can forget to ask whose a job is. What this does not name
does not exist here: a new way to a job is closed to tenants until somebody has thought about it.
"""

from collections.abc import Mapping, Sequence

from affinity.fleet import Demand
from affinity.io.job_store import unknown
from affinity.io.ports import JobStore, Page
from affinity.job import Job, JobState


class OwnJobs:
    """The part of ``JobStore`` that is a tenant's. How many jobs of a model are queued is no secret."""

    def __init__(self, store: JobStore, tenant: str) -> None:
        self._store = store
        self._tenant = tenant

    async def get(self, job_id: str) -> Job:
        """One job of this tenant; ``UnknownJob``, word for word as if there were none."""
        job = await self._store.get(job_id)
        if job.spec.tenant != self._tenant:
            raise unknown(job_id)
        return job

    async def page(self, state: JobState | None, model: str | None, limit: int, cursor: str | None) -> Page:
        """A page of this tenant's jobs."""
        return await self._store.page(state, model, limit, cursor, self._tenant)

    async def cancel(self, job_id: str, now: float) -> Job:
        """Cancel a job of this tenant."""
        await self.get(job_id)
        return await self._store.cancel(job_id, now)

    async def position(self, job_id: str, model: str) -> int | None:
        """How many jobs come before one of this tenant's."""
        await self.get(job_id)
        return await self._store.position(job_id, model)

    async def demand(self) -> Sequence[Demand]:
        """Of everybody."""
        return await self._store.demand()

    async def rates(self) -> Mapping[str, float]:
        """Of everybody."""
        return await self._store.rates()
