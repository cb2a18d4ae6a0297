"""``StrayStore`` in memory, part of ``fake_job_store``."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from affinity.job import JobState
from affinity.topology import lane
from tests.support.fake_world import FakeWorld

if TYPE_CHECKING:
    from tests.support.fake_job_store import FakeJobStore


class FakeStrayStore:
    """See ``strays.StrayStore``."""

    def __init__(self, world: FakeWorld, jobs: "FakeJobStore") -> None:
        self._world = world
        self._jobs = jobs

    async def take_turn(self, by: str, lease_s: float) -> bool:
        self._world.reach()
        return self._world.hold("turn", "", by, lease_s)

    async def queued(self, model: str, most: int) -> Sequence[str]:
        queued = [job for job in self._jobs._all() if job.state is JobState.QUEUED]
        jobs = [job for job in queued if model in (job.spec.model, lane(job.spec.model, job.spec.tenant))]
        return [job.id for job in sorted((j for j in jobs if self._jobs._due(j)), key=lambda j: j.created_at)][:most]

    async def running(self, worker: str, epoch: int) -> Mapping[str, str]:
        mine = [job.id for job in self._jobs._all() if job.state is JobState.RUNNING and job.worker == worker]
        found = {job_id: record for job_id in mine if (record := self._jobs._find(job_id)) is not None}
        return {job_id: record.token for job_id, record in found.items() if record.epoch == epoch}
