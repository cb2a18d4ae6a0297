"""Jobs published by somebody else's AMQP client: no code of ours on that side."""

import json
import uuid
from typing import Any

import pika
import pytest

from tests.support.system import System, until


def publish(system: System, model: str, body: bytes, message_id: str | None) -> None:
    with pika.BlockingConnection(pika.URLParameters(system.rabbitmq_url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        properties = pika.BasicProperties(message_id=message_id, delivery_mode=2)
        channel.basic_publish(f"{system.namespace}.jobs", model, body, properties, mandatory=True)


def dead_letters(system: System) -> list[dict[str, Any]]:
    return list(system.http.get("/dead-letters").json()["dead_letters"])


@pytest.mark.parametrize("warm", [False, True])
def test_a_published_job_is_served_and_can_be_asked_for(system: System, warm: bool) -> None:
    system.start_worker("w1")
    if warm:
        system.run("echo", "first")
    job_id = f"foreign-{uuid.uuid4().hex}"
    publish(system, "echo", json.dumps({"input": {"hello": "world"}}).encode(), job_id)
    until(lambda: "state" in system.job(job_id), "the job was seen")
    job = system.ended(job_id)
    assert (job["state"], job["result"]) == ("succeeded", {"hello": "world"})
    assert job["start"] == ("warm" if warm else "cold")


def test_a_published_job_is_served_while_the_worker_is_busy_with_another_model(system: System) -> None:
    system.start_worker("w1")
    system.run("echo", "resident")
    system.run("synthetic-a", {})
    busy = system.post("echo", {"processing_time": 2}).json()["id"]
    until(lambda: system.job(busy)["state"] == "running", "the worker is busy")
    job_id = f"foreign-{uuid.uuid4().hex}"
    publish(system, "synthetic-a", b'{"input": {}}', job_id)
    until(lambda: "state" in system.job(job_id), "it is recorded while it waits", within_s=1.9)
    assert system.ended(job_id)["state"] == "succeeded"


@pytest.mark.parametrize("warm", [False, True])
def test_an_undecodable_message_ends_in_the_dead_letters_with_its_reason(system: System, warm: bool) -> None:
    system.start_worker("w1")
    if warm:
        system.run("echo", "first")
    publish(system, "echo", b"\x00 not a job", "odd")
    until(lambda: dead_letters(system), "it is among the dead letters")
    (letter,) = dead_letters(system)
    assert (letter["excerpt"], letter["code"], letter["worker"]) == ("\x00 not a job", "undecodable_message", "w1")
    assert "not JSON" in letter["error"]["message"]


def test_a_job_for_a_model_nobody_knows_fails_with_its_code(system: System) -> None:
    system.start_worker("w1")
    publish(system, "no-such-model", b'{"input": {}}', "stranger")
    until(lambda: "state" in system.job("stranger"), "the job was seen")
    job = system.ended("stranger")
    assert (job["state"], job["error"]["code"]) == ("failed", "unknown_model")
    assert [(letter["id"], letter["code"]) for letter in dead_letters(system)] == [("stranger", "unknown_model")]


def test_a_bad_input_fails_alone_with_the_field_named(system: System) -> None:
    system.start_worker("w1")
    system.run("minilm-l6-v2", {"texts": ["warm it up"]})
    publish(system, "minilm-l6-v2", json.dumps({"input": {"texts": ["fine", 7]}}).encode(), "bad")
    publish(system, "minilm-l6-v2", json.dumps({"input": {"texts": ["fine"]}}).encode(), "good")
    for job_id in ("bad", "good"):
        until(lambda job_id=job_id: "state" in system.job(job_id), "it was seen")
    bad, good = system.ended("bad"), system.ended("good")
    assert (bad["state"], bad["error"]["code"]) == ("failed", "invalid_input")
    assert "texts" in bad["error"]["message"]
    assert good["state"] == "succeeded"
