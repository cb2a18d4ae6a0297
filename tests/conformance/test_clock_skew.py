"""Leases and claims run on the store's clock: what a worker believes to be the time changes nothing about them."""

from dataclasses import replace

import pytest

from affinity.fleet import Refusal
from tests.support.job_samples import a_report, later
from tests.support.stores import Stores

SKEWS_S = [-86_400.0, -300.0, 300.0, 86_400.0]


@pytest.mark.parametrize("skew_s", SKEWS_S)
async def test_a_worker_whose_clock_is_off_lives_as_long_as_its_lease(stores: Stores, skew_s: float) -> None:
    off = replace(a_report("off"), as_of=stores.clock.now() + skew_s)
    right = replace(a_report("right"), as_of=stores.clock.now())
    for report in (off, right):
        assert await stores.fleet.report(report)
    sighting = await stores.fleet.sighting()
    assert (dict(sighting.view.workers), sighting.lost) == ({"off": off, "right": right}, ())
    await stores.expire("lease", "off")
    assert (await stores.fleet.sighting()).lost == (off,)


@pytest.mark.parametrize("skew_s", SKEWS_S)
async def test_a_report_after_the_clock_was_set_back_is_newer_all_the_same(stores: Stores, skew_s: float) -> None:
    first = replace(a_report("w1"), as_of=stores.clock.now())
    second = replace(later(first), as_of=first.as_of + skew_s, refusals=(Refusal("m", first.as_of, "x", "y"),))
    assert await stores.fleet.report(first)
    assert await stores.fleet.report(second)
    assert dict((await stores.fleet.sighting()).view.workers) == {"w1": second}
