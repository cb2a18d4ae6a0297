"""The warden: a tiny process that outlives us by a moment and ends the children we can no longer end.

Whatever happens to the process that starts servers and workers - ``kill -9`` included - nothing may stay behind. A
parent-death signal would not do: Linux ties it to the *thread* that forked, and other systems have none. So the
process groups we start are named to a second process over a pipe; when the pipe closes, whoever is still on the list
is killed.

Run as a program this file is that second process, so it imports the standard library only.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Self


class Warden:
    """Our end of the pipe. Thread-safe; one per process that starts children.

    >>> with Warden() as warden:
    ...     child = Child("sleep", ["sleep", "60"], log_path=path, warden=warden)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # -I and -S: no site packages and no user hooks, so that it starts in a few milliseconds.
        # A session of its own: Ctrl-C in the terminal must not end it before it has done its work.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).resolve())],
            stdin=subprocess.PIPE,
            text=True,
            bufsize=1,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Process id of the second process."""
        return self._process.pid

    def guard(self, group: int) -> None:
        """Kill process group ``group`` if we die before ``release``."""
        self._send(f"+{group}\n")

    def release(self, group: int) -> None:
        """Forget ``group``; call it before its leader is reaped, or a reused id could be killed."""
        self._send(f"-{group}\n")

    def close(self) -> None:
        """Close the pipe and wait for the second process; kills whatever was not released."""
        with self._lock:
            assert self._process.stdin is not None
            if not self._process.stdin.closed:
                self._process.stdin.close()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, line: str) -> None:
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(line)
            self._process.stdin.flush()


def survivors(lines: Iterable[str]) -> set[int]:
    """Groups that were named and not released once ``lines`` (``+123``, ``-123``) has ended."""
    groups: set[int] = set()
    for line in lines:
        group = int(line[1:])
        if line.startswith("+"):
            groups.add(group)
        else:
            groups.discard(group)
    return groups


def kill_group(group: int) -> None:
    """SIGKILL to every process of ``group``; nothing happens when it is gone already."""
    try:
        os.killpg(group, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        # PermissionError is what macOS says of a group that holds only zombies.
        return


def main() -> None:
    """Read until our parent is gone, then kill what is left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for group in survivors(sys.stdin):
        kill_group(group)


if __name__ == "__main__":
    main()
