"""The system's clock behind the ``Clock`` port."""

import time


class SystemClock:
    """Wall clock for instants that are shown or compared across machines, monotonic clock for durations."""

    def now(self) -> float:
        """Epoch seconds."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds from an arbitrary start."""
        return time.monotonic()
