"""Work that is done in steps (``affinity.policy.eta.Steps``), driven by a test."""

from affinity.policy.eta import Steps, T


def through(steps: Steps[T], enough_after: int | None = None) -> T:
    """What it comes to. ``enough_after`` so many steps it is told, for good, that it is enough."""
    taken = 0
    try:
        next(steps)
        while True:
            taken += 1
            steps.send(enough_after is not None and taken >= enough_after)
    except StopIteration as end:
        found: T = end.value
        return found
