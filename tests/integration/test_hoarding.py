"""``bench hoarding`` on a real broker: it sees hoarding where there is some, and none where there is none."""

import pytest

from bench.hoarding_cells import BOUNCE, FIXED, OURS, WAYS, Cell, Effort, Trial, Way
from bench.hoarding_measures import Log, Outcome, outcome
from bench.hoarding_trial import Rig, side_by_side
from bench.round_trip import CannotMeasure

CELL = Cell(0.2, 4, 2)
EFFORT = Effort(steady=5, burst=3)


async def found(rig: Rig, *ways: Way) -> dict[str, tuple[Outcome, Log]]:
    logs = await side_by_side(rig, [(Trial(CELL, way, EFFORT), 0) for way in ways], "t")
    return {way.name: (outcome(CELL, way, [log]), log) for way, log in zip(ways, logs, strict=True)}


@pytest.fixture
def rig(rabbitmq_url: str, redis_url: str, namespace: str) -> Rig:
    return Rig(rabbitmq_url, redis_url, namespace, CELL.workers)


async def test_prefetch_hoards_and_ours_does_not(rig: Rig):
    async with rig.opened():
        seen = await found(rig, *WAYS)
    for outcome_of, log in seen.values():
        assert outcome_of.jobs == (EFFORT.steady + EFFORT.burst) * CELL.workers
        assert sorted(run.job for run in log.runs) == sorted(log.sent), "every job ran once"
        assert log.operations["ack"] == outcome_of.jobs
    prefetched = seen["prefetch-10"][0]
    assert prefetched.hoarded >= 0.1
    assert prefetched.hoarded_s >= 0.2, "a job of a fifth of a second lay for as long"
    # Seconds of the machine's mood aside: a job is handed back at once, or after 20 ms.
    for way in (OURS, FIXED):
        assert seen[way.name][0].hoarded_s < prefetched.hoarded_s / 3
    assert seen["get"][0].hoarded_s == 0.0


async def test_what_is_handed_back_at_once_goes_round_until_somebody_is_idle(rig: Rig):
    async with rig.opened():
        bounced, log = (await found(rig, BOUNCE))[BOUNCE.name]
    assert sorted(run.job for run in log.runs) == sorted(log.sent)
    assert bounced.handed_back > 1.0


async def test_a_broker_that_is_not_there_cannot_be_measured(redis_url: str):
    with pytest.raises(CannotMeasure, match="no connection in time"):
        async with Rig("amqp://guest:guest@127.0.0.1:1/", redis_url, "nobody", 1).opened(patience_s=0.3):
            pass
