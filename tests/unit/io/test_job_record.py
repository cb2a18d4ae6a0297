"""Jobs as they lie in Redis."""

import json
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from affinity.errors import InvalidInput
from affinity.io import job_record as record
from affinity.job import Job, JobError, JobSpec, JobState, StartKind
from tests.support.job_samples import a_spec, an_outcome

texts = st.text(st.characters(codec=None, exclude_categories=()), max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
seconds = st.floats(min_value=0, max_value=1e10)
ids = st.from_regex(r"[A-Za-z0-9._:\-]{1,128}", fullmatch=True)


def fields_of(spec: JobSpec, created_at: float, **more: str) -> list[str]:
    """A record as the scripts write it."""
    _, model, created_ms, created, ttl_s, digest, text = record.new_fields(spec, created_at)
    fields = {"state": "queued", "model": model, "created_ms": created_ms, "created_at": created, "ttl_s": ttl_s}
    fields |= {"digest": digest, "spec": text, "attempts": "0", "losses": "0", **more}
    return [part for pair in fields.items() for part in pair]


@given(values, st.dictionaries(texts, values, max_size=2), seconds, st.none() | seconds)
def test_a_new_job_comes_back_as_it_was(value: object, metadata: dict[str, object], at: float, ttl: float | None):
    spec = JobSpec("j1", "m", value, ttl_s=ttl, metadata=metadata)
    assert record.decode_job(fields_of(spec, at)) == Job(spec, JobState.QUEUED, at)


@given(seconds, seconds, seconds, values)
def test_an_ended_job_comes_back_as_it_was(created: float, started: float, took: float, result: object) -> None:
    _, text = record.encode_outcome(an_outcome(result), 10**6)
    more = {"state": "succeeded", "started_at": repr(started), "finished_at": repr(started + took), "worker": "w"}
    more |= {"start": "cold", "load_s": repr(took), "exec_s": repr(took), "result": text, "error": "", "attempts": "2"}
    job = record.decode_job(fields_of(a_spec(), created, **more))
    assert (job.started_at, job.finished_at, job.load_s, job.exec_s) == (started, started + took, took, took)
    assert (job.wait_s, job.start, job.attempts) == (max(0.0, started - created), StartKind.COLD, 2)
    assert job.result == result


@given(texts, texts)
def test_an_error_comes_back_as_it_was_and_its_code_is_first(code: str, message: str) -> None:
    error = JobError(code, message)
    text, same = record.encode_error(error)
    assert same == code
    assert text.startswith('{"code":')
    assert record.decode_job(fields_of(a_spec(), 1.0, error=text)).error == error
    assert record.encode_error(None) == ("", "")


def test_the_limit_of_a_result_counts_the_bytes_of_its_json() -> None:
    text = "x" * 98
    assert record.encode_outcome(an_outcome(text), 100)[1] == json.dumps(text)
    outcome, kept = record.encode_outcome(an_outcome(text + "x"), 100)
    assert (kept, outcome.result, outcome.state) == ("", None, JobState.FAILED)
    assert outcome.error is not None
    assert "101 bytes" in outcome.error.message


@given(ids, st.floats(min_value=1.0, max_value=1e10))
def test_a_cursor_names_its_place(job_id: str, at: float) -> None:
    job = Job(a_spec(job_id), JobState.QUEUED, at)
    cursor = record.encode_cursor(job)
    assert cursor.replace("-", "").replace("_", "").isalnum()
    assert record.decode_cursor(cursor) == (str(record.millis(at)), job_id)


@given(st.text(max_size=40))
def test_a_text_that_is_no_cursor_is_refused_or_is_one(text: str) -> None:
    with suppress(InvalidInput):
        created_ms, job_id = record.decode_cursor(text)
        assert created_ms.isdigit()
        assert job_id


def test_an_instant_in_milliseconds_can_always_be_taken_off_a_sum() -> None:
    assert [record.millis(at) for at in (0.0, 0.0004, 1.9999)] == [1, 1, 1999]


def test_a_creation_outside_is_believed_between_1970_and_now() -> None:
    assert [record.sighted(at, 100.0) for at in (-5.0, 50.5, 100.0, 1e12)] == [0.0, 50.5, 100.0, 100.0]
