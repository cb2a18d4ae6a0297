"""Views as bad input makes them: instants by clocks that are wrong, memory that others took from our residents."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from affinity.fleet import Demand, FleetView, Residency, WorkerReport
from affinity.policy import GiveUp, Load, Plan, Wait, plan
from tests.support.policy_scenes import NOW, Scene, ledger_of, scenes

skews = st.sampled_from([-86_400.0, -300.0, 0.0, 300.0, 86_400.0])


def shifted(worker: WorkerReport, skew_s: float) -> WorkerReport:
    """The report of a worker whose clock is wrong by so much."""

    def moved(resident: Residency) -> Residency:
        return replace(resident, loaded_at=resident.loaded_at + skew_s, last_used_at=resident.last_used_at + skew_s)

    return replace(
        worker,
        as_of=worker.as_of + skew_s,
        residents=tuple(moved(r) for r in worker.residents),
        refusals=tuple(replace(r, until=r.until + skew_s) for r in worker.refusals),
    )


@st.composite
def skewed(draw: st.DrawFn) -> Scene:
    """Every worker, and every producer of jobs, on a machine of its own time."""
    fleet, demand, known = draw(scenes())
    reports = [shifted(worker, draw(skews)) for worker in fleet.workers.values()]
    return FleetView.of(reports, fleet.claims), [_produced(d, draw(skews)) for d in demand], known


def _produced(demand: Demand, skew_s: float) -> Demand:
    later = demand.summed_arrival_s + demand.queued * skew_s
    return replace(demand, oldest_at=demand.oldest_at + skew_s, summed_arrival_s=later)


def said(made: Plan) -> list[str]:
    return [d.error.message if isinstance(d, GiveUp) else d.reason for d in made.decisions]


@given(skewed())
def test_whatever_the_clocks_a_plan_wakes_nobody_in_the_past_and_says_no_negative_wait(scene: Scene) -> None:
    """Else a worker that sleeps until ``wake_at`` would spin."""
    made = plan(*scene, NOW)
    assert made.wake_at is None or made.wake_at > NOW
    assert not any("waited -" in reason or "wait -" in reason for reason in said(made))
    for decision in made.decisions:
        assert not (isinstance(decision, Wait) and decision.until is not None and decision.until <= NOW)


@given(skewed())
def test_whatever_the_clocks_loads_fit_and_their_victims_are_idle(scene: Scene) -> None:
    """L1 and L2 hang on no instant."""
    for load in (d for d in plan(*scene, NOW).decisions if isinstance(d, Load)):
        worker = scene[0].workers[load.worker]
        ledger = ledger_of(worker)
        for victim in load.victims:
            resident = worker.holds(victim)
            assert resident is not None
            assert not resident.running
            assert not resident.pinned
            ledger = ledger.release(victim)
        assert ledger.admit(load.model, load.footprint_bytes).free_bytes >= 0


@given(scenes(), st.integers(0, 24), st.integers(0, 24))
def test_a_load_makes_up_for_what_others_took(scene: Scene, foreign: int, unreturned: int) -> None:
    """L1 with a ledger that is short already: the victims free what is missing, or nothing is loaded there."""
    fleet, demand, known = scene
    reports = [
        replace(w, gpu=replace(w.gpu, foreign_bytes=foreign, unreturned_bytes=unreturned))
        for w in fleet.workers.values()
    ]
    crowded = FleetView.of(reports, fleet.claims)
    for load in (d for d in plan(crowded, demand, known, NOW).decisions if isinstance(d, Load)):
        ledger = ledger_of(crowded.workers[load.worker])
        freed = sum(ledger.held[victim] for victim in load.victims)
        assert load.footprint_bytes <= ledger.free_bytes + freed
        assert (
            ledger.capacity_bytes <= crowded.workers[load.worker].gpu.usable_bytes - foreign
            or not ledger.capacity_bytes
        )
