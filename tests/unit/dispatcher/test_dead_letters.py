"""Dead letters over HTTP: listed with their cause, put back once, and nothing lost in between."""

import asyncio
from typing import Any

import pytest

from affinity.errors import BrokerUnavailable, StoreUnavailable
from affinity.io.ports import DeadLetter
from affinity.job import Attempt, JobError, JobSpec, JobState
from affinity.wire import encode_message
from dispatcher.dead_letters import KEPT_BYTES, MAX_IDS, DeadLetterDesk
from tests.support.dispatcher import DispatcherWorld

FAILED = JobError("job_failed", "raised")


@pytest.fixture
def desk(world: DispatcherWorld) -> DeadLetterDesk:
    return world.dispatcher.desk


def another_desk(world: DispatcherWorld) -> DeadLetterDesk:
    services = world.dispatcher.services
    return DeadLetterDesk(services.store, services.publisher, services.topology, services.clock)


async def fail(world: DispatcherWorld, job_id: str, model: str = "echo", error: JobError = FAILED) -> None:
    answer = await world.post("/jobs", {"id": job_id, "model": model, "input": {"n": 1}})
    assert answer.status_code == 202, answer.text
    await world.serve(job_id, error=error)
    world.broker.queues[world.broker.topology.fallback].clear()


def letter(
    body: bytes, code: str = "undecodable_message", message_id: str | None = "id-1", **headers: str
) -> DeadLetter:
    return DeadLetter(body, message_id, code, "no good", "echo", "w1", headers)


async def listed(world: DispatcherWorld, query: str = "") -> list[dict[str, Any]]:
    answer = await world.http.get(f"/dead-letters{query}")
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["dead_letters"]
    return found


async def redrive(world: DispatcherWorld, **which: Any) -> dict[str, Any]:
    answer = await world.post("/dead-letters/redrive", which)
    assert answer.status_code == 202, answer.text
    found: dict[str, Any] = answer.json()
    return found


def in_fallback(world: DispatcherWorld) -> list[str | None]:
    """Ids of what was published since."""
    return [message.correlation_id for message in world.broker.queues[world.broker.topology.fallback]]


async def test_a_failed_job_is_listed_with_its_cause(world: DispatcherWorld) -> None:
    await fail(world, "j1")
    (found,) = await listed(world)
    assert {name: found[name] for name in ("id", "kind", "model", "code", "worker", "attempts", "life")} == {
        "id": "j1", "kind": "job", "model": "echo", "code": "job_failed", "worker": "w1", "attempts": 1, "life": 0,
    }  # fmt: skip
    assert found["error"] == {"code": "job_failed", "message": "raised"}


async def test_filters_and_pages(world: DispatcherWorld) -> None:
    for number in range(5):
        await fail(world, f"j{number}", error=JobError("quarantined" if number % 2 else "job_failed", "x"))
    assert [one["id"] for one in await listed(world, "?code=quarantined")] == ["j3", "j1"]
    assert await listed(world, "?model=big") == []
    first = (await world.http.get("/dead-letters?limit=3")).json()
    rest = (await world.http.get(f"/dead-letters?limit=3&cursor={first['cursor']}")).json()
    assert [one["id"] for one in first["dead_letters"] + rest["dead_letters"]] == ["j4", "j3", "j2", "j1", "j0"]
    assert rest["cursor"] is None


@pytest.mark.parametrize(
    "query", ["?code=A", "?code=a:b", "?model=a b", "?limit=0", "?limit=501", "?cursor=x", "?cursor=" + "9" * 30]
)
async def test_a_wrong_filter_is_refused(world: DispatcherWorld, query: str) -> None:
    answer = await world.http.get(f"/dead-letters{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({}, None),
        ({"ids": []}, "ids"),
        ({"ids": ["a"] * (MAX_IDS + 1)}, "ids"),
        ({"ids": [1]}, "ids"),
        ({"ids": ["a"], "code": "job_failed"}, "code"),
        ({"ids": ["a"], "all": True}, "all"),
        ({"all": False}, "all"),
        ({"all": 1}, "all"),
        ({"all": True, "model": "echo"}, "all"),
        ({"code": "no such:code"}, "code"),
        ({"code": 1}, "code"),
        ({"model": "a b"}, "model"),
        ({"model": 5}, "model"),
        ({"all": True, "rate": 0}, "rate"),
        ({"all": True, "rate": 1001}, "rate"),
        ({"all": True, "rate": True}, "rate"),
        ({"all": True, "more": 1}, "more"),
    ],
)
async def test_a_redrive_that_does_not_say_which_is_refused(
    world: DispatcherWorld, asked: dict[str, object], field: str | None
) -> None:
    await fail(world, "j1")
    answer = await world.post("/dead-letters/redrive", asked)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert field is None or answer.json()["errors"][0]["field"] == field
    assert len(await listed(world)) == 1


async def test_a_job_is_put_back_and_runs_under_its_id_with_its_history(
    world: DispatcherWorld, desk: DeadLetterDesk
) -> None:
    await fail(world, "j1")
    answer = await redrive(world, ids=["j1", "nobody"])
    assert (answer["scheduled"], answer["unknown"]) == (1, ["nobody"])
    assert await desk.put_back_due() == 1
    assert in_fallback(world) == ["j1"]
    assert await world.stores.jobs.unpublished(world.clock.now() + 1, 10) == []
    await world.stores.jobs.start([(Attempt("j1", "second", "w2", 1), await spec_of(world, "j1"), 0.0)], 0.0)
    job = (await world.http.get("/jobs/j1")).json()
    assert (job["state"], job["attempts"], job["worker"]) == ("running", 1, "w2")
    assert [(life["attempts"], life["worker"], life["error"]["code"]) for life in job["lives"]] == [
        (1, "w1", "job_failed")
    ]
    assert await listed(world) == []


async def spec_of(world: DispatcherWorld, job_id: str) -> JobSpec:
    return (await world.stores.jobs.get(job_id)).spec


async def test_all_of_a_kind_are_put_back_in_the_order_in_which_they_died_at_a_rate(
    world: DispatcherWorld, desk: DeadLetterDesk
) -> None:
    for number in range(4):
        await fail(world, f"j{number}")
    await fail(world, "other", error=JobError("quarantined", "x"))
    assert (await redrive(world, code="job_failed", rate=2))["scheduled"] == 4
    put_back = []
    for _ in range(4):
        await desk.put_back_due()
        put_back.append(in_fallback(world))
        world.clock.advance(0.5)
    assert put_back == [["j0"], ["j0", "j1"], ["j0", "j1", "j2"], ["j0", "j1", "j2", "j3"]]
    assert [one["id"] for one in await listed(world)] == ["other"]
    assert (await redrive(world, all=True))["scheduled"] == 1
    assert (await redrive(world, model="echo"))["scheduled"] == 1, "it has its turn already"
    world.clock.advance(10)
    assert await desk.put_back_due() == 1
    assert (await redrive(world, model="echo"))["scheduled"] == 0


async def test_two_dispatchers_at_once_put_a_job_back_once(world: DispatcherWorld) -> None:
    await fail(world, "j1")
    await redrive(world, ids=["j1"])
    await redrive(world, code="job_failed")
    desks = [another_desk(world) for _ in range(3)]
    await asyncio.gather(*(one.put_back_due() for one in desks))
    assert in_fallback(world) == ["j1"]
    assert (await world.stores.jobs.get("j1")).life == 1


async def test_a_dispatcher_that_dies_in_the_middle_loses_none(world: DispatcherWorld, desk: DeadLetterDesk) -> None:
    for number in range(3):
        await fail(world, f"j{number}")
    await redrive(world, all=True, rate=1000)
    world.clock.advance(1)

    async def dies(spec: JobSpec) -> None:
        if spec.id == "j1":
            raise BrokerUnavailable("it died between the store and the broker")

    world.publisher.on_publish = dies
    with pytest.raises(BrokerUnavailable):
        await desk.put_back_due()
    world.publisher.on_publish = None
    assert in_fallback(world) == ["j0", "j2"]
    assert (await world.stores.jobs.get("j1")).state is JobState.QUEUED
    world.clock.advance(10)
    assert await world.dispatcher.submitter.sweep() == 1
    assert in_fallback(world) == ["j0", "j2", "j1"]


# -- what lies in the broker's queue -----------------------------------------------------------------------------------


async def test_a_message_that_is_no_job_is_listed_and_can_be_put_back(
    world: DispatcherWorld, desk: DeadLetterDesk
) -> None:
    await world.publisher.bury(letter(b"\xff{"))
    assert await desk.list_buried() == 1
    (found,) = await listed(world)
    assert (found["kind"], found["code"], found["model"], found["excerpt"]) == (
        "message", "undecodable_message", "echo", "\\xff{",
    )  # fmt: skip
    assert not world.broker.buried_in_hand
    assert (await redrive(world, ids=[found["id"]]))["scheduled"] == 1
    await desk.put_back_due()
    (message,) = world.broker.queues[world.broker.topology.fallback]
    assert (message.body, message.routing_key, message.message_id) == (b"\xff{", "echo", "id-1")
    assert dict(message.headers) == {}, "nothing of its past is left"
    assert await listed(world) == []


async def test_the_same_message_seen_twice_is_one_letter(world: DispatcherWorld, desk: DeadLetterDesk) -> None:
    await world.publisher.bury(letter(b"\xff{"))
    world.stores.down = True
    with pytest.raises(StoreUnavailable):
        await desk.list_buried()
    assert len(world.broker.buried_in_hand) == 1
    world.stores.down = False
    world.broker.cut()
    world.broker.restore()
    assert await desk.list_buried() == 2, "once from its hand, and once as it came again"
    assert len(await listed(world)) == 1


async def test_a_message_too_large_to_be_kept_is_listed_and_stays(world: DispatcherWorld, desk: DeadLetterDesk) -> None:
    await world.publisher.bury(letter(b"x" * (KEPT_BYTES + 1)))
    await desk.list_buried()
    (found,) = await listed(world)
    assert found["size_bytes"] == KEPT_BYTES + 1
    await redrive(world, ids=[found["id"]])
    assert await desk.put_back_due() == 1
    assert in_fallback(world) == []
    assert len(await listed(world)) == 1


async def test_a_stranger_under_a_taken_id_is_a_letter_of_its_own(world: DispatcherWorld, desk: DeadLetterDesk) -> None:
    await fail(world, "j1")
    body = b'{"id": "j1", "input": {"n": 2}}'
    await world.publisher.bury(letter(body, "id_conflict"))
    await desk.list_buried()
    assert sorted((one["kind"], one["code"]) for one in await listed(world)) == [
        ("job", "job_failed"), ("message", "id_conflict"),
    ]  # fmt: skip


async def test_the_letters_of_failed_jobs_only_leave_the_queue(world: DispatcherWorld, desk: DeadLetterDesk) -> None:
    await fail(world, "j1")
    body = encode_message(await spec_of(world, "j1"), 0.0)
    await world.publisher.bury(letter(body, "job_failed", "m1", **{"affinity-life": "0"}))
    assert await desk.list_buried() == 1
    assert [one["id"] for one in await listed(world)] == ["j1"]
    await redrive(world, ids=["j1"])
    await desk.put_back_due()
    await world.publisher.bury(letter(body, "job_failed", "m1", **{"affinity-life": "0"}))
    await desk.list_buried()
    assert (await world.stores.jobs.get("j1")).state is JobState.QUEUED, "that letter is of its first life"
    assert await listed(world) == []


async def test_dead_letters_of_a_store_that_was_emptied_are_listed_again(
    world: DispatcherWorld, desk: DeadLetterDesk
) -> None:
    spec = JobSpec("j9", "echo", {"n": 1})
    await world.publisher.bury(letter(encode_message(spec, 5.0), "job_failed", "m1", **{"affinity-life": "3"}))
    await desk.list_buried()
    job = await world.stores.jobs.get("j9")
    assert (job.state, job.life, job.error) == (JobState.FAILED, 3, JobError("job_failed", "no good"))
    assert [one["id"] for one in await listed(world)] == ["j9"]


async def test_what_the_broker_itself_gave_up_has_failed_as_undeliverable(
    world: DispatcherWorld, desk: DeadLetterDesk
) -> None:
    await world.post("/jobs", {"id": "j1", "model": "echo", "input": {}})
    queues, names = world.broker.queues, world.broker.topology
    (message,) = queues[names.fallback]
    queues[names.fallback].clear()
    given_up = world.broker.message(message.body, "echo", "j1", **{"x-first-death-reason": "delivery_limit"})
    world.broker.put(names.dead, given_up)
    await desk.list_buried()
    job = (await world.http.get("/jobs/j1")).json()
    assert (job["state"], job["error"]["code"]) == ("failed", "undeliverable")
    assert "delivery_limit" in job["error"]["message"]


@pytest.mark.parametrize("code", ["Bad Code", "x" * 65, ":", ""])
async def test_a_forged_code_or_model_cannot_break_the_lists(
    world: DispatcherWorld, desk: DeadLetterDesk, code: str
) -> None:
    forged = world.broker.message(b"{", "a b\n:c", None, **{"affinity-code": code, "affinity-model": "x y"})
    world.broker.put(world.broker.topology.dead, forged)
    assert await desk.list_buried() == 1
    (found,) = await listed(world)
    assert (found["code"], found["model"]) == ("undecodable_message", "x?y")


async def test_dead_letters_are_counted_by_code(world: DispatcherWorld) -> None:
    await fail(world, "j1")
    await fail(world, "j2", error=JobError("quarantined", "x"))
    text = (await world.http.get("/metrics")).text
    assert 'dead_letters{code="job_failed"} 1.0' in text
    assert 'dead_letters{code="quarantined"} 1.0' in text


async def test_a_running_dispatcher_puts_back_by_itself(world: DispatcherWorld) -> None:
    await fail(world, "j1")
    published = asyncio.Event()

    async def seen(_: JobSpec) -> None:
        published.set()

    world.publisher.on_publish = seen
    await redrive(world, ids=["j1"])
    async with asyncio.timeout(10):
        await published.wait()
    assert world.crashes == []
