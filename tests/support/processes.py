"""What is left of processes: for tests that check that nothing is."""

import time
from pathlib import Path

import pytest


def alive_in_group(group: int) -> list[str]:
    """Command lines of the processes of process group ``group`` that are not zombies. Linux only."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            command = stat.with_name("cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        # After the name in brackets: state, parent, group.
        if int(fields[2]) == group and fields[0] not in "ZX":
            found.append(command)
    return found


def children_of(pid: int) -> list[int]:
    """Process ids of the children of a process. Linux only."""
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def group_is_gone(group: int, within_s: float = 10.0) -> bool:
    """Whether process group ``group`` has ended, or does so within ``within_s`` seconds."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("looks into /proc")
    deadline = time.monotonic() + within_s
    while alive_in_group(group):
        if time.monotonic() > deadline:
            return False
        # There is no event for the end of a process that is not our child.
        time.sleep(0.02)
    return True
