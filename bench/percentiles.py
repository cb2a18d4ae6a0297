"""Percentiles of measured times, by the nearest-rank rule: each is a time that was really measured."""

import math
from collections.abc import Sequence


def percentile(sorted_values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` (0 to 100) of the ascending values do not exceed.

    ``ValueError`` where there are none.
    """
    if not sorted_values:
        raise ValueError("no values, so no percentile")
    rank = math.ceil(percent / 100 * len(sorted_values))
    return sorted_values[max(rank, 1) - 1]
