"""What a worker learns of models, what it tells, and what it takes over from others."""

import pytest

from affinity.fleet import GIB, Measurement
from affinity.policy.facts import LOAD_BANDWIDTH_BYTES_S, UNKNOWN_EXEC_S, UNKNOWN_FOOTPRINT_BYTES
from models.catalog import Catalog
from models.entry import ModelEntry
from tests.support.clock import FakeClock
from tests.support.fake_stores import FakeStores
from worker.host_cache import Tier
from worker.learning import DID_NOT_FIT_MORE, EWMA_WEIGHT, OUT_OF_VRAM_GROWTH, Learning

HERE = "Fake 24 GiB"
CATALOG = Catalog([ModelEntry("m", "synthetic", vram_gib=4, max_batch=8), ModelEntry("unknown", "synthetic")])


@pytest.fixture
def learning() -> Learning:
    return Learning(CATALOG, HERE)


def known(learning: Learning, model: str = "m") -> Measurement:
    return learning.facts[model].measured[HERE]


def test_before_anything_was_measured_the_catalogue_counts(learning: Learning) -> None:
    declared = learning.facts["m"].declared
    assert declared == Measurement(4 * GIB, 4 * GIB / LOAD_BANDWIDTH_BYTES_S, UNKNOWN_EXEC_S)
    assert (learning.facts["m"].max_batch, learning.facts["m"].measured) == (8, {})
    assert learning.facts["unknown"].declared.footprint_bytes == UNKNOWN_FOOTPRINT_BYTES
    assert learning.untold() == {}


def test_the_first_load_counts_as_it_is_and_later_ones_are_averaged(learning: Learning) -> None:
    learning.loaded("m", 5 * GIB, 10.0, Tier.DISK)
    assert known(learning) == Measurement(5 * GIB, 10.0, UNKNOWN_EXEC_S)
    learning.loaded("m", 6 * GIB, 20.0, Tier.DISK)
    assert known(learning).footprint_bytes == 6 * GIB
    assert known(learning).load_s == pytest.approx(10.0 + EWMA_WEIGHT * 10.0)
    assert learning.untold() == {"m": known(learning)}


def test_a_batch_that_grew_the_model_is_news(learning: Learning) -> None:
    learning.loaded("m", 5 * GIB, 10.0, Tier.DISK)
    learning.told("m", known(learning))
    learning.ran("m", UNKNOWN_EXEC_S, 7 * GIB)
    assert learning.untold()["m"].footprint_bytes == 7 * GIB


def test_a_time_like_the_one_before_is_no_news(learning: Learning) -> None:
    learning.loaded("m", 5 * GIB, 10.0, Tier.DISK)
    learning.told("m", known(learning))
    learning.ran("m", UNKNOWN_EXEC_S * 1.05, 5 * GIB)
    assert learning.untold() == {}


def test_a_footprint_that_was_too_small_grows_and_is_told(learning: Learning) -> None:
    learning.out_of_vram("m", 0, 24 * GIB)
    assert known(learning).footprint_bytes == int(4 * GIB * OUT_OF_VRAM_GROWTH)
    learning.out_of_vram("m", 7 * GIB, 24 * GIB)
    assert known(learning).footprint_bytes == int(12 * GIB * DID_NOT_FIT_MORE), "what was free was not enough"
    assert "m" in learning.untold()


def test_a_model_whose_jobs_are_too_large_is_never_taken_for_larger_than_the_gpu(learning: Learning) -> None:
    for _ in range(20):
        learning.out_of_vram("m", -GIB, 24 * GIB)
    assert known(learning).footprint_bytes == 24 * GIB
    learning.out_of_vram("m", 0, 20 * GIB)
    assert known(learning).footprint_bytes == 24 * GIB, "nor smaller than it was"


def test_loads_from_disk_and_from_the_host_are_learned_apart(learning: Learning) -> None:
    learning.loaded("m", 4 * GIB, 10.0, Tier.DISK)
    assert known(learning).reload_s is None
    learning.loaded("m", 4 * GIB, 1.0, Tier.HOST)
    assert (known(learning).load_s, known(learning).reload_s) == (10.0, 1.0)
    learning.loaded("m", 4 * GIB, 2.0, Tier.HOST)
    assert known(learning).reload_s == pytest.approx(1.0 + EWMA_WEIGHT)
    learning.loaded("m", 4 * GIB, 20.0, Tier.DISK)
    assert known(learning).load_s == pytest.approx(10.0 + EWMA_WEIGHT * 10.0)
    assert known(learning).reload_s == pytest.approx(1.0 + EWMA_WEIGHT)


def test_the_first_load_from_the_host_is_news_and_one_like_it_is_not(learning: Learning) -> None:
    learning.loaded("m", 4 * GIB, 10.0, Tier.DISK)
    learning.told("m", known(learning))
    learning.loaded("m", 4 * GIB, 1.0, Tier.HOST)
    assert learning.untold()["m"].reload_s == 1.0
    learning.told("m", known(learning))
    learning.loaded("m", 4 * GIB, 1.05, Tier.HOST)
    assert learning.untold() == {}


def test_others_loads_from_the_host_are_taken_over_where_we_had_none(learning: Learning) -> None:
    learning.loaded("m", 4 * GIB, 10.0, Tier.DISK)
    learning.adopt({("m", HERE): Measurement(5 * GIB, 30.0, 1.0, reload_s=3.0)})
    assert known(learning) == Measurement(4 * GIB, 10.0, UNKNOWN_EXEC_S, reload_s=3.0)
    learning.loaded("m", 4 * GIB, 1.0, Tier.HOST)
    ours = known(learning).reload_s
    assert ours == pytest.approx(3.0 - EWMA_WEIGHT * 2.0)
    learning.adopt({("m", HERE): Measurement(5 * GIB, 30.0, 1.0, reload_s=7.0)})
    assert known(learning).reload_s == ours


def test_what_a_model_was_seen_to_need_while_it_ran_is_not_forgotten_when_it_is_loaded_again(
    learning: Learning,
) -> None:
    learning.loaded("m", 4 * GIB, 10.0, Tier.DISK)
    learning.ran("m", 1.0, 6 * GIB)
    learning.loaded("m", 4 * GIB, 1.0, Tier.HOST)
    assert learning.footprint_bytes("m") == 6 * GIB
    learning.ran("m", 1.0, 5 * GIB)
    assert learning.footprint_bytes("m") == 5 * GIB, "its batches show what it is"


async def test_an_exchange_takes_over_before_it_tells_so_that_nothing_known_is_lost(learning: Learning) -> None:
    stores = FakeStores(FakeClock())
    other = Learning(CATALOG, HERE)
    other.loaded("m", 4 * GIB, 10.0, Tier.DISK)
    other.loaded("m", 4 * GIB, 1.0, Tier.HOST)
    await other.exchange(stores.fleet)
    learning.loaded("m", 5 * GIB, 10.0, Tier.DISK)
    await learning.exchange(stores.fleet)
    assert known(learning).reload_s == 1.0
    assert (await stores.fleet.learned())["m", HERE] == Measurement(5 * GIB, 10.0, UNKNOWN_EXEC_S, reload_s=1.0)
    assert learning.untold() == {}


def test_what_others_measured_is_taken_over_but_not_in_place_of_what_we_measured(learning: Learning) -> None:
    theirs, elsewhere = Measurement(9 * GIB, 1.0, 1.0), Measurement(3 * GIB, 2.0, 2.0)
    learning.loaded("m", 5 * GIB, 10.0, Tier.DISK)
    learning.adopt({("m", HERE): theirs, ("m", "other type"): elsewhere, ("unknown", HERE): theirs})
    assert known(learning).footprint_bytes == 5 * GIB
    assert learning.facts["m"].measured["other type"] == elsewhere
    assert known(learning, "unknown") == theirs
    learning.told("m", known(learning))
    learning.adopt({("m", HERE): theirs})
    assert known(learning).footprint_bytes == 5 * GIB


def test_what_was_measured_of_a_model_no_longer_in_the_catalogue_is_ignored(learning: Learning) -> None:
    learning.adopt({("gone", HERE): Measurement(GIB, 1.0, 1.0)})
    assert set(learning.facts) == {"m", "unknown"}


def test_a_model_that_became_slower_is_noticed_also_if_it_runs_less_often_than_we_exchange(learning: Learning) -> None:
    learning.loaded("m", 5 * GIB, 10.0, Tier.DISK)
    learning.ran("m", 1.0, 5 * GIB)
    store: dict[tuple[str, str], Measurement] = {}
    for _ in range(100):
        for model, measurement in learning.untold().items():
            store[model, HERE] = measurement
            learning.told(model, measurement)
        learning.adopt(store)
        learning.ran("m", 1.4, 5 * GIB)
    assert known(learning).exec_s == pytest.approx(1.4, rel=0.1)
