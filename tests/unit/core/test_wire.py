"""What travels as JSON: every way a message may be wrong ends in an ``UndecodableMessage`` that says which."""

import json
from dataclasses import replace
from typing import Any

import pytest

from affinity.errors import InvalidInput, UndecodableMessage
from affinity.fleet import GIB, Measurement, Refusal, Residency, ResidencyState
from affinity.job import DEFAULT_MAX_ATTEMPTS, Job, JobError, JobSpec, JobState, StartKind
from affinity.wire import (
    MAX_DEPTH,
    MAX_SECONDS,
    MESSAGE_FIELDS,
    decode_measurement,
    decode_message,
    decode_report,
    depth,
    dumps,
    encode_measurement,
    encode_message,
    encode_report,
    job_to_json,
    loads,
    parse_rfc3339,
    rfc3339,
    spec_from_json,
)
from tests.support.job_samples import a_report, a_spec


def body(**fields: object) -> bytes:
    return json.dumps({"input": 1, **fields}).encode()


def nested(levels: int) -> str:
    return "[" * levels + "]" * levels


# -- what may be left out ----------------------------------------------------------------------------------------------


def test_a_body_with_nothing_but_an_input_is_a_job() -> None:
    spec, created_at = decode_message(b'{"input": {"texts": ["a"]}}', "m", "j1")
    assert spec == JobSpec("j1", "m", {"texts": ["a"]}, None, None, DEFAULT_MAX_ATTEMPTS, {})
    assert created_at is None


def test_an_input_may_be_null() -> None:
    assert decode_message(b'{"input": null}', "m", "j1")[0].input is None


def test_what_the_body_says_counts_before_what_the_envelope_says() -> None:
    spec, _ = decode_message(body(id="mine", model="org/mine"), "routed", "envelope")
    assert (spec.id, spec.model) == ("mine", "org/mine")


def test_null_stands_for_the_default_where_there_is_one() -> None:
    spec, created_at = decode_message(
        body(ttl_s=None, timeout_s=None, max_attempts=None, metadata=None, created_at=None), "m", "j1"
    )
    assert spec == JobSpec("j1", "m", 1)
    assert created_at is None


def test_our_own_messages_say_everything() -> None:
    assert set(json.loads(encode_message(a_spec(), 1.5))) == MESSAGE_FIELDS - {"tenant"}


@pytest.mark.parametrize("seconds", [1, 0.001, MAX_SECONDS])
def test_seconds_may_be_whole_or_not_and_come_as_floats(seconds: float) -> None:
    spec, _ = decode_message(body(ttl_s=seconds, timeout_s=seconds), "m", "j1")
    assert (spec.ttl_s, spec.timeout_s) == (seconds, seconds)
    assert isinstance(spec.ttl_s, float)


def test_a_lone_surrogate_in_the_input_comes_through_unharmed() -> None:
    sent = replace(a_spec(), input={"text": "\ud800"})
    encoded = encode_message(sent, 0.0)
    encoded.decode("ascii")
    assert decode_message(encoded, "m", None)[0] == sent


# -- what is no job ----------------------------------------------------------------------------------------------------

UNDECODABLE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not JSON"),
    "not text": (b"\xff\x00\x80", "not JSON"),
    "not JSON": (b"{input: 1}", "not JSON"),
    "half": (b'{"input": 1', "not JSON"),
    "two documents": (b'{"input": 1} {}', "not JSON"),
    "NaN": (b'{"input": NaN}', "NaN is not JSON"),
    "Infinity": (b'{"input": [Infinity]}', "Infinity is not JSON"),
    "minus Infinity": (b'{"input": 1, "metadata": {"a": -Infinity}}', "-Infinity is not JSON"),
    "bottomless": (nested(200_000).encode(), "nested too deeply"),
    "an endless number": (b'{"input": ' + b"9" * 5000 + b"}", "not JSON"),
    "a list": (b"[1]", "must be a JSON object"),
    "a string": (b'"input"', "must be a JSON object"),
    "null": (b"null", "must be a JSON object"),
    "no input": (b'{"model": "m"}', "has no 'input'"),
    "version 2": (body(v=2), "version 2 is unknown here; this is version 1"),
    "version '1'": (body(v="1"), "version '1' is unknown"),
    "version null": (body(v=None), "version None is unknown"),
    "unknown fields": (body(zeta=1, alpha=2), "unknown fields: alpha, zeta"),
    "id a number": (body(id=7), "id: must be a string"),
    "id empty": (body(id=""), "id: must be 1 to 128"),
    "id with a blank": (body(id="a b"), "id: must be 1 to 128"),
    "id a surrogate": (body(id="\ud800"), "id: must be 1 to 128"),
    "model a list": (body(model=["m"]), "model: must be a string"),
    "model a pattern": (body(model="*"), "model: must be 1 to 128"),
    "input too deep": (f'{{"input": {nested(MAX_DEPTH + 1)}}}'.encode(), f"input: is nested deeper than {MAX_DEPTH}"),
    "ttl text": (body(ttl_s="5"), "ttl_s: must be a number of seconds"),
    "ttl true": (body(ttl_s=True), "ttl_s: must be a number of seconds"),
    "ttl zero": (body(ttl_s=0), "ttl_s: must be a number of seconds"),
    "ttl negative": (body(ttl_s=-1), "ttl_s: must be a number of seconds"),
    "ttl too long": (body(ttl_s=MAX_SECONDS + 1), "ttl_s: must be a number of seconds"),
    "ttl beyond floats": (b'{"input": 1, "ttl_s": 1e999}', "1e999 is too large for a number"),
    "timeout a huge integer": (body(timeout_s=10**400), "timeout_s: must be a number of seconds"),
    "attempts zero": (body(max_attempts=0), "max_attempts: must be a whole number"),
    "attempts many": (body(max_attempts=101), "max_attempts: must be a whole number"),
    "attempts half": (body(max_attempts=1.5), "max_attempts: must be a whole number"),
    "attempts true": (body(max_attempts=True), "max_attempts: must be a whole number"),
    "metadata a list": (body(metadata=[1]), "metadata: must be an object"),
    "metadata too deep": (
        f'{{"input": 1, "metadata": {{"a": {nested(MAX_DEPTH)}}}}}'.encode(),
        f"metadata: is nested deeper than {MAX_DEPTH}",
    ),
    "created_at a number": (body(created_at=1.5), "created_at: must be a string"),
    "created_at no instant": (body(created_at="yesterday"), "yesterday"),
    "created_at without zone": (body(created_at="2026-01-02T03:04:05"), "has no time zone"),
    "created_at a surrogate": (body(created_at="\ud800"), "is not an instant"),
}


@pytest.mark.parametrize("case", UNDECODABLE)
def test_what_is_no_job_is_undecodable_and_says_why(case: str) -> None:
    sent, reason = UNDECODABLE[case]
    with pytest.raises(UndecodableMessage) as caught:
        decode_message(sent, "m", "j1")
    assert reason in caught.value.message


@pytest.mark.parametrize(("routed", "message_id", "reason"), [("*", "j1", "model:"), ("", "j1", "model:")])
def test_a_routing_key_that_is_no_model_is_undecodable(routed: str, message_id: str, reason: str) -> None:
    with pytest.raises(UndecodableMessage, match=reason):
        decode_message(body(), routed, message_id)


@pytest.mark.parametrize("message_id", [None, "", "a b"])
def test_a_message_without_a_usable_id_anywhere_is_undecodable(message_id: str | None) -> None:
    with pytest.raises(UndecodableMessage, match="id: must be"):
        decode_message(body(), "m", message_id)


@pytest.mark.parametrize(
    "sent", [b'{"input": 1e999}', b'{"input": [-1e999]}', b'{"input": 1, "metadata": {"a": 1e999}}']
)
def test_a_number_beyond_floats_is_undecodable(sent: bytes) -> None:
    with pytest.raises(UndecodableMessage):
        decode_message(sent, "m", "j1")


def test_the_reason_can_always_be_put_into_a_header() -> None:
    with pytest.raises(UndecodableMessage) as caught:
        decode_message(b'{"input": 1, "\\ud800": 1}', "m", "j1")
    caught.value.message.encode()


def test_the_deepest_input_allowed_is_taken_and_encoded_again() -> None:
    spec, _ = decode_message(f'{{"input": {nested(MAX_DEPTH)}}}'.encode(), "m", "j1")
    assert depth(spec.input) == MAX_DEPTH
    assert decode_message(encode_message(spec, 0.0), "m", None)[0] == spec


def test_over_http_the_same_checks_name_the_field() -> None:
    with pytest.raises(InvalidInput) as caught:
        spec_from_json({"id": "j1", "model": "m", "input": 1, "ttl_s": "soon"})
    assert caught.value.field == "ttl_s"


# -- JSON and instants -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "levels"), [(1, 0), ("[[", 0), ([], 1), ({}, 1), ([1, [2, {"a": [3]}]], 4), ({"a": {"b": 1}, "c": []}, 2)]
)
def test_depth_counts_containers(value: object, levels: int) -> None:
    assert depth(value) == levels


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_what_is_not_json_is_never_written(value: object) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dumps(value)


def test_json_is_written_compact_and_in_ascii() -> None:
    assert dumps({"a": ["ä", "\ud800", 1.0, None]}) == '{"a":["\\u00e4","\\ud800",1.0,null]}'
    assert loads(b'{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    ("at", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000000Z"),
        (1_700_000_000.25, "2023-11-14T22:13:20.250000Z"),
        (-1.5, "1969-12-31T23:59:58.500000Z"),
        (253_402_300_799.0, "9999-12-31T23:59:59.000000Z"),
    ],
)
def test_an_instant_is_written_in_utc_and_read_back(at: float, text: str) -> None:
    assert rfc3339(at) == text
    assert parse_rfc3339(text) == at


@pytest.mark.parametrize("text", ["2023-11-14T22:13:20Z", "2023-11-14T23:13:20+01:00", "2023-11-14 22:13:20.000Z"])
def test_every_form_of_an_instant_is_the_same_instant(text: str) -> None:
    assert parse_rfc3339(text) == 1_700_000_000.0


@pytest.mark.parametrize("text", ["", "now", "2023-11-14", "2023-11-14T22:13:20", "2023-13-14T22:13:20Z", "1700000000"])
def test_what_is_no_instant_or_has_no_zone_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not an instant|time zone"):
        parse_rfc3339(text)


# -- a job as callers see it -------------------------------------------------------------------------------------------


def test_a_fresh_job_shows_what_has_not_happened_as_null() -> None:
    shown = job_to_json(Job(JobSpec("j1", "m", {"secret": 1}, metadata={"user": "u"}), JobState.QUEUED, 0.5))
    assert shown == {
        "id": "j1",
        "model": "m",
        "state": "queued",
        "created_at": "1970-01-01T00:00:00.500000Z",
        "started_at": None,
        "finished_at": None,
        "attempts": 0,
        "worker": None,
        "start": None,
        "wait_s": None,
        "load_s": None,
        "exec_s": None,
        "result": None,
        "error": None,
        "metadata": {"user": "u"},
    }


def test_an_ended_job_shows_how_it_ended() -> None:
    job = Job(
        JobSpec("j1", "m", 1), JobState.FAILED, 0.0, 1.0, 2.0, attempts=2, worker="w1", start=StartKind.COLD,
        wait_s=1.0, load_s=0.5, exec_s=0.25, error=JobError("job_failed", "it raised"),
    )  # fmt: skip
    shown = job_to_json(job)
    assert shown["error"] == {"code": "job_failed", "message": "it raised"}
    assert (shown["start"], shown["state"], shown["attempts"]) == ("cold", "failed", 2)
    assert (shown["wait_s"], shown["load_s"], shown["exec_s"]) == (1.0, 0.5, 0.25)
    assert shown["finished_at"] == "1970-01-01T00:00:02.000000Z"
    json.dumps(shown)


# -- reports and measurements ------------------------------------------------------------------------------------------

REPORT = replace(
    a_report(),
    residents=(Residency("m", ResidencyState.DRAINING, GIB, 1.0, 2.0, running=2, pinned=True),),
    refusals=(Refusal("n", 9.5, "load_failed", "damaged", failures=3, hopeless=True),),
    draining=True,
    metrics_url="http://127.0.0.1:8000/metrics",
)


def test_a_report_comes_back_with_its_residents_and_refusals() -> None:
    back = decode_report(encode_report(REPORT))
    assert back == REPORT
    assert isinstance(back.residents[0].state, ResidencyState)


def damaged(**fields: object) -> str:
    return json.dumps({**json.loads(encode_report(REPORT)), **fields})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{}",
        "7",
        damaged(gpu=None),
        damaged(gpu={"uuid": "GPU-1"}),
        damaged(gpu={**json.loads(encode_report(REPORT))["gpu"], "new": 1}),
        damaged(residents=[{"model": "m"}]),
        damaged(residents=[{**json.loads(encode_report(REPORT))["residents"][0], "state": "frozen"}]),
        damaged(residents=[1]),
        damaged(residents=None),
        damaged(refusals=[["m"]]),
        encode_report(REPORT).replace('"epoch"', '"era"'),
    ],
)
def test_a_damaged_report_or_another_versions_is_undecodable(text: str) -> None:
    with pytest.raises(UndecodableMessage, match="not a worker's report"):
        decode_report(text)


def test_a_measurement_comes_back() -> None:
    measured = Measurement(GIB + 1, 0.1 + 0.2, 1e-9)
    assert decode_measurement(encode_measurement(measured)) == measured


@pytest.mark.parametrize("text", ["", "[]", "null", "1", "{}", '{"footprint_bytes": 1}', '{"a": 1}', '{"load_s": NaN}'])
def test_a_damaged_measurement_is_undecodable(text: str) -> None:
    with pytest.raises(UndecodableMessage, match="not a measurement"):
        decode_measurement(text)


WRONG_TYPES: dict[str, Any] = {"footprint_bytes": "large", "load_s": 1.0, "exec_s": 0.1}


@pytest.mark.parametrize(
    ("decode", "text"),
    [
        (decode_measurement, json.dumps(WRONG_TYPES)),
        (decode_report, damaged(epoch="1")),
        (decode_report, damaged(residents=[{**json.loads(encode_report(REPORT))["residents"][0], "loaded_at": None}])),
    ],
)
def test_fields_of_the_wrong_type_are_undecodable(decode: Any, text: str) -> None:
    with pytest.raises(UndecodableMessage):
        decode(text)


def test_a_whole_number_may_be_written_with_a_point():
    spec, _ = decode_message(body(max_attempts=3.0), "m", "j1")
    assert (spec.max_attempts, type(spec.max_attempts)) == (3, int)
