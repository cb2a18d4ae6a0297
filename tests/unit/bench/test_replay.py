"""A replay's own numbers, from job records."""

from datetime import UTC, datetime
from typing import Any

import pytest

from bench.replay import Loads, _lateness, _measures
from tests.support.simulated import jobs_of


def record(created_s: float, finished_s: float, start: str) -> dict[str, Any]:
    created, finished = (datetime.fromtimestamp(1e9 + s, UTC).isoformat() for s in (created_s, finished_s))
    return {"created_at": created, "finished_at": finished, "start": start, "wait_s": 0.5}


RECORDS = [record(0.0, 3.0, "cold"), record(1.0, 3.5, "warm"), record(4.5, 5.0, "warm")]


def test_the_numbers_are_those_computed_by_hand() -> None:
    found = _measures(RECORDS, 2, Loads(1, 2.0))
    assert (found["jobs"], found["loads"], found["mean_s"], found["p50_s"]) == (3, 1, 2.0, 2.5)
    assert (found["makespan_s"], found["load_share"]) == (5.0, 0.2)
    assert found["hit_ratio"] == pytest.approx(2 / 3)


def test_jobs_that_were_accepted_later_than_the_trace_says_are_seen() -> None:
    jobs = jobs_of((10.0, "a", 1.0), (11.0, "a", 1.0), (12.0, "a", 1.0))
    assert _lateness(jobs, RECORDS) == pytest.approx([0.0, 0.0, 2.5])
