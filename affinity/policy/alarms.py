"""When to think again though nothing happened: instants at which a rule could change its mind."""

from heapq import heappop, heappush

_MODEL, _WORKER = 0, 1
Subject = tuple[int, str]


class Alarms:
    """At most one instant (epoch seconds) for each model and each worker: the earliest one that was set."""

    def __init__(self) -> None:
        self._at: dict[Subject, float] = {}
        self._queue: list[tuple[float, Subject]] = []

    def for_model(self, at: float, model: str) -> None:
        """At that instant, decide about the model again, wherever it might go."""
        self._set(at, (_MODEL, model))

    def for_worker(self, at: float, worker: str) -> None:
        """At that instant, the worker may be able to make room."""
        self._set(at, (_WORKER, worker))

    def forget_model(self, model: str) -> None:
        """The model is decided about anew: what was set for it counts no more."""
        self._at.pop((_MODEL, model), None)

    def ring(self, now: float) -> tuple[set[str], set[str]]:
        """The models and the workers whose time has come. They ring no more."""
        rung: tuple[set[str], set[str]] = (set(), set())
        while (next_at := self.next_at) is not None and next_at <= now:
            kind, name = subject = heappop(self._queue)[1]
            del self._at[subject]
            rung[kind].add(name)
        return rung

    @property
    def next_at(self) -> float | None:
        """The earliest one."""
        while self._queue and self._at.get(self._queue[0][1]) != self._queue[0][0]:
            heappop(self._queue)  # Set anew or forgotten since.
        return self._queue[0][0] if self._queue else None

    def _set(self, at: float, subject: Subject) -> None:
        if at < self._at.get(subject, float("inf")):
            self._at[subject] = at
            heappush(self._queue, (at, subject))
