"""What the processes of a private system hold in memory, from the kernel's own figures (Linux)."""

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

PROC = Path("/proc")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

ROLES = {"dispatcher": "dispatcher", "worker": "worker", "worker.executor_child": "executor"}
"""By the module that a process runs."""


def resident_bytes(ancestor: int, proc: Path = PROC) -> Mapping[str, Sequence[int]]:
    """Resident bytes of every process below ``ancestor`` that has one of ``ROLES``, by role."""
    parents = dict(_parents(proc))
    found: defaultdict[str, list[int]] = defaultdict(list)
    for pid in parents:
        if ancestor in _above(pid, parents) and (role := _role(proc / str(pid))):
            found[role].append(_resident(proc / str(pid)))
    return found


def _parents(proc: Path) -> Iterator[tuple[int, int]]:
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                # The name in parentheses may hold anything; what comes behind it is state and parent.
                yield int(entry.name), int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # It has just ended.


def _above(pid: int, parents: Mapping[int, int]) -> Iterator[int]:
    while pid := parents.get(pid, 0):
        yield pid


def _role(process: Path) -> str | None:
    words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    return next(
        (ROLES[module] for flag, module in pairwise(words) if flag == "-m" and module in ROLES),
        None,
    )


def _resident(process: Path) -> int:
    return int((process / "statm").read_text().split()[1]) * _PAGE_BYTES
