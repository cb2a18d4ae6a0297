"""``Prefer: wait``: finished jobs at once, by a hint or without it, and what happens where the end does not come."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import httpx
import pytest

from affinity.io.event_port import Event, Settled
from affinity.job import JobSpec, JobState
from dispatcher.prefer import wait_preference
from dispatcher.waiting import Settlements
from tests.support.clock import FakeClock
from tests.support.dispatcher import DispatcherWorld
from tests.support.fake_stores import FakeStores

ECHO = {"model": "echo", "input": 1, "id": "j1"}


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ([], 0),
        (["wait=5"], 5),
        (["WAIT = 5"], 5),
        (['wait="5"'], 5),
        (["respond-async, wait=10"], 10),
        (["return=minimal", "wait=7; x=1"], 7),
        (["wait=3, wait=9"], 3),
        (["wait=60"], 60),
        (["wait=61"], 60),
        (["wait=99999999999999999999"], 60),
        (["wait=0"], 0),
        (["wait"], 0),
        (["wait=soon"], 0),
        (["wait=-1"], 0),
        (["wait=1.5"], 0),
        (["wait=1_0"], 0),
        (["wait=\u0665"], 0),
        (["awaits=5"], 0),
    ],
)
def test_prefer_is_read_as_rfc_7240_has_it(headers: list[str], wait_s: int):
    assert wait_preference(headers) == wait_s


async def submit_and_serve(world: DispatcherWorld, result: object) -> httpx.Response:
    """Submit with ``Prefer``; a worker is done with the job as soon as the broker has it."""
    served = asyncio.Event()

    async def take(spec: JobSpec) -> None:
        async def work() -> None:
            await world.serve(spec.id, result)
            served.set()

        tasks.create_task(work())

    world.publisher.on_publish = take
    async with asyncio.TaskGroup() as tasks:
        answer = await world.post("/jobs", ECHO, Prefer="wait=30")
    await served.wait()
    return answer


async def test_a_job_that_ends_in_time_is_answered_200_with_its_result(world: DispatcherWorld):
    answer = await submit_and_serve(world, {"y": 2})

    assert (answer.status_code, answer.headers["preference-applied"]) == (200, "wait=30")
    assert (answer.json()["state"], answer.json()["result"]) == ("succeeded", {"y": 2})


async def test_a_job_that_does_not_end_in_time_is_answered_202(world: DispatcherWorld):
    world.dispatcher.settlements.close()  # the same way out as the end of the time, without spending it

    answer = await world.post("/jobs", ECHO, Prefer="wait=1")

    assert (answer.status_code, answer.json()["state"]) == (202, "queued")
    assert answer.headers["preference-applied"] == "wait=1"


async def test_waiting_clients_are_answered_at_once_when_the_dispatcher_stops(world: DispatcherWorld):
    published = asyncio.Event()

    async def tell(spec: JobSpec) -> None:
        published.set()

    world.publisher.on_publish = tell
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(world.post("/jobs", ECHO, Prefer="wait=60"))
        await published.wait()
        await asyncio.sleep(0)
        world.dispatcher.settlements.close()

    assert asking.result().status_code == 202


async def test_many_clients_may_wait_for_one_job(world: DispatcherWorld):
    await world.post("/jobs", ECHO)
    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(world.http.get("/jobs/j1", headers={"Prefer": "wait=30"})) for _ in range(5)]
        # Nothing tells that a client has begun to wait, and nothing but this test wants to know.
        while len(world.dispatcher.settlements._waiters.get("j1", ())) < 5:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await world.serve("j1", "done")

    assert [task.result().json()["result"] for task in asking] == ["done"] * 5
    assert not world.dispatcher.settlements._waiters


async def test_looking_at_a_finished_job_does_not_wait(world: DispatcherWorld):
    await world.post("/jobs", ECHO)
    await world.serve("j1", "done")

    answer = await world.http.get("/jobs/j1", headers={"Prefer": "wait=60"})

    assert answer.json()["state"] == "succeeded"


class Silent:
    """An event stream on which nothing is ever heard."""

    async def emit(self, kind: str, at: float, fields: Mapping[str, str]) -> None:
        raise NotImplementedError

    async def read(self, after: str | None = None) -> AsyncIterator[Event]:
        raise NotImplementedError
        yield

    async def settled(self) -> AsyncIterator[Settled | None]:
        yield None
        await asyncio.get_running_loop().create_future()


async def test_a_lost_hint_costs_time_but_not_the_answer():
    stores = FakeStores(FakeClock())
    job = (await stores.jobs.create(JobSpec("j1", "echo", 1), 0.0)).job
    settlements = Settlements(Silent(), stores.jobs, reread_s=0.001)

    with settlements.expecting("j1") as hint:
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(settlements.finished(job, hint, within_s=30.0))
            await stores.jobs.cancel("j1", 1.0)

    assert waiting.result().state is JobState.CANCELLED


async def test_the_time_to_wait_is_kept():
    stores = FakeStores(FakeClock())
    job = (await stores.jobs.create(JobSpec("j1", "echo", 1), 0.0)).job

    with (settlements := Settlements(Silent(), stores.jobs)).expecting("j1") as hint:
        assert await settlements.finished(job, hint, within_s=0.01) == job


async def test_a_store_that_is_away_meanwhile_is_waited_for():
    stores = FakeStores(FakeClock())
    job = (await stores.jobs.create(JobSpec("j1", "echo", 1), 0.0)).job
    stores.down = True

    with (settlements := Settlements(Silent(), stores.jobs, reread_s=0.001)).expecting("j1") as hint:
        assert await settlements.finished(job, hint, within_s=0.01) == job


class Telling(Silent):
    """An event stream that says once more that it has begun, or that a job has ended."""

    def __init__(self, said: Settled | None) -> None:
        self.said = said

    async def settled(self) -> AsyncIterator[Settled | None]:
        yield self.said


async def test_what_ended_while_nobody_listened_is_read_as_soon_as_we_listen_again():
    stores = FakeStores(FakeClock())
    job = (await stores.jobs.create(JobSpec("j1", "echo", 1), 0.0)).job
    settlements = Settlements(Telling(None), stores.jobs, reread_s=3600.0)

    with settlements.expecting("j1") as hint:
        await stores.jobs.cancel("j1", 1.0)
        await settlements.follow()
        assert (await settlements.finished(job, hint, within_s=3600.0)).state is JobState.CANCELLED


async def test_a_record_that_comes_with_the_news_is_not_read_again():
    stores = FakeStores(FakeClock())
    job = (await stores.jobs.create(JobSpec("j1", "echo", 1), 0.0)).job
    told = replace(job, state=JobState.SUCCEEDED, result="told")
    settlements = Settlements(Telling(Settled("j1", lambda: told)), stores.jobs, reread_s=3600.0)

    with settlements.expecting("j1") as hint:
        await settlements.follow()
        stores.down = True
        assert await settlements.finished(job, hint, within_s=3600.0) == told


async def test_the_end_of_a_job_nobody_waits_for_is_not_decoded():
    settlements = Settlements(Telling(Settled("j1", lambda: pytest.fail("decoded"))), FakeStores(FakeClock()).jobs)

    await settlements.follow()
