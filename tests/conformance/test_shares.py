"""Whose jobs wait, and what each tenant has been charged, by every ``JobStore``; lanes, by every broker."""

from dataclasses import replace

import pytest

from affinity.fleet import Lane
from affinity.io.job_record import USED_TAU_S
from affinity.io.ports import Intake
from affinity.job import JobError, JobSpec, JobState
from affinity.topology import lane
from tests.support.broker_samples import CREATED_AT, BrokerWorld, Inbox, a_job, id_in
from tests.support.broker_worlds import ids_taken
from tests.support.job_samples import a_report, a_spec, an_attempt, an_outcome
from tests.support.stores import Stores

NOW = 1_700_000_000.5


def of(tenant: str, job_id: str, model: str = "m") -> JobSpec:
    return replace(a_spec(job_id, model), tenant=tenant)


async def lanes(stores: Stores) -> dict[str, list[tuple[str, int]]]:
    return {each.model: [(one.tenant, one.queued) for one in each.lanes] for each in await stores.jobs.demand()}


async def started(stores: Stores, *specs: JobSpec) -> list[str]:
    """Tokens of a batch of these."""
    await stores.fleet.report(a_report())
    attempts = [an_attempt(spec.id) for spec in specs]
    await stores.jobs.start([(a, spec, NOW) for a, spec in zip(attempts, specs, strict=True)], NOW + 1)
    return [attempt.token for attempt in attempts]


async def test_without_tenants_demand_has_no_lanes(stores: Stores):
    await stores.jobs.create(of("", "j1"), NOW)
    assert await lanes(stores) == {"m": []}


async def test_while_a_tenants_job_waits_all_demand_says_whose_it_is(stores: Stores):
    for tenant, job_id, model in (("", "j1", "m"), ("acme", "j2", "m"), ("acme", "j3", "m"), ("", "j4", "n")):
        await stores.jobs.create(of(tenant, job_id, model), NOW)
    assert await lanes(stores) == {"m": [("", 1), ("acme", 2)], "n": [("", 1)]}
    assert [each.queued for each in await stores.jobs.demand()] == [3, 1]

    await started(stores, of("acme", "j2"))
    await stores.jobs.cancel("j3", NOW)
    assert await lanes(stores) == {"m": [], "n": []}


async def test_a_job_that_waits_to_be_tried_again_is_nobodys_demand(stores: Stores):
    (token,) = await started(stores, spec := of("acme", "j1"))
    attempt = an_attempt(token=token)
    await stores.jobs.give_back(attempt, JobError("job_timeout", "too long"), True, NOW + 2, wait_s=1e9, gpu_s=2.5)
    assert spec.tenant == "acme"
    assert await lanes(stores) == {}
    assert await stores.jobs.gpu_seconds() == {"acme": 2.5}, "what came to nothing has cost as much"


async def test_an_outcome_is_charged_once_and_only_by_its_attempt(stores: Stores):
    (token,) = await started(stores, of("acme", "j1"))
    outcome = replace(an_outcome(), gpu_s=1.5)
    assert not await stores.jobs.finish(an_attempt(token="another"), outcome, NOW + 3)
    for _ in range(2):
        assert await stores.jobs.finish(an_attempt(token=token), outcome, NOW + 3)
    await stores.jobs.create(of("acme", "j2"), NOW)
    await stores.jobs.set_shares({"acme": 3.0, "other": 0.5})
    (demand,) = await stores.jobs.demand()
    assert demand.lanes == (Lane("acme", 1, pytest.approx(NOW), pytest.approx(1.5, rel=0.05), 3.0),)

    await stores.jobs.set_shares({})
    (demand,) = await stores.jobs.demand()
    assert demand.lanes[0].share == 1.0


async def test_nobodys_jobs_are_charged_only_where_that_is_said(stores: Stores):
    tokens = await started(stores, of("", "j1"), of("", "j2"))
    for job_id, token, gpu_s in zip(("j1", "j2"), tokens, (None, 0.5), strict=True):
        await stores.jobs.finish(an_attempt(job_id, token=token), replace(an_outcome(), gpu_s=gpu_s), NOW + 3)
    assert await stores.jobs.gpu_seconds() == {"": 0.5}


async def test_a_running_job_that_is_cancelled_is_charged_its_part_of_the_batch(stores: Stores):
    await started(stores, of("acme", "j1"), of("other", "j2"))
    await stores.jobs.cancel("j1", NOW + 5)
    assert (await stores.jobs.get("j1")).state is JobState.CANCELLED
    assert await stores.jobs.gpu_seconds() == {"acme": pytest.approx(2.0)}


async def test_loads_are_charged_on_top(stores: Stores):
    await stores.jobs.charge("acme", 10.0)
    await stores.jobs.charge("acme", 2.5)
    assert await stores.jobs.gpu_seconds() == {"acme": 12.5}


async def test_accounts_fade_and_totals_do_not(fake_stores: Stores):
    await fake_stores.jobs.charge("acme", 10.0)
    fake_stores.clock.advance(USED_TAU_S)
    await fake_stores.jobs.create(of("acme", "j1"), NOW)
    (demand,) = await fake_stores.jobs.demand()
    assert demand.lanes[0].used_s == pytest.approx(10.0 / 2.718281828)
    assert await fake_stores.jobs.gpu_seconds() == {"acme": 10.0}


def tenants(job_id: str, tenant: str = "acme") -> JobSpec:
    return replace(a_job(job_id), tenant=tenant)


async def test_a_tenants_jobs_go_to_fallback_until_its_lane_is_bound_and_never_into_the_models_queue(
    world: BrokerWorld, intake: Intake
):
    await intake.bind("m")
    await world.publisher.publish(tenants("j1"), CREATED_AT)
    assert await world.publisher.depth(world.topology.fallback) == 1

    await intake.bind(lane("m", "acme"))
    await world.publisher.publish(tenants("j2"), CREATED_AT)
    await world.publisher.publish(tenants("j3", ""), CREATED_AT)
    assert await ids_taken(intake, lane("m", "acme")) == ["j2"]
    assert await ids_taken(intake) == ["j3"]
    assert intake.lanes == {"m@acme"}


async def test_a_lane_nobody_has_bound_can_be_parked_in_and_taken_from(world: BrokerWorld, intake: Intake):
    assert await ids_taken(intake, lane("m", "other")) == []
    await world.publisher.park(tenants("j1"), CREATED_AT)
    (delivery,) = await intake.take(lane("m", "acme"), 5)
    assert world.topology.lane_of(delivery.routing_key) == "m@acme"
    assert world.topology.model_of(delivery.routing_key) == "m"
    await delivery.ack()


async def test_what_ends_for_a_model_ends_for_its_lanes(world: BrokerWorld, intake: Intake):
    inbox = Inbox()
    for name in ("m", lane("m", "acme"), lane("mm", "acme")):
        await intake.bind(name)
        await intake.arm(name, 1, inbox)
    await world.publisher.publish(tenants("j1"), CREATED_AT)
    delivery = await inbox.next()
    assert id_in(delivery) == "j1"
    await delivery.ack()

    await intake.disarm("m")
    await world.publisher.publish(tenants("j2"), CREATED_AT)
    await intake.unbind("m")
    await world.publisher.publish(tenants("j3"), CREATED_AT)
    assert await ids_taken(intake, lane("m", "acme")) == ["j2"]
    assert await world.publisher.depth(world.topology.fallback) == 1
    assert inbox.empty
    assert (intake.lanes, intake.owed) == ({"mm@acme"}, frozenset())
