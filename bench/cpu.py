"""Processor time of processes and all below them, from the kernel's own figures (Linux)."""

import os
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(ancestors: Iterable[int], proc: Path = PROC) -> float:
    """Seconds that these processes and those below them have computed so far. What has ended is not counted."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                # The name in parentheses may hold anything; the fields behind it are counted from the state.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # It has just ended.
            parents[int(entry.name)], ticks[int(entry.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    meant = set(ancestors)
    return sum(count for pid, count in ticks.items() if _below(pid, meant, parents)) / _TICKS_PER_S


def _below(pid: int, meant: set[int], parents: dict[int, int]) -> bool:
    while pid and pid not in meant:
        pid = parents.get(pid, 0)
    return pid in meant
