"""What travels as JSON comes back as it was, whatever it holds."""

import json
from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from affinity.errors import UndecodableMessage
from affinity.fleet import Gpu, Measurement, Refusal, Residency, ResidencyState, WorkerReport
from affinity.job import JobSpec
from affinity.wire import (
    MAX_ATTEMPTS,
    MAX_DEPTH,
    MAX_SECONDS,
    decode_measurement,
    decode_message,
    decode_report,
    depth,
    encode_measurement,
    encode_message,
    encode_report,
    parse_rfc3339,
    rfc3339,
)

texts = st.text(st.characters(exclude_categories=()), max_size=8)
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
durations = st.none() | st.floats(min_value=0, max_value=MAX_SECONDS, exclude_min=True)
specs = st.builds(
    JobSpec,
    id=st.from_regex(r"[A-Za-z0-9._:\-]{1,128}", fullmatch=True),
    model=st.from_regex(r"[A-Za-z0-9._:/\-]{1,128}", fullmatch=True),
    input=values,
    ttl_s=durations,
    timeout_s=durations,
    max_attempts=st.integers(1, MAX_ATTEMPTS),
    metadata=st.dictionaries(texts, values, max_size=3),
)
instants = st.floats(min_value=0, max_value=4e9)
sizes = st.integers(0, 2**50)
finite = st.floats(min_value=0, max_value=1e12)
measurements = st.builds(Measurement, footprint_bytes=sizes, load_s=finite, exec_s=finite)
reports = st.builds(
    WorkerReport,
    worker=texts,
    node=texts,
    epoch=st.integers(0, 2**60),
    sequence=st.integers(0, 2**60),
    as_of=instants,
    gpu=st.builds(
        Gpu, uuid=texts, index=st.integers(0, 64), name=texts, total_bytes=sizes, used_bytes=sizes,
        foreign_bytes=sizes, reserve_bytes=sizes, utilization=st.none() | st.floats(0, 1),
    ),
    residents=st.lists(
        st.builds(
            Residency, model=texts, state=st.sampled_from(ResidencyState), footprint_bytes=sizes, loaded_at=instants,
            last_used_at=instants, running=st.integers(0, 64), pinned=st.booleans(),
        ),
        max_size=3,
    ).map(tuple),
    refusals=st.lists(
        st.builds(
            Refusal, model=texts, until=instants, code=texts, message=texts, failures=st.integers(1, 9),
            hopeless=st.booleans(),
        ),
        max_size=2,
    ).map(tuple),
    draining=st.booleans(),
    lease_s=finite,
    metrics_url=texts,
)  # fmt: skip


@given(specs, instants)
def test_a_job_comes_back_from_its_message(spec: JobSpec, created_at: float) -> None:
    """``decode(encode(x)) == x`` for every job; its creation to the microsecond."""
    back, at = decode_message(encode_message(spec, created_at), "routed", None)
    assert back == spec
    assert back.digest == spec.digest
    assert at is not None
    assert abs(at - created_at) <= 1e-6


@given(reports)
def test_a_report_comes_back(report: WorkerReport) -> None:
    """``decode(encode(x)) == x`` for every report, bit for bit."""
    assert decode_report(encode_report(report)) == report


@given(measurements)
def test_a_measurement_comes_back(measurement: Measurement) -> None:
    """``decode(encode(x)) == x`` for every measurement, bit for bit."""
    assert decode_measurement(encode_measurement(measurement)) == measurement


@given(specs, st.text("abc", min_size=1, max_size=5))
def test_the_digest_ignores_the_id(spec: JobSpec, other: str) -> None:
    """The digest of a job is that of its content: the id is not part of it."""
    assert replace(spec, id=other).digest == spec.digest


@given(specs, st.randoms(use_true_random=False))
def test_the_digest_ignores_the_order_of_keys(spec: JobSpec, random: Random) -> None:
    """Two JSON texts of one value have one digest, in whatever order their objects are written."""

    def shuffled(value: object) -> object:
        if isinstance(value, dict):
            items = [(key, shuffled(inner)) for key, inner in value.items()]
            random.shuffle(items)
            return dict(items)
        return [shuffled(inner) for inner in value] if isinstance(value, list) else value

    metadata = shuffled(dict(spec.metadata))
    assert isinstance(metadata, dict)
    assert replace(spec, input=shuffled(spec.input), metadata=metadata).digest == spec.digest


@given(specs, specs)
def test_two_contents_that_differ_as_json_have_two_digests(one: JobSpec, other: JobSpec) -> None:
    """The digest tells apart what JSON tells apart."""
    other = replace(other, id=one.id)
    same = encode_message(one, 0.0) == encode_message(other, 0.0)
    assert (one.digest == other.digest) or not same


@given(st.floats(min_value=-6e10, max_value=2.5e11))
def test_an_instant_comes_back_to_the_microsecond(at: float) -> None:
    """``parse_rfc3339(rfc3339(at))`` is ``at``, as exact as a double of that size and a microsecond allow."""
    assert abs(parse_rfc3339(rfc3339(at)) - at) <= 1e-6 + abs(at) * 2**-52


@given(values)
def test_depth_is_what_counting_by_hand_gives(value: object) -> None:
    """Depth is one more than the deepest child of a container, and nothing for a scalar."""

    def by_hand(value: object) -> int:
        if isinstance(value, dict):
            return 1 + max((by_hand(inner) for inner in value.values()), default=0)
        return 1 + max((by_hand(inner) for inner in value), default=0) if isinstance(value, list) else 0

    assert depth(value) == by_hand(value)
    assert depth(value) <= MAX_DEPTH


plausible = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("v", "id", "model", "input", "ttl_s", "timeout_s", "max_attempts", "metadata", "zeta"), values
    ),
)


@given(st.binary(max_size=40) | plausible.map(lambda fields: json.dumps(fields).encode()), texts, st.none() | texts)
def test_a_body_is_a_job_or_undecodable_and_nothing_else(body: bytes, routed: str, message_id: str | None) -> None:
    """Whatever a foreign client sends, decoding gives a job that can be encoded again, or ``UndecodableMessage``."""
    try:
        spec, _ = decode_message(body, routed, message_id)
    except UndecodableMessage:
        return
    assert decode_message(encode_message(spec, 0.0), routed, None)[0] == spec
