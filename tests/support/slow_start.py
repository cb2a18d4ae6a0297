"""A job store that is slow to start jobs, so that a test sees what goes on meanwhile."""

from collections.abc import Callable, Sequence

from affinity.io.ports import StartAnswer
from affinity.job import Attempt, JobSpec
from tests.support.fake_executor import Pause
from tests.support.fake_job_store import FakeJobStore
from tests.support.fake_stores import FakeStores


class SlowStart(FakeJobStore):
    """A store whose ``start`` takes its time: on the way there, or, where it is ``recorded`` at once, on the way back.

    ``fault`` is raised instead of an answer. ``twice``: the answer was lost and is asked for again. ``asked`` is called
    first of all. Until ``slow`` it is a store like any other.
    """

    def __init__(self, stores: FakeStores) -> None:
        super().__init__(stores, 1000.0, 1000)
        self.pause = Pause()
        self.slow = True
        self.recorded = False
        self.twice = False
        self.fault: Exception | None = None
        self.asked: Callable[[], None] = lambda: None

    async def start(self, attempts: Sequence[tuple[Attempt, JobSpec, float]], now: float) -> Sequence[StartAnswer]:
        self.asked()
        if not self.slow:
            return await super().start(attempts, now)
        answers = await super().start(attempts, now) if self.recorded else ()
        await self.pause.hold()
        if self.fault:
            raise self.fault
        return answers if self.recorded and not self.twice else await super().start(attempts, now)
