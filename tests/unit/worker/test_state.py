"""What a worker knows of its GPU, step by step."""

from dataclasses import replace

import pytest

from affinity.errors import InvariantBroken, OutOfVram
from affinity.fleet import GIB, Gpu, ResidencyState
from affinity.policy import Load
from worker.services import Identity
from worker.state import HOPELESS_AFTER, REFUSE_HOPELESS_S, REFUSE_TRANSIENT_S, GpuState

NOW = 1_700_000_000.0
GPU = Gpu("GPU-1", 0, "Fake", 10 * GIB, reserve_bytes=GIB)


@pytest.fixture
def state() -> GpuState:
    return GpuState(Identity("w1", "node", 7, "http://127.0.0.1:8000/metrics"), GPU, lease_s=10.0)


def load(model: str = "m", gib: int = 4) -> Load:
    return Load("w1", model, gib * GIB, (), 0, "nobody holds it")


def resident(state: GpuState, model: str = "m", gib: int = 4) -> None:
    """Bring a model in."""
    state.loading(load(model, gib), pinned=False, now=NOW)
    state.loaded(model, gib * GIB, NOW + 1)


def test_a_model_is_loading_then_ready_with_what_it_really_took(state: GpuState) -> None:
    state.loading(load(), pinned=True, now=NOW)
    assert not state.ready("m")
    assert state.residents["m"].state is ResidencyState.LOADING
    state.loaded("m", 5 * GIB, NOW + 3)
    assert state.ready_models() == ("m",)
    one = state.residents["m"]
    assert (one.footprint_bytes, one.loaded_at, one.last_used_at, one.pinned) == (5 * GIB, NOW + 3, NOW + 3, True)
    assert state.ledger.free_bytes == 4 * GIB


def test_a_load_that_does_not_fit_leaves_everything_as_it_was(state: GpuState) -> None:
    resident(state, gib=6)
    with pytest.raises(OutOfVram, match="n takes"):
        state.loading(load("n", 4), pinned=False, now=NOW)
    assert state.ready_models() == ("m",)
    assert state.ledger.free_bytes == 3 * GIB


def test_memory_of_other_processes_is_not_ours_to_fill(state: GpuState) -> None:
    state.observe(replace(GPU, used_bytes=6 * GIB, foreign_bytes=6 * GIB))
    with pytest.raises(OutOfVram, match=f"and {3 * GIB} are free"):
        state.loading(load(gib=4), pinned=False, now=NOW)
    state.observe(GPU)
    state.loading(load(gib=4), pinned=False, now=NOW)


def test_other_processes_may_take_what_we_hold_and_then_nothing_more_is_admitted(state: GpuState) -> None:
    resident(state, gib=8)
    state.observe(replace(GPU, foreign_bytes=5 * GIB))
    assert state.ledger.free_bytes == -4 * GIB
    with pytest.raises(OutOfVram, match="and 0 are free"):
        state.loading(load("n", 1), pinned=False, now=NOW)


def test_a_victim_counts_until_it_is_gone_and_takes_no_new_work(state: GpuState) -> None:
    resident(state)
    state.drain_victims(["m"])
    assert state.ready_models() == ()
    assert state.ledger.held == {"m": 4 * GIB}
    assert state.report(NOW).holds("m") is None
    state.evicted("m")
    assert not state.residents
    assert state.ledger.free_bytes == 9 * GIB


def test_what_runs_is_never_drained(state: GpuState) -> None:
    resident(state)
    state.started("m", 2, NOW + 5)
    assert state.report(NOW + 5).busy
    with pytest.raises(InvariantBroken, match="m runs"):
        state.drain_victims(["m"])
    state.ran("m", 0.5, NOW + 9)
    assert (state.residents["m"].running, state.residents["m"].last_used_at) == (0, NOW + 9)
    state.drain_victims(["m"])


def test_a_first_batch_may_grow_what_a_model_holds(state: GpuState) -> None:
    resident(state)
    state.measured("m", 6 * GIB)
    assert state.residents["m"].footprint_bytes == state.ledger.held["m"] == 6 * GIB


def test_a_dead_executor_takes_every_model_with_it(state: GpuState) -> None:
    resident(state, "n", 2)
    resident(state, "m", 2)
    state.started("n", 1, NOW)
    assert state.emptied() == ("m", "n")
    state.ran("n", 0.5, NOW)
    assert not state.residents
    assert state.ledger.free_bytes == 9 * GIB


def test_refusals_get_longer_and_the_third_in_a_row_is_hopeless(state: GpuState) -> None:
    made = [state.refuse("m", "load_timeout", "too slow", hopeless=False, now=NOW) for _ in range(HOPELESS_AFTER)]
    assert [r.failures for r in made] == [1, 2, 3]
    assert [r.hopeless for r in made] == [False, False, True]
    pauses = [r.until - NOW for r in made]
    assert pauses == [REFUSE_TRANSIENT_S, 2 * REFUSE_TRANSIENT_S, REFUSE_HOPELESS_S]
    assert state.report(NOW).refuses("m", NOW) == made[-1]


def test_damaged_weights_are_hopeless_at_once(state: GpuState) -> None:
    refusal = state.refuse("m", "load_failed", "truncated", hopeless=True, now=NOW)
    assert refusal.hopeless
    assert refusal.until == NOW + REFUSE_HOPELESS_S


def test_a_refusal_that_is_over_is_not_reported_and_a_load_that_works_ends_the_row(state: GpuState) -> None:
    state.refuse("m", "load_timeout", "too slow", hopeless=False, now=NOW)
    assert state.report(NOW + REFUSE_TRANSIENT_S).refusals == ()
    resident(state)
    assert state.refuse("m", "load_timeout", "too slow", hopeless=False, now=NOW).failures == 1


def test_every_report_is_newer_than_the_last_and_names_its_worker(state: GpuState) -> None:
    resident(state, "n", 2)
    resident(state, "m", 2)
    first, second = state.report(NOW), state.report(NOW)
    assert (first.epoch, first.sequence, second.sequence) == (7, 1, 2)
    assert (first.worker, first.node, first.lease_s) == ("w1", "node", 10.0)
    assert first.metrics_url == "http://127.0.0.1:8000/metrics"
    assert [r.model for r in first.residents] == ["m", "n"]
    state.draining = True
    assert state.report(NOW).draining


def test_a_report_does_not_change_with_the_state_it_was_made_of(state: GpuState) -> None:
    resident(state)
    report = state.report(NOW)
    state.emptied()
    assert report.holds("m") is not None
