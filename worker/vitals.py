"""Whether a worker still gets on: when it last looked at the fleet, and what it has been waiting for since when.

``/health/live`` asks. A process that answers there may have a loop that waits for ever, or an executor that never says
that a model has left: its lease would be renewed all the same, and jobs would wait for what it holds.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

LOOK_WITHIN_BEATS = 45
"""A look is due at each heartbeat; one may take a while, where several calls to a server end by their time-outs."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """Something waited for. ``within_s`` is far more than it can take if all is well."""

    what: str
    began_at: float
    within_s: float
    instead_of_looks: bool


@dataclass(slots=True)
class Vitals:
    """Of one worker. All instants are of its monotonic clock, in seconds."""

    _looked_at: float | None = None
    _steps: set[Step] = field(default_factory=set)

    def looked(self, at: float) -> None:
        """A look at the fleet begins."""
        self._looked_at = at

    @contextmanager
    def step(self, what: str, began_at: float, within_s: float, instead_of_looks: bool = False) -> Iterator[None]:
        """Surrounds something that is waited for. ``instead_of_looks``: the worker does not look meanwhile."""
        step = Step(what, began_at, within_s, instead_of_looks)
        self._steps.add(step)
        try:
            yield
        finally:
            self._steps.discard(step)

    def stuck(self, now: float, heartbeat_s: float) -> str:
        """Why the worker should be started again; empty where it gets on."""
        for step in self._steps:
            took_s = now - step.began_at
            if took_s > step.within_s:
                return f"{step.what} has taken {took_s:.0f} s and should have ended within {step.within_s:.0f} s"
        if self._looked_at is None or any(step.instead_of_looks for step in self._steps):
            return ""
        silent_s, within_s = now - self._looked_at, LOOK_WITHIN_BEATS * heartbeat_s
        return f"no look at the fleet for {silent_s:.0f} s, one is due every {heartbeat_s:g} s" * (silent_s > within_s)
