"""What every ``JobStore`` says of bounds on its queues, and of whose jobs are whose."""

import asyncio
from dataclasses import replace

import pytest

from affinity.errors import IdConflict, QueueFull, UnknownJob
from affinity.io.ports import Bounds
from affinity.job import JobState
from tests.support.job_samples import a_report, a_spec, an_attempt, an_outcome
from tests.support.stores import Stores

NOW = 1_700_000_000.5


def of(tenant: str, job_id: str, model: str = "m"):
    return replace(a_spec(job_id, model), tenant=tenant)


@pytest.mark.parametrize(
    ("bounds", "bound"), [(Bounds(tenant=2), "tenant"), (Bounds(model=2), "model"), (Bounds(in_all=2), "all")]
)
async def test_a_job_over_a_bound_is_refused_and_leaves_nothing_behind(stores: Stores, bounds: Bounds, bound: str):
    for job_id in ("j0", "j1"):
        await stores.jobs.create(of("acme", job_id), NOW, bounds)
    demand = await stores.jobs.demand()

    with pytest.raises(QueueFull) as refusal:
        await stores.jobs.create(of("acme", "j2"), NOW, bounds)

    assert refusal.value.bound == bound
    with pytest.raises(UnknownJob):
        await stores.jobs.get("j2")
    assert await stores.jobs.demand() == demand
    assert [job.id for job in (await stores.jobs.page(None, None, 10, None)).jobs] == ["j1", "j0"]
    assert [job.id for job in await stores.jobs.unpublished(NOW + 1, 10)] == ["j0", "j1"]


async def test_a_bound_counts_only_what_it_is_about(stores: Stores):
    await stores.jobs.create(of("acme", "j0", "a"), NOW)
    await stores.jobs.create(of("", "j1", "b"), NOW)

    assert (await stores.jobs.create(of("other", "j2", "c"), NOW, Bounds(tenant=1, model=1, in_all=3))).fresh
    assert (await stores.jobs.create(of("", "j3", "c"), NOW, Bounds(tenant=1, model=2))).fresh


async def test_a_job_that_is_there_is_never_over_a_bound(stores: Stores):
    spec = of("acme", "j0")
    await stores.jobs.create(spec, NOW)

    assert not (await stores.jobs.create(spec, NOW, Bounds(0, 0, 0))).fresh


async def test_what_starts_or_is_cancelled_makes_room_and_is_counted_as_drained(stores: Stores):
    await stores.fleet.report(a_report())
    for job_id in ("j0", "j1", "j2"):
        await stores.jobs.create(of("acme", job_id), NOW)
    assert await stores.jobs.drained() == {}

    await stores.jobs.start([(an_attempt("j0"), of("acme", "j0"), NOW)], NOW)
    await stores.jobs.cancel("j1", NOW)

    assert await stores.jobs.drained() == {"m": 2, "@acme": 2}
    assert (await stores.jobs.create(of("acme", "j3"), NOW, Bounds(tenant=2, model=2, in_all=2))).fresh


async def test_a_withdrawn_job_makes_room_and_is_not_counted_as_drained(stores: Stores):
    await stores.jobs.create(of("acme", "j0"), NOW)

    assert await stores.jobs.withdraw("j0")

    assert await stores.jobs.drained() == {}
    assert (await stores.jobs.create(of("acme", "j1"), NOW, Bounds(1, 1, 1))).fresh
    assert [job.id for job in (await stores.jobs.page(None, None, 10, None, "acme")).jobs] == ["j1"]


async def test_a_tenants_page_has_its_own_jobs_only(stores: Stores):
    for number, tenant in enumerate(["acme", "", "other", "acme"]):
        await stores.jobs.create(of(tenant, f"j{number}", "ab"[number % 2]), NOW + number)
    await stores.jobs.cancel("j3", NOW)

    async def ids(state: JobState | None, model: str | None, tenant: str) -> list[str]:
        return [job.id for job in (await stores.jobs.page(state, model, 10, None, tenant)).jobs]

    assert await ids(None, None, "acme") == ["j3", "j0"]
    assert await ids(None, "b", "acme") == ["j3"]
    assert await ids(JobState.QUEUED, None, "acme") == ["j0"]
    assert await ids(JobState.CANCELLED, "b", "acme") == ["j3"]
    assert await ids(JobState.CANCELLED, "b", "other") == []
    assert await ids(None, None, "nobody") == []
    assert await ids(None, None, "") == ["j3", "j2", "j1", "j0"]


async def test_a_tenants_pages_go_on_where_they_ended(stores: Stores):
    for number in range(4):
        await stores.jobs.create(of("acme" if number % 2 else "other", f"j{number}"), NOW)

    first = await stores.jobs.page(None, None, 1, None, "acme")
    second = await stores.jobs.page(None, None, 1, first.cursor, "acme")

    assert [job.id for job in first.jobs + second.jobs] == ["j3", "j1"]
    assert second.cursor is None


async def test_the_same_job_of_another_tenant_is_another_job(stores: Stores):
    await stores.jobs.create(of("acme", "j0"), NOW)

    for other in ("other", ""):
        with pytest.raises(IdConflict):
            await stores.jobs.create(of(other, "j0"), NOW)
    assert (await stores.jobs.get("j0")).spec.tenant == "acme"


async def test_an_input_that_looks_like_a_tenant_is_none(stores: Stores):
    forged = replace(a_spec("j0"), input='{"tenant":"acme",', metadata={"tenant": "acme"})
    await stores.jobs.create(forged, NOW)

    assert (await stores.jobs.get("j0")).spec.tenant == ""
    assert (await stores.jobs.page(None, None, 10, None, "acme")).jobs == ()


async def test_a_job_first_seen_as_a_delivery_belongs_to_the_tenant_it_names(stores: Stores):
    await stores.jobs.sight(of("acme", "j0"), NOW, NOW)

    assert [job.id for job in (await stores.jobs.page(JobState.QUEUED, None, 10, None, "acme")).jobs] == ["j0"]


async def test_a_record_past_its_retention_leaves_its_tenants_pages(stores: Stores):
    await stores.fleet.report(a_report())
    await stores.jobs.create(of("acme", "j0"), NOW)
    attempt = an_attempt("j0")
    await stores.jobs.start([(attempt, of("acme", "j0"), NOW)], NOW)
    await stores.jobs.finish(attempt, an_outcome(), NOW)
    assert len((await stores.jobs.page(JobState.SUCCEEDED, None, 10, None, "acme")).jobs) == 1

    await stores.expire("job", "j0")

    assert (await stores.jobs.page(None, None, 10, None, "acme")).jobs == ()
    assert (await stores.jobs.page(JobState.SUCCEEDED, "m", 10, None, "acme")).jobs == ()


async def test_a_crowd_does_not_get_past_a_bound(stores: Stores):
    answers = await asyncio.gather(
        *(stores.jobs.create(of("acme", f"j{number}"), NOW, Bounds(tenant=10)) for number in range(50)),
        return_exceptions=True,
    )

    assert sum(isinstance(answer, QueueFull) for answer in answers) == 40
    assert len((await stores.jobs.page(JobState.QUEUED, None, 50, None, "acme")).jobs) == 10
