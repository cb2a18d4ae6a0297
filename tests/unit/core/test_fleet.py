"""What workers report, and what a view makes of it."""

from dataclasses import replace

import pytest

from affinity.fleet import (
    GIB,
    Demand,
    FleetView,
    Gpu,
    Measurement,
    ModelFacts,
    Refusal,
    Residency,
    ResidencyState,
)
from tests.support.job_samples import a_report, later

READY = Residency("m", ResidencyState.READY, GIB, loaded_at=1.0, last_used_at=2.0)
LOADING = replace(READY, state=ResidencyState.LOADING)
DRAINING = replace(READY, state=ResidencyState.DRAINING)


@pytest.mark.parametrize(
    ("used", "foreign", "reserve", "free", "usable", "capacity"),
    [
        (0, 0, 0, 10, 10, 10),
        (4, 1, 2, 6, 8, 7),
        (12, 0, 0, 0, 10, 10),
        (10, 10, 2, 0, 8, 0),
        (0, 0, 11, 10, 0, 0),
    ],
)
def test_a_gpus_memory_is_never_counted_below_nothing(
    used: int, foreign: int, reserve: int, free: int, usable: int, capacity: int
) -> None:
    gpu = Gpu("GPU-1", 0, "Fake", 10, used_bytes=used, foreign_bytes=foreign, reserve_bytes=reserve)
    assert (gpu.free_bytes, gpu.usable_bytes, gpu.capacity_bytes) == (free, usable, capacity)


@pytest.mark.parametrize(("resident", "held"), [(READY, True), (LOADING, True), (DRAINING, False)])
def test_a_worker_holds_what_is_ready_or_loading(resident: Residency, held: bool) -> None:
    report = replace(a_report(), residents=(resident,))
    assert (report.holds("m") == resident) is held
    assert report.holds("other") is None
    assert (report.loading == resident) is (resident is LOADING)
    assert FleetView.of([report]).holders("m") == ((report,) if held else ())


def test_a_worker_is_busy_while_any_resident_runs() -> None:
    assert not replace(a_report(), residents=(READY,)).busy
    working = replace(a_report(), residents=(READY, replace(READY, model="n", running=1)))
    assert working.busy
    assert working.at_rest == replace(working, residents=(READY, replace(READY, model="n")))


def test_a_refusal_is_over_at_its_instant() -> None:
    refusal = Refusal("m", until=10.0, code="load_failed", message="x")
    report = replace(a_report(), refusals=(refusal,))
    assert report.refuses("m", 9.9) == refusal
    assert report.refuses("m", 10.0) is None
    assert report.refuses("n", 0.0) is None


def test_of_two_reports_the_newer_counts_and_a_new_epoch_beats_any_sequence() -> None:
    old, new = a_report(epoch=1, sequence=9), a_report(epoch=2, sequence=1)
    for order in ([old, new], [new, old]):
        assert FleetView.of(order).workers["w1"] is new
    view = FleetView.of([new])
    assert view.with_report(old) == view
    assert view.with_report(later(new)).workers["w1"].sequence == 2


def test_a_view_keeps_its_claims_and_cannot_be_changed() -> None:
    claims = {"m": "w1"}
    view = FleetView.of([a_report()], claims)
    claims["n"] = "w2"
    assert dict(view.with_report(a_report("w2")).claims) == {"m": "w1"}
    with pytest.raises(TypeError):
        view.workers["w2"] = a_report("w2")  # type: ignore[index]


def test_holders_come_in_the_order_of_their_names() -> None:
    reports = [replace(a_report(name), residents=(READY,)) for name in ("w3", "w1", "w2")]
    assert [holder.worker for holder in FleetView.of(reports).holders("m")] == ["w1", "w2", "w3"]


def test_waits_are_exact_and_never_negative() -> None:
    demand = Demand("m", queued=3, oldest_at=100.0, summed_arrival_s=330.0)
    assert demand.summed_wait_s(120.0) == 30.0
    assert demand.oldest_wait_s(120.0) == 20.0
    assert demand.summed_wait_s(50.0) == demand.oldest_wait_s(50.0) == 0.0


def test_what_was_measured_on_this_type_of_gpu_counts_before_what_was_declared() -> None:
    declared, measured = Measurement(GIB, 1.0, 0.1), Measurement(2 * GIB, 2.0, 0.2)
    facts = ModelFacts("m", declared, measured={"Fake A": measured})
    assert facts.on(Gpu("GPU-1", 0, "Fake A", 10)) == measured
    assert facts.on(Gpu("GPU-2", 0, "Fake B", 10)) == declared
