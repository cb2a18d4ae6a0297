"""A picture that is drawn again and again until somebody presses q or Ctrl-C; the terminal is as it was afterwards."""

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console, Group, RenderableType
from rich.live import Live

from dispatcher.cli_text import shown
from dispatcher.client import Unreachable

Pause = Callable[[float], bool]
"""Wait for so many seconds; false where it is to end instead."""


@contextmanager
def keyboard() -> Iterator[Pause]:
    """Pauses that q ends. Where nobody can press a key they are just pauses."""
    try:
        before = termios.tcgetattr(sys.stdin)
    except (termios.error, ValueError, OSError):  # no terminal; closed; not a file
        yield _sleep
        return
    try:
        tty.setcbreak(sys.stdin)  # Ctrl-C stays what it is.
        yield _unless_q
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def redraw(out: Console, pause: Pause, every_s: float, draw: Callable[[], RenderableType]) -> None:
    """Show what ``draw`` gives, every so often, until the pause says no.

    A dispatcher that is away (``Unreachable``) is waited for, below what was last seen of it; the first time it must be
    there.
    """
    last = draw()
    with (
        suppress(KeyboardInterrupt),
        Live(last, console=out, screen=True, auto_refresh=False, vertical_overflow="crop") as live,
    ):
        while pause(every_s):
            try:
                last = draw()
            except Unreachable as error:
                live.update(_with_notice(last, str(error)), refresh=True)
            else:
                live.update(last, refresh=True)


def _with_notice(picture: RenderableType, notice: str) -> RenderableType:
    return Group(shown(f"no answer, showing what was last seen: {notice}", "bold red"), picture)


def _sleep(duration_s: float) -> bool:
    time.sleep(duration_s)
    return True


def _unless_q(duration_s: float) -> bool:
    until = time.monotonic() + duration_s
    while (left_s := until - time.monotonic()) > 0:
        if select.select([sys.stdin], [], [], left_s)[0] and os.read(sys.stdin.fileno(), 1) in {b"q", b"Q", b""}:
            return False
    return True
