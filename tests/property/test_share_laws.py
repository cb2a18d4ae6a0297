"""Laws of the tenants' turns: nobody is passed over for ever, nobody gets more than there is, weights are kept."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from affinity.fleet import Demand, Lane
from affinity.policy.shares import cause, fill, leading, standing

TENANTS = ("", "a", "b", "c", "d")

lanes_of_a_model = st.lists(
    st.builds(
        Lane,
        tenant=st.sampled_from(TENANTS),
        queued=st.integers(0, 20),
        oldest_at=st.integers(0, 100).map(float),
        used_s=st.integers(0, 4000).map(lambda eighths: eighths / 8),
        share=st.sampled_from([0.5, 1.0, 1.0, 2.0, 3.0, 10.0]),
    ),
    max_size=len(TENANTS),
    unique_by=lambda lane: lane.tenant,
).map(tuple)
slots = st.sampled_from([0.0, 0.01, 1.0, 30.0])


def a_demand(model: str, lanes: tuple[Lane, ...]) -> Demand:
    return Demand(model, sum(lane.queued for lane in lanes), 0.0, 0.0, lanes=lanes)


@given(lanes_of_a_model, st.integers(0, 40), slots)
def test_a_batch_is_as_full_as_it_can_be_and_takes_no_more_of_a_lane_than_there_is(
    lanes: tuple[Lane, ...], most: int, slot_s: float
) -> None:
    taken = dict(fill(lanes, most, slot_s))
    assert sum(taken.values()) == min(most, sum(lane.queued for lane in lanes))
    assert all(0 < count <= next(one.queued for one in lanes if one.tenant == who) for who, count in taken.items())


@given(lanes_of_a_model, st.integers(1, 40), slots)
def test_the_first_place_is_that_of_the_lane_whose_turn_it_is(
    lanes: tuple[Lane, ...], most: int, slot_s: float
) -> None:
    waiting = [lane for lane in lanes if lane.queued]
    first = fill(lanes, most, slot_s)[:1]
    assert [who for who, _ in first] == [lane.tenant for lane in sorted(waiting, key=standing)[:1]]


@given(lanes_of_a_model, st.integers(1, 40), st.sampled_from([0.01, 1.0]))
def test_whoever_got_a_place_had_used_no_more_than_whoever_got_none(
    lanes: tuple[Lane, ...], most: int, slot_s: float
) -> None:
    taken = dict(fill(lanes, most, slot_s))
    for one in lanes:
        for other in lanes:
            if taken.get(one.tenant, 0) and other.queued > taken.get(other.tenant, 0):
                last = one.used_s + (taken[one.tenant] - 1) * slot_s
                reached = other.used_s + taken.get(other.tenant, 0) * slot_s
                assert last / one.share <= reached / other.share + 1e-9


@given(st.dictionaries(st.sampled_from(["m", "n", "o"]), lanes_of_a_model))
def test_the_model_is_one_with_the_lane_whose_turn_it_is_and_none_where_no_lane_waits(
    by_model: dict[str, tuple[Lane, ...]],
) -> None:
    demand = [a_demand(model, lanes) for model, lanes in by_model.items()]
    every = [standing(lane) for each in demand for lane in each.lanes if lane.queued]
    first = leading(demand)
    if first is None:
        assert not every
    else:
        assert min(every) in [standing(lane) for lane in first.lanes if lane.queued]


@given(
    st.lists(st.sampled_from([1.0, 2.0, 3.0, 5.0]), min_size=2, max_size=4),
    st.lists(st.sampled_from([0.05, 0.5, 1.0]), min_size=4, max_size=4),
    st.integers(1, 8),
    st.floats(0.0, 50.0),
)
def test_who_always_has_jobs_gets_time_by_weight_however_long_their_jobs_are(
    shares: list[float], lengths_s: list[float], most: int, load_s: float
) -> None:
    """One of them has caused a load, and is charged for it: the others are ahead of it by that until it is even."""
    lanes = [
        Lane(who, 1000, 0.0, load_s if place == 0 else 0.0, share)
        for place, (who, share) in enumerate(zip("abcd", shares, strict=False))
    ]
    length_s = dict(zip("abcd", lengths_s, strict=True))
    while min(lane.used_s / lane.share for lane in lanes) < 100.0:
        for who, count in fill(lanes, most, 0.5):
            lanes = [
                replace(lane, used_s=lane.used_s + count * length_s[who]) if lane.tenant == who else lane
                for lane in lanes
            ]
    standings = [lane.used_s / lane.share for lane in lanes]
    assert max(standings) - min(standings) <= 2 * most * max(lengths_s) + 1.0


@given(st.dictionaries(st.sampled_from(["m", "n"]), lanes_of_a_model, min_size=1))
def test_a_load_is_charged_to_whose_job_waits_longest_and_to_nobody_without_tenants(
    by_model: dict[str, tuple[Lane, ...]],
) -> None:
    demand = [a_demand(model, lanes) for model, lanes in by_model.items()]
    model, lanes = next(iter(by_model.items()))
    who = cause(demand, model)
    if not lanes:
        assert who is None
    else:
        assert min(lane.oldest_at for lane in lanes) == next(lane.oldest_at for lane in lanes if lane.tenant == who)
    assert cause(demand, "other") is None
