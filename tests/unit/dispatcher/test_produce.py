"""The older producer's calls."""

import pytest

from affinity.errors import BrokerUnavailable
from affinity.job import JobSpec
from affinity.wire import rfc3339
from tests.support.dispatcher import DispatcherWorld


async def test_a_message_of_the_older_producer_becomes_an_echo_job(world: DispatcherWorld):
    answer = await world.post("/produce", {"id": "m1", "payload": {"n": 1}, "processing_time": 0.5, "sender": "old"})

    assert answer.status_code == 200
    assert answer.json() == {"status": "success", "message_id": "m1", "timestamp": rfc3339(world.clock.now())}
    [spec] = world.publisher.published
    assert (spec.id, spec.model) == ("m1", "echo")
    assert spec.input == {"payload": {"n": 1}, "processing_time": 0.5}


async def test_without_processing_time_none_is_made_up(world: DispatcherWorld):
    await world.post("/produce", {"payload": None})

    assert world.publisher.published[0].input == {"payload": None}


async def test_the_payload_is_the_input_of_any_other_model(world: DispatcherWorld):
    answer = await world.post("/produce", {"payload": {"texts": ["a"]}, "model": "minilm-l6-v2"})

    assert answer.status_code == 200
    assert world.publisher.published[0].input == {"texts": ["a"]}


@pytest.mark.parametrize(("given", "job_id"), [(7, "7"), (7.5, "7.5"), ("seven", "seven")])
async def test_older_clients_number_their_messages(world: DispatcherWorld, given: object, job_id: str):
    answer = await world.post("/produce", {"id": given, "payload": 1})

    assert answer.json()["message_id"] == job_id


async def test_a_message_without_an_id_gets_one(world: DispatcherWorld):
    answer = await world.post("/produce", {"payload": 1})

    assert answer.json()["message_id"] == world.publisher.published[0].id


@pytest.mark.parametrize(
    ("message", "status", "field"),
    [
        ({"id": "m1"}, 422, "payload"),
        ({"id": True, "payload": 1}, 422, "id"),
        ({"id": "", "payload": 1}, 422, "id"),
        ({"payload": 1, "model": 5}, 422, "model"),
        ({"payload": 1, "processing_time": -1}, 422, "input.processing_time"),
        ({"payload": 1, "processing_time": "long"}, 422, "input.processing_time"),
    ],
)
async def test_a_bad_message_is_refused_with_its_field(
    world: DispatcherWorld, message: dict[str, object], status: int, field: str
):
    answer = await world.post("/produce", message)

    assert answer.status_code == status
    assert answer.json()["errors"][0]["field"] == field
    assert world.publisher.published == []


async def test_the_same_message_twice_is_one_job_and_another_under_its_id_a_conflict(world: DispatcherWorld):
    message = {"id": "m1", "payload": 1}
    first, again = [await world.post("/produce", message) for _ in range(2)]
    other = await world.post("/produce", {"id": "m1", "payload": 2})

    assert (first.status_code, again.status_code) == (200, 200)
    assert (other.status_code, other.json()["code"]) == (409, "id_conflict")
    assert len(world.publisher.published) == 1


async def test_many_messages_are_counted(world: DispatcherWorld):
    messages = [{"id": n, "payload": n, "processing_time": 0.1} for n in range(100)]

    answer = await world.post("/batch-produce", {"messages": messages})

    assert answer.json() == {"status": "success", "messages_produced": 100}
    assert [spec.id for spec in world.publisher.published] == [str(n) for n in range(100)]


@pytest.mark.parametrize(
    ("bad", "code"),
    [({"id": "m2"}, "invalid_input"), (5, "invalid_input"), ({"payload": 1, "model": "nobody"}, "unknown_model")],
)
async def test_one_bad_message_stops_the_batch_before_any_is_taken(world: DispatcherWorld, bad: object, code: str):
    answer = await world.post("/batch-produce", {"messages": [{"id": "m1", "payload": 1}, bad]})

    assert answer.json()["code"] == code
    assert world.publisher.published == []
    assert (await world.http.get("/jobs")).json()["jobs"] == []


async def test_the_field_of_a_bad_message_says_which_it_is(world: DispatcherWorld):
    answer = await world.post("/batch-produce", {"messages": [{"payload": 1}, {"id": 2}]})

    assert answer.json()["errors"] == [{"field": "messages[1].payload", "message": "is missing"}]
    assert answer.json()["detail"] == "messages[1].payload: is missing"


async def test_a_broker_that_fails_half_way_says_how_many_were_taken(world: DispatcherWorld):
    async def fail_on_the_second(spec: JobSpec) -> None:
        if spec.id == "m2":
            raise BrokerUnavailable("gone")

    world.publisher.on_publish = fail_on_the_second
    messages = [{"id": f"m{n}", "payload": n} for n in (1, 2, 3)]
    failed = await world.post("/batch-produce", {"messages": messages})
    world.publisher.on_publish = None
    again = await world.post("/batch-produce", {"messages": messages})

    assert (failed.status_code, failed.json()["messages_produced"]) == (503, 2)
    assert again.json()["messages_produced"] == 3
    assert sorted(spec.id for spec in world.publisher.published) == ["m1", "m2", "m3"]


async def test_a_number_that_is_not_written_digit_by_digit_is_no_id(world: DispatcherWorld):
    for number in (10**16, -(10**16), 1e300):
        answer = await world.post("/produce", {"payload": 1, "id": number})

        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "id")
    assert (await world.post("/produce", {"payload": 1, "id": 10**16 - 1})).json()["message_id"] == "9999999999999999"
