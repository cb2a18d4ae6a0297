"""The soak: what counts as growth, what does not hold, and whose memory is looked at."""

import os
from collections import Counter
from pathlib import Path

import pytest

from bench.memory import resident_bytes
from bench.soak import Soaked

MIB = 2**20


def looks(*dispatcher_mib: float) -> list[dict[str, list[int]]]:
    return [{"dispatcher": [int(mib * MIB)], "worker": [50 * MIB, 50 * MIB]} for mib in dispatcher_mib]


def test_memory_is_compared_from_after_warm_up_to_the_end_and_summed_over_processes():
    found = Soaked(10, looks(1, 1, 80, 81, 82, 83, 83, 83, 83, 90), Counter(succeeded=10))

    assert found.growth() == {"dispatcher": (80 * MIB, 90 * MIB), "worker": (100 * MIB, 100 * MIB)}
    assert found.faults() == ["the memory of dispatcher grew by 12.5%"]


def test_growth_within_a_twentieth_holds():
    assert not Soaked(10, looks(10, 60, 100, *[101] * 6, 105), Counter(succeeded=10)).faults()


def test_a_job_that_is_missing_or_failed_does_not_hold():
    assert Soaked(10, looks(*[50] * 10), Counter(succeeded=8, failed=1)).faults() == [
        "2 of 10 jobs did not succeed: {'succeeded': 8, 'failed': 1}"
    ]


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Processes as the kernel shows them: pid, parent, arguments, pages."""
    for pid, parent, arguments, pages in (
        (10, 1, "python\0-m\0deploy.local.run\0", 7),
        (11, 10, "python\0-m\0dispatcher\0", 100),
        (12, 10, "python\0-m\0worker\0", 200),
        (13, 12, "python\0-m\0worker.executor_child\0--label\0worker-1\0", 300),
        (14, 10, "redis-server\0", 400),
        (20, 1, "python\0-m\0worker\0", 500),
    ):
        entry = tmp_path / str(pid)
        entry.mkdir()
        (entry / "stat").write_text(f"{pid} (a name) with (parentheses) S {parent} 1 1")
        (entry / "cmdline").write_text(arguments)
        (entry / "statm").write_text(f"9999 {pages} 1 1 0 1 0")
    (tmp_path / "meminfo").write_text("no process")
    return tmp_path


def test_only_the_systems_own_processes_are_looked_at(proc: Path):
    page = os.sysconf("SC_PAGE_SIZE")

    assert resident_bytes(10, proc) == {"dispatcher": [100 * page], "worker": [200 * page], "executor": [300 * page]}
