"""States, ids, names and digests of jobs."""

import dataclasses
from itertools import product

import pytest

from affinity.errors import InvalidInput, InvariantBroken
from affinity.job import (
    RUNGS_S,
    TRANSITIONS,
    Attempt,
    JobError,
    JobSpec,
    JobState,
    Outcome,
    StartKind,
    backoff_s,
    check_job_id,
    check_model_name,
    check_transition,
    rung_below,
)

ALLOWED = {
    ("queued", "running"),
    ("queued", "failed"),
    ("queued", "cancelled"),
    ("queued", "expired"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "cancelled"),
    ("running", "queued"),
}


@pytest.mark.parametrize(("before", "after"), list(product(JobState, JobState)))
def test_a_job_moves_only_as_the_table_says(before: JobState, after: JobState) -> None:
    if (before, after) in ALLOWED:
        check_transition(before, after)
        return
    with pytest.raises(InvariantBroken, match=f"from {before} to {after}"):
        check_transition(before, after)


def test_every_state_is_in_the_table_and_the_terminal_ones_are_final() -> None:
    assert set(TRANSITIONS) == set(JobState)
    assert {state for state in JobState if state.terminal} == {"succeeded", "failed", "cancelled", "expired"}


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[JobState.FAILED] = frozenset({JobState.QUEUED})  # type: ignore[index]


@pytest.mark.parametrize("job_id", ["a", "A-1_b.c:d", "9" * 128])
def test_an_id_of_letters_digits_and_four_signs_is_fine(job_id: str) -> None:
    assert check_job_id(job_id) == job_id


@pytest.mark.parametrize("job_id", ["", "a" * 129, "a b", "a/b", "ä", "a\n", "\na", "a*", "a#", "\ud800", "a\x00"])
def test_any_other_id_is_refused_with_what_an_id_may_hold(job_id: str) -> None:
    with pytest.raises(InvalidInput, match=r"id: must be 1 to 128 letters, digits or \. _ : -") as caught:
        check_job_id(job_id)
    assert caught.value.field == "id"


@pytest.mark.parametrize("name", ["a", "org/model-1.5:fp16_x", "m" * 128])
def test_a_models_name_is_a_routing_key(name: str) -> None:
    assert check_model_name(name) == name


@pytest.mark.parametrize("name", ["", "m" * 129, "a b", "*", "a.#", "ä", "m\n", "m\x00", "\ud800"])
def test_any_other_name_is_refused_with_what_a_name_may_hold(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"model: must be 1 to 128 letters") as caught:
        check_model_name(name)
    assert caught.value.field == "model"


SPEC = JobSpec("j1", "m", {"a": 1, "b": [1, 2]}, 1.0, 2.0, 3, {"k": "v"})


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("model", "n"),
        ("input", {"a": 1, "b": [2, 1]}),
        ("input", {"a": True, "b": [1, 2]}),
        ("input", {"a": "1", "b": [1, 2]}),
        ("ttl_s", None),
        ("ttl_s", 2.0),
        ("timeout_s", 1.0),
        ("max_attempts", 4),
        ("metadata", {}),
        ("metadata", {"k": None}),
    ],
)
def test_other_content_has_another_digest(field: str, other: object) -> None:
    assert dataclasses.replace(SPEC, **{field: other}).digest != SPEC.digest


def test_the_digest_is_the_same_on_every_machine_and_version() -> None:
    # It is kept in Redis: were it to change, a retry after an upgrade would be a conflict.
    assert SPEC.digest == "6f39a2a4ecaf853d7a0d4d08b17f71c1"


def test_the_digest_is_of_the_content_and_not_of_the_id() -> None:
    assert dataclasses.replace(SPEC, id="other").digest == SPEC.digest


def test_an_outcome_fails_exactly_when_it_has_an_error() -> None:
    assert Outcome(StartKind.WARM, 0.0, 0.1, result=None).state is JobState.SUCCEEDED
    assert Outcome(StartKind.COLD, 1.0, 0.1, error=JobError("job_failed", "x")).state is JobState.FAILED


def test_what_a_producer_said_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPEC.model = "n"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Attempt("j", "t", "w", 1).token = "u"  # type: ignore[misc]


def test_the_wait_doubles_with_each_failure_up_to_its_cap_and_is_spread_over_the_upper_half() -> None:
    for failures in range(1, 101):
        most_s = min(2.0**failures, RUNGS_S[-1])
        chosen = {backoff_s(failures, dice) for dice in range(12)}
        assert chosen == {most_s / 2, most_s * 3 / 4, most_s}


def test_every_wait_has_its_queue() -> None:
    assert {backoff_s(failures, dice) for failures in range(1, 101) for dice in range(3)} == set(RUNGS_S)


@pytest.mark.parametrize(
    ("left_s", "wait_s"), [(100.0, 64.0), (64.0, 64.0), (63.9, 48.0), (1.0, 1.0), (0.1, 1.0), (-5.0, 1.0)]
)
def test_a_wait_ends_by_then_unless_the_shortest_is_too_long(left_s: float, wait_s: float) -> None:
    assert rung_below(left_s) == wait_s
