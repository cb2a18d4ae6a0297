"""Dead letters of a running system: listed, put back, and none lost or run twice though the dispatcher is killed."""

from collections import Counter

import pika

from affinity.topology import Topology
from tests.support.system import System, until

FAILS = {"fail": "error"}
MODEL = "synthetic-a"


def failed(system: System, job_id: str) -> dict[str, object]:
    system.post(MODEL, FAILS, id=job_id)
    return system.ended(job_id)


def listed(system: System, query: str = "") -> list[dict[str, object]]:
    return list(system.http.get(f"/dead-letters{query}").json()["dead_letters"])


def lives(system: System, job_id: str) -> int:
    return len(system.job(job_id).get("lives", []))


def test_a_failed_job_is_listed_and_runs_again_under_its_id(system: System) -> None:
    system.start_worker("w1")
    failed(system, "j1")
    (letter,) = listed(system, f"?code=job_failed&model={MODEL}")
    assert (letter["id"], letter["worker"], letter["attempts"], letter["life"]) == ("j1", "w1", 1, 0)
    answer = system.http.post("/dead-letters/redrive", json={"ids": ["j1"]})
    assert (answer.status_code, answer.json()["scheduled"]) == (202, 1)
    until(lambda: lives(system, "j1") == 1 and system.job("j1")["state"] == "failed", "it has run again")
    (letter,) = listed(system)
    assert (letter["id"], letter["life"], letter["attempts"]) == ("j1", 1, 1)
    depth = Topology(system.namespace).dead
    with pika.BlockingConnection(pika.URLParameters(system.rabbitmq_url)) as connection:
        channel = connection.channel()
        until(lambda: channel.queue_declare(depth, passive=True).method.message_count == 0, "the queue is read")


def test_a_message_that_is_no_job_is_listed_with_its_reason(system: System) -> None:
    system.start_worker("w1")
    with pika.BlockingConnection(pika.URLParameters(system.rabbitmq_url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        exchange = Topology(system.namespace).jobs_exchange
        channel.basic_publish(exchange, MODEL, b"\xff{", pika.BasicProperties(delivery_mode=2), mandatory=True)
    until(lambda: listed(system), "it is listed")
    (letter,) = listed(system)
    assert (letter["kind"], letter["code"], letter["model"], letter["excerpt"]) == (
        "message", "undecodable_message", MODEL, "\\xff{",
    )  # fmt: skip
    system.http.post("/dead-letters/redrive", json={"all": True})
    until(lambda: [one["died_at"] for one in listed(system)] > [letter["died_at"]], "it has come again")
    assert len(listed(system)) == 1
    assert 'dead_letters{code="undecodable_message"} 1.0' in system.http.get("/metrics").text


def test_a_redrive_goes_on_though_its_dispatcher_is_killed_and_runs_each_once(system: System) -> None:
    system.start_worker("w1")
    names = [f"j{number}" for number in range(60)]
    system.http.post("/jobs/batch", json={"jobs": [{"id": n, "model": MODEL, "input": FAILS} for n in names]})
    for name in names:
        system.ended(name)
    assert system.http.post("/dead-letters/redrive", json={"code": "job_failed", "rate": 20}).json()["scheduled"] == 60
    assert system.http.post("/dead-letters/redrive", json={"model": MODEL, "rate": 20}).json()["scheduled"] >= 1
    until(lambda: lives(system, names[5]) == 1, "it is under way")
    assert lives(system, names[-1]) == 0
    system.started[0].kill()
    system.http.close()
    system.start_dispatcher()
    until(lambda: all(lives(system, name) == 1 for name in names), "all were put back", 30)
    for name in names:
        assert system.ended(name)["state"] == "failed"
    ran = Counter(event["job"] for event in system.events("job.started"))
    assert ran == dict.fromkeys(names, 2)
    redriven = Counter(event["job"] for event in system.events("job.redriven"))
    assert redriven == dict.fromkeys(names, 1)
