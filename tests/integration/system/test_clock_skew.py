"""A whole system on machines whose clocks are minutes apart: it serves, waits and expires as any other."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.system import System, running_system

SITE = """
import os, time
true = time.time
time.time = lambda: true() + float(os.environ["SKEW_S"])
"""
"""Python reads it before anything else: the clock of the machine that the process believes to be on."""


@pytest.fixture(params=[300, -300], ids=["dispatcher ahead", "dispatcher behind"])
def skewed(
    request: pytest.FixtureRequest, rabbitmq_url: str, redis_url: str, namespace: str, tmp_path: Path
) -> Iterator[System]:
    """A dispatcher whose clock is five minutes off, and two workers: one is off the other way, one is right."""
    (tmp_path / "sitecustomize.py").write_text(SITE)
    clock = {"PYTHONPATH": str(tmp_path), "SKEW_S": str(request.param)}
    with running_system(rabbitmq_url, redis_url, namespace, tmp_path, **clock) as system:
        system.start_worker("off", SKEW_S=str(-request.param))
        system.start_worker("right", SKEW_S="0")
        yield system


def test_jobs_neither_expire_nor_seem_to_have_waited_and_no_lease_is_lost(skewed: System) -> None:
    began_at = time.time()
    cold = skewed.run("synthetic-a", {}, ttl_s=60)
    warm = skewed.run("synthetic-a", {}, ttl_s=60)
    assert [job["state"] for job in (cold, warm)] == ["succeeded", "succeeded"]
    assert 0.0 <= warm["wait_s"] <= cold["wait_s"] < time.time() - began_at
    ages = {name: worker["lease_age_s"] for name, worker in skewed.fleet().items()}
    assert ages.keys() == {"off", "right"}
    assert all(0.0 <= age < 1.5 for age in ages.values()), "its last report is as old as a lease at most"
    assert skewed.events("worker.lost") == []
