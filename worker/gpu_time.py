"""What a GPU's time went into: running jobs, loading while nothing ran, or neither. Sums to the time that passed."""

EXEC, LOAD, IDLE = "exec", "load", "idle"


class GpuTime:
    """Seconds by use, from ``began`` on. Instants are of one monotonic clock."""

    def __init__(self, began: float) -> None:
        self._seconds = {EXEC: 0.0, LOAD: 0.0, IDLE: 0.0}
        self._since = began
        self._running = self._loading = False

    def running(self, yes: bool, now: float) -> None:
        """A batch has begun or is over."""
        self._settle(now)
        self._running = yes

    def loading(self, yes: bool, now: float) -> None:
        """A load has begun or is over."""
        self._settle(now)
        self._loading = yes

    def take(self, now: float) -> dict[str, float]:
        """Seconds by use since the last call."""
        self._settle(now)
        taken, self._seconds = self._seconds, dict.fromkeys(self._seconds, 0.0)
        return taken

    def _settle(self, now: float) -> None:
        use = EXEC if self._running else LOAD if self._loading else IDLE
        self._seconds[use] += now - self._since
        self._since = now
