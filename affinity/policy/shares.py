"""Whose job is next: tenants share the GPUs' time by their weights, whatever models they use.

The rule is that of the least used account: of all lanes with waiting jobs, the one whose tenant has used least for its
share comes first. An account is charged after the fact with what a job really took, its part of the batch and the load
that it caused, so an estimate that is wrong, or a tenant whose jobs are long, takes nothing from the others. Accounts
fade, so that nobody pays for ever for a time when nobody else came. ``docs/decisions/0010`` has the reasons.
"""

from collections.abc import Iterable, Sequence

from affinity.fleet import Demand, Lane


def standing(lane: Lane) -> tuple[float, float, str]:
    """Orders lanes: least used for its share, then oldest job, then by name."""
    return (lane.used_s / lane.share, lane.oldest_at, lane.tenant)


def leading(demand: Iterable[Demand]) -> Demand | None:
    """The model with the lane whose turn it is; ``None`` while no tenant's job waits."""
    of_lanes = [(standing(lane), each.model, each) for each in demand for lane in each.lanes if lane.queued]
    return min(of_lanes, key=lambda one: one[:2])[2] if of_lanes else None


def fill(lanes: Sequence[Lane], most: int, slot_s: float) -> list[tuple[str, int]]:
    """How many jobs of each tenant make a batch of at most ``most``, in the order in which they are to be fetched.

    ``slot_s`` is what one job is expected to cost (seconds): slot by slot, whoever has used least is next, counting
    what this batch has given already. No more of a lane than there are.
    """
    used = {lane.tenant: lane.used_s / lane.share for lane in lanes}
    left = {lane.tenant: lane.queued for lane in lanes}
    taken: dict[str, int] = {}
    for _ in range(most):
        waiting = [lane for lane in lanes if left[lane.tenant] > 0]
        if not waiting:
            break
        lane = min(waiting, key=lambda one: (used[one.tenant], one.oldest_at, one.tenant))
        taken[lane.tenant] = taken.get(lane.tenant, 0) + 1
        left[lane.tenant] -= 1
        used[lane.tenant] += slot_s / lane.share
    return list(taken.items())


def cause(demand: Iterable[Demand], model: str) -> str | None:
    """Whose job a load of that model is for: the tenant's (empty: nobody's) whose job waits longest.

    ``None`` where nobody is charged: no tenant's job waits, or none of this model.
    """
    lanes = next((each.lanes for each in demand if each.model == model), ())
    first = min(lanes, key=lambda lane: (lane.oldest_at, not lane.tenant, lane.tenant), default=None)
    return first.tenant if first else None
