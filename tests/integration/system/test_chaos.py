"""A small chaos run with a fixed seed: what `make test-chaos` does at length."""

import asyncio
import os
from pathlib import Path

import pytest

from tests.chaos.catalogue import MODELS
from tests.chaos.report import as_text
from tests.chaos.run import Options, run
from tests.chaos.script import FaultStep, Kind, script
from tests.support.servers import require_programs

KINDS = (
    Kind.WORKER_KILLED,
    Kind.EXECUTOR_KILLED,
    Kind.DISPATCHER_KILLED,
    Kind.BROKER_KILLED,
    Kind.STORE_KILLED,
    Kind.WIRE_CUT,
    Kind.WIRE_SLOW,
    Kind.JOB_CRASH,
)


@pytest.mark.timeout(300)
def test_whatever_dies_every_accepted_job_ends_once_and_nothing_is_left_behind(tmp_path: Path) -> None:
    require_programs(os.environ)
    options = Options(jobs=600, faults=len(KINDS), seed=1, kinds=KINDS)
    outcome = asyncio.run(run(options, tmp_path, print))
    assert outcome.passed, as_text(outcome)
    assert len(outcome.records) == len(outcome.ledger.accepted) == 600 + 1 + len(MODELS)
    assert {fault.kind for fault in outcome.injected} == set(KINDS)


def test_the_same_seed_makes_the_same_run_and_another_one_another() -> None:
    assert script(7, 500, 30) == script(7, 500, 30)
    assert script(7, 500, 30) != script(8, 500, 30)
    assert {step.kind for step in script(7, 500, 80) if isinstance(step, FaultStep)} == set(Kind)
