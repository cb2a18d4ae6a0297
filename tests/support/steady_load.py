"""Clients that send jobs at a steady pace whatever happens, and the reckoning of what has become of each job."""

import itertools
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import httpx

from tests.support.system import System, until

CLIENTS = 8
"""Each waits for one answer at a time; so many that a slow answer does not slow the pace."""

GIVE_UP_S = 60.0
PER_SECOND = 30.0
OVER = frozenset({"succeeded", "failed", "cancelled", "expired"})

MODELS = ("m", "n")
CATALOGUE = "".join(
    f"""
[[model]]
name = "{name}"
runtime = "synthetic"
vram_gib = 2
max_batch = 4
options = {{ load_s = 0.1, exec_s = 0.01, echo = true }}
"""
    for name in MODELS
)
"""Models that return their input."""


@dataclass(frozen=True, slots=True)
class Reckoning:
    """What was accepted and ended, and how: ``finished_at`` are epoch seconds, in order; ``wrong`` names the jobs that
    have not succeeded with their own input as result; ``starts`` and ``ends`` are counted by the event stream.
    """

    finished_at: Sequence[float]
    wrong: Sequence[str]
    starts: Counter[str]
    ends: Counter[str]

    @property
    def rerun(self) -> int:
        """Starts beyond the first of each job."""
        return sum(self.starts.values()) - len(self.starts)

    def rate(self, begin: float, end: float) -> float:
        """Ends a second in that time."""
        return sum(begin <= at < end for at in self.finished_at) / (end - begin)

    def back_after_s(self, fault_at: float, usual: float) -> float:
        """Seconds from the fault until the first of the seconds in which 80 % of the usual rate was reached again;
        infinite where it was not.

        It is looked for after the longest gap between two ends: what was under way may end just after the fault.
        """
        after = [fault_at, *(at for at in self.finished_at if at >= fault_at)]
        _, gap_end = max(itertools.pairwise(after), key=lambda pair: pair[1] - pair[0])
        again = (at for at in after if at >= gap_end and self.rate(at, at + 1.0) >= 0.8 * usual)
        return next(again, math.inf) - fault_at


class SteadyLoad:
    """A context manager: ``per_second`` jobs in all while it is open; on exit every job that was begun is accepted.

    ``accepted`` are the inputs of accepted jobs by id, ``refusals`` the answers that were not an acceptance.
    """

    def __init__(self, system: System, per_second: float) -> None:
        self._system = system
        self._pause_s = CLIENTS / per_second
        self._over = threading.Event()
        self._clients = [threading.Thread(target=self._send, args=(number,)) for number in range(CLIENTS)]
        self.accepted: dict[str, dict[str, object]] = {}
        self.refusals: Counter[str] = Counter()
        self.never: list[str] = []

    def __enter__(self) -> Self:
        for client in self._clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for client in self._clients:
            client.join()

    def reckon(self, within_s: float = 60.0) -> Reckoning:
        """Wait until every accepted job is over; fails naming those that are not, or that the system does not know."""
        jobs = {}
        for job_id in self.accepted:
            jobs[job_id] = self._system.ended(job_id, within_s)
        ends = [event for event in self._system.events("job.settled") if event["job"] in jobs]
        return Reckoning(
            finished_at=sorted(float(event["at"]) for event in ends),
            wrong=[
                job_id
                for job_id, value in self.accepted.items()
                if (jobs[job_id]["state"], jobs[job_id]["result"]) != ("succeeded", value)
            ],
            starts=Counter(event["job"] for event in self._system.events("job.started") if event["job"] in jobs),
            ends=Counter(event["job"] for event in ends),
        )

    def _send(self, client: int) -> None:
        with httpx.Client(base_url=self._system.http.base_url, timeout=20.0) as http:
            for number in itertools.count():
                if self._over.wait(self._pause_s):
                    return
                self._insist(http, f"{client}-{number}", MODELS[number % len(MODELS)])

    def _insist(self, http: httpx.Client, job_id: str, model: str) -> None:
        """Send under the same id until it is accepted, as every client should."""
        value: dict[str, object] = {"job": job_id}
        give_up_at = time.monotonic() + GIVE_UP_S
        while time.monotonic() < give_up_at:
            try:
                answer = http.post("/jobs", json={"id": job_id, "model": model, "input": value})
            except httpx.HTTPError as error:
                self.refusals[type(error).__name__] += 1
            else:
                if answer.status_code in {200, 202}:
                    self.accepted[job_id] = value
                    return
                self.refusals[str(answer.status_code)] += 1
            time.sleep(0.1)  # Somebody who is told to come again does not come at once.
        self.never.append(job_id)


def goes_on(system: System, kill: Callable[[], None], before_s: float, back_within_s: float, what: str) -> None:
    """Jobs flow for ``before_s``, then ``kill`` is called: fails where a job is lost, ends twice or wrongly, or where
    the usual rate is not back in time. Says what it has seen.
    """
    with SteadyLoad(system, PER_SECOND) as load:
        time.sleep(before_s)
        kill()
        killed_at, enough = time.time(), 3 * len(load.accepted)
        until(lambda: len(load.accepted) > enough, "jobs are accepted again", 2 * back_within_s)
    reckoning = load.reckon()
    usual = reckoning.rate(killed_at - before_s + 1.0, killed_at)
    back_s = reckoning.back_after_s(killed_at, usual)
    print(
        f"{len(load.accepted)} jobs, {usual:.0f}/s before; {what} killed; back after {back_s:.1f} s; "
        f"{reckoning.rerun} ran again; not accepted at first: {dict(load.refusals)}"
    )
    assert not load.never
    assert not reckoning.wrong
    assert reckoning.ends == dict.fromkeys(load.accepted, 1), "each has ended once"
    assert back_s < back_within_s
