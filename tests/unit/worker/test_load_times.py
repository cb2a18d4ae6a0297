"""Load times that vary tenfold: what is believed of them stays within what was observed (20th to 90th percentile)."""

from random import Random

import pytest

from affinity.fleet import GIB
from models.catalog import Catalog
from models.entry import ModelEntry
from worker.host_cache import Tier
from worker.learning import RECENT_LOADS, Learning

HERE = "Fake 24 GiB"


@pytest.fixture
def learning() -> Learning:
    return Learning(Catalog([ModelEntry("m", "synthetic", vram_gib=4)]), HERE)


def believed(learning: Learning, *loads_s: float, tier: Tier = Tier.DISK) -> float:
    """What is believed after these loads."""
    for load_s in loads_s:
        learning.loaded("m", 4 * GIB, load_s, tier)
    known = learning.facts["m"].measured[HERE]
    return known.load_s if tier is Tier.DISK else known.reload_s or 0.0


@pytest.mark.parametrize("tier", list(Tier))
def test_one_load_that_took_ten_times_as_long_changes_nothing(learning: Learning, tier: Tier) -> None:
    assert believed(learning, *[3.0] * 12, tier=tier) == pytest.approx(3.0)
    assert believed(learning, 30.0, tier=tier) == pytest.approx(3.0)
    assert believed(learning, 3.0, tier=tier) == pytest.approx(3.0)


def test_one_load_that_took_a_tenth_changes_little(learning: Learning) -> None:
    assert believed(learning, *[30.0] * 12) == pytest.approx(30.0)
    assert believed(learning, 3.0) == pytest.approx(30.0)


def test_a_disk_that_became_ten_times_slower_is_noticed_within_a_few_loads(learning: Learning) -> None:
    believed(learning, *[3.0] * RECENT_LOADS)
    assert believed(learning, *[30.0] * 6) > 15.0
    assert believed(learning, *[30.0] * RECENT_LOADS) == pytest.approx(30.0, rel=0.05)


def test_the_tiers_do_not_mix(learning: Learning) -> None:
    for _ in range(10):
        believed(learning, 30.0)
        believed(learning, 3.0, tier=Tier.HOST)
    known = learning.facts["m"].measured[HERE]
    assert (known.load_s, known.reload_s) == (pytest.approx(30.0), pytest.approx(3.0))


@pytest.mark.parametrize("seed", range(5))
def test_whatever_comes_the_estimate_is_one_of_the_middle(learning: Learning, seed: int) -> None:
    """As loads are: 36 % near 2.9 s, the others ten times as long and spread widely."""
    random = Random(seed)
    loads_s: list[float] = []
    for _ in range(200):
        loads_s.append(2.9 if random.random() < 0.36 else 32.0 * random.lognormvariate(0.0, 0.5))
        recent = sorted(loads_s[-RECENT_LOADS:])
        low, high = recent[len(recent) // 5 - 1 if len(recent) >= 5 else 0], recent[-max(1, len(recent) // 10)]
        assert low <= believed(learning, loads_s[-1]) <= high


def test_what_others_measured_is_where_we_begin(learning: Learning) -> None:
    other = Learning(Catalog([ModelEntry("m", "synthetic", vram_gib=4)]), HERE)
    believed(other, 3.0)
    learning.adopt({("m", HERE): other.facts["m"].measured[HERE]})
    assert believed(learning, 30.0) < 10.0, "our first one was slow, theirs was not"
