"""Rows of a report: how to read a measure out of them, and means over seeds."""

from collections.abc import Iterable, Sequence
from math import isnan, nan

from bench.measures import Measures


def number(row: Measures, measure: str) -> float:
    """A measure of a row; not a number where there is none."""
    value = row.get(measure)
    return float(value) if isinstance(value, int | float) else nan


def mean_of(rows: Iterable[Measures], measure: str) -> float:
    """Mean over rows; not a number without any."""
    values = [number(row, measure) for row in rows]
    return sum(values) / len(values) if values else nan


def in_bounds(row: Measures) -> float:
    """Mean latency over its lower bound."""
    return number(row, "mean_s") / number(row, "lower_bound_mean_s")


def place(row: Measures) -> tuple[str, str, float, int]:
    """Where it ran: workload, arrivals, utilisation, workers. Rows of one place differ in policy and seed."""
    return str(row["workload"]), str(row["arrivals"]), number(row, "utilisation"), round(number(row, "workers"))


def places(rows: Iterable[Measures]) -> list[tuple[str, str, float, int]]:
    """All places, in order, each once."""
    return list(dict.fromkeys(place(row) for row in rows))


def good(rows: Iterable[Measures]) -> list[Measures]:
    """Those that came to an end."""
    return [row for row in rows if "fault" not in row]


def policies(rows: Iterable[Measures]) -> list[str]:
    """All policies, in order, each once."""
    return list(dict.fromkeys(str(row["policy"]) for row in rows))


def cell(value: object) -> str:
    """A value as a person reads it."""
    if value is None or (isinstance(value, float) and isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def identity(row: Measures) -> Sequence[str]:
    """What tells a row from the others but for the seed."""
    return [str(row[name]) for name in ("workload", "arrivals", "utilisation", "workers", "policy")]
