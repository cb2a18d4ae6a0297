"""When jobs arrive, and which model each asks for: the random processes the workloads are made of."""

import math
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from random import Random
from statistics import NormalDist
from types import MappingProxyType

HOUR_S, DAY_S = 3600.0, 86_400.0
PEAK_S, PEAK_LEAST, PEAK_MOST = 300.0, 4.0, 9.0
"""Each hour has one peak of that length, somewhere, at 4 to 9 times the mean rate."""

TOP = 20
"""Popularity drifts in and out of the so many most popular models."""

Arrivals = Callable[[float, int, Random], Iterator[float]]
"""``(rate per second, jobs, rng)`` to instants, ascending."""


def lognormal(mean: float, cv: float, rng: Random) -> float:
    """A lognormal draw of that mean and coefficient of variation (standard deviation over mean)."""
    return lognormal_quantile(mean, cv, 1 - rng.random()) if cv else mean


def lognormal_quantile(mean: float, cv: float, share: float) -> float:
    """What that share (above 0, at most 1) of such draws does not exceed."""
    sigma2 = math.log(1 + cv * cv)
    deviations = NormalDist().inv_cdf(min(share, 1 - 1e-12))
    return math.exp(math.log(mean) - sigma2 / 2 + math.sqrt(sigma2) * deviations)


def gamma(cv: float) -> Arrivals:
    """Independent gaps of that coefficient of variation; 1 is Poisson, more comes in bursts."""

    def arrive(rate: float, jobs: int, rng: Random) -> Iterator[float]:
        shape = 1 / (cv * cv)
        at = 0.0
        for _ in range(jobs):
            at += rng.gammavariate(shape, 1 / (rate * shape))
            yield round(at, 6)

    return arrive


def peaks(rate: float, jobs: int, rng: Random) -> Iterator[float]:
    """Poisson, with one peak an hour; the mean over each hour is ``rate``."""
    made, hour = 0, 0
    while made < jobs:
        factor = rng.uniform(PEAK_LEAST, PEAK_MOST)
        begin = hour * HOUR_S + rng.uniform(0, HOUR_S - PEAK_S)
        end = begin + PEAK_S
        calm = rate * (HOUR_S - factor * PEAK_S) / (HOUR_S - PEAK_S)
        spans = ((hour * HOUR_S, begin, calm), (begin, end, factor * rate), (end, (hour + 1) * HOUR_S, calm))
        for start, until, here in spans:
            at = start + rng.expovariate(here)
            while at < until and made < jobs:
                yield round(at, 6)
                made += 1
                at += rng.expovariate(here)
        hour += 1


def interleaved(rate: float, jobs: int, rng: Random) -> Iterator[float]:
    """Evenly spaced."""
    del rng
    return (round(number / rate, 6) for number in range(jobs))


ARRIVALS: Mapping[str, Arrivals] = MappingProxyType(
    {
        "poisson": gamma(1.0),
        "gamma-cv3": gamma(3.0),
        "gamma-cv10": gamma(10.0),
        "peaks": peaks,
        "interleaved": interleaved,
    }
)


class Sampler:
    """Draws models: the n-th has weight ``n ** -zipf``, and places change as time goes by. With ``zipf`` 0, in turn."""

    def __init__(self, names: list[str], zipf: float, drift_per_day: float, rng: Random) -> None:
        self._places = list(names)
        self._sums = list(accumulate((place + 1) ** -zipf for place in range(len(names))))
        self._in_turn = zipf == 0
        self._drawn = 0
        self._rng = rng
        self._swaps_per_s = drift_per_day * min(TOP, len(names)) / DAY_S if len(names) > TOP else 0.0
        self._next_swap_at = self._gap()

    def draw(self, at: float) -> str:
        """The model a job that arrives ``at`` (never earlier than the last one) asks for."""
        while self._next_swap_at <= at:
            inside, outside = self._rng.randrange(TOP), self._rng.randrange(TOP, len(self._places))
            self._places[inside], self._places[outside] = self._places[outside], self._places[inside]
            self._next_swap_at += self._gap()
        if self._in_turn:
            self._drawn += 1
            return self._places[(self._drawn - 1) % len(self._places)]
        return self._places[bisect(self._sums, self._rng.random() * self._sums[-1])]

    def _gap(self) -> float:
        return self._rng.expovariate(self._swaps_per_s) if self._swaps_per_s else math.inf
