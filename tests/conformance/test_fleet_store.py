"""What every ``FleetStore`` does."""

import asyncio

from affinity.fleet import Measurement, WorkerReport
from tests.support.job_samples import a_report, later
from tests.support.stores import Stores


async def live(stores: Stores) -> dict[str, WorkerReport]:
    return dict((await stores.fleet.sighting()).view.workers)


async def test_epochs_only_grow(stores: Stores) -> None:
    epochs = [await stores.fleet.next_epoch() for _ in range(5)]
    assert epochs == sorted(set(epochs))
    together = await asyncio.gather(*(stores.fleet.next_epoch() for _ in range(20)))
    assert len(set(together)) == 20
    assert min(together) > epochs[-1]


async def test_a_reported_worker_is_seen_as_it_reported(stores: Stores) -> None:
    first, second = a_report("w1"), a_report("w2")
    assert await stores.fleet.report(first)
    assert await stores.fleet.report(second)
    assert await live(stores) == {"w1": first, "w2": second}


async def test_a_newer_report_replaces_an_older_one_and_never_the_other_way(stores: Stores) -> None:
    first = a_report("w1")
    assert await stores.fleet.report(later(first, 2))
    assert await stores.fleet.report(first)
    assert await live(stores) == {"w1": later(first, 2)}
    assert await stores.fleet.report(later(first, 3))
    assert await live(stores) == {"w1": later(first, 3)}


async def test_an_older_epoch_is_refused_and_its_lease_is_not_renewed(stores: Stores) -> None:
    newer = a_report("w1", epoch=2)
    assert await stores.fleet.report(newer)
    assert not await stores.fleet.report(a_report("w1", epoch=1, sequence=99))
    assert await live(stores) == {"w1": newer}
    await stores.expire("lease", "w1")
    assert not await stores.fleet.report(a_report("w1", epoch=1, sequence=100))
    assert (await stores.fleet.sighting()).lost == (newer,)


async def test_a_newer_epoch_takes_over_the_id_at_once(stores: Stores) -> None:
    await stores.fleet.report(a_report("w1", epoch=1, sequence=50))
    assert await stores.fleet.report(a_report("w1", epoch=2, sequence=1))
    assert await live(stores) == {"w1": a_report("w1", epoch=2, sequence=1)}


async def test_a_worker_whose_lease_is_gone_is_lost_until_it_reports_again(stores: Stores) -> None:
    report = a_report("w1")
    await stores.fleet.report(report)
    await stores.expire("lease", "w1")
    sighting = await stores.fleet.sighting()
    assert (dict(sighting.view.workers), sighting.lost) == ({}, (report,))
    await stores.fleet.report(later(report))
    sighting = await stores.fleet.sighting()
    assert (dict(sighting.view.workers), sighting.lost) == ({"w1": later(report)}, ())


async def test_a_gpu_is_leased_to_one_worker(stores: Stores) -> None:
    assert await stores.fleet.lease_gpu("GPU-1", "w1", 30.0)
    assert not await stores.fleet.lease_gpu("GPU-1", "w2", 30.0)
    assert await stores.fleet.lease_gpu("GPU-1", "w1", 30.0)
    assert await stores.fleet.lease_gpu("GPU-2", "w2", 30.0)
    await stores.expire("gpu", "GPU-1")
    assert await stores.fleet.lease_gpu("GPU-1", "w2", 30.0)


async def test_a_report_takes_its_gpu_if_it_is_free_and_not_if_it_is_anothers(stores: Stores) -> None:
    await stores.fleet.report(a_report("w1", gpu="GPU-1"))
    assert not await stores.fleet.lease_gpu("GPU-1", "w2", 30.0)
    assert await stores.fleet.report(a_report("w2", gpu="GPU-1"))
    assert await stores.fleet.lease_gpu("GPU-1", "w1", 30.0)


async def test_who_leaves_takes_everything_along(stores: Stores) -> None:
    report = a_report("w1", gpu="GPU-1")
    await stores.fleet.report(report)
    await stores.fleet.report(a_report("w2"))
    await stores.fleet.claim("m", "w1", 30.0)
    await stores.fleet.claim("n", "w2", 30.0)
    await stores.fleet.leave(report)
    sighting = await stores.fleet.sighting()
    assert (list(sighting.view.workers), dict(sighting.view.claims), sighting.lost) == (["w2"], {"n": "w2"}, ())
    assert await stores.fleet.lease_gpu("GPU-1", "w2", 30.0)


async def test_who_leaves_late_takes_nothing_from_its_successor(stores: Stores) -> None:
    old, new = a_report("w1", epoch=1), a_report("w1", epoch=2)
    await stores.fleet.report(old)
    await stores.fleet.report(new)
    await stores.fleet.claim("m", "w1", 30.0)
    await stores.fleet.leave(old)
    sighting = await stores.fleet.sighting()
    assert (dict(sighting.view.workers), dict(sighting.view.claims)) == ({"w1": new}, {"m": "w1"})
    assert not await stores.fleet.lease_gpu(new.gpu.uuid, "w2", 30.0)


async def test_who_leaves_after_its_gpu_went_to_another_leaves_it_there(stores: Stores) -> None:
    await stores.fleet.lease_gpu("GPU-1", "w2", 30.0)
    report = a_report("w1", gpu="GPU-1")
    await stores.fleet.report(report)
    await stores.fleet.leave(report)
    assert not await stores.fleet.lease_gpu("GPU-1", "w3", 30.0)


async def test_a_load_is_claimed_by_one_worker_and_seen_by_all(stores: Stores) -> None:
    assert await stores.fleet.claim("a/b:1", "w1", 30.0)
    assert not await stores.fleet.claim("a/b:1", "w2", 30.0)
    assert await stores.fleet.claim("a/b:1", "w1", 30.0)
    assert dict((await stores.fleet.sighting()).view.claims) == {"a/b:1": "w1"}
    await stores.fleet.release("a/b:1", "w2")
    assert not await stores.fleet.claim("a/b:1", "w2", 30.0)
    await stores.fleet.release("a/b:1", "w1")
    assert not (await stores.fleet.sighting()).view.claims
    assert await stores.fleet.claim("a/b:1", "w2", 30.0)


async def test_a_claim_that_ran_out_is_free_again(stores: Stores) -> None:
    await stores.fleet.claim("m", "w1", 30.0)
    await stores.expire("claim", "m")
    assert not (await stores.fleet.sighting()).view.claims
    await stores.fleet.release("m", "w1")
    assert await stores.fleet.claim("m", "w2", 30.0)
    assert dict((await stores.fleet.sighting()).view.claims) == {"m": "w2"}


async def test_of_many_claims_at_once_exactly_one_is_granted(stores: Stores) -> None:
    granted = await asyncio.gather(*(stores.fleet.claim("m", f"w{number}", 30.0) for number in range(30)))
    assert sum(granted) == 1


async def test_one_worker_at_a_time_tidies_up_after_a_lost_one(stores: Stores) -> None:
    assert await stores.fleet.begin_reaping("w1", "w2", 30.0)
    assert not await stores.fleet.begin_reaping("w1", "w3", 30.0)
    assert await stores.fleet.begin_reaping("w1", "w2", 30.0)
    await stores.expire("reaping", "w1")
    assert await stores.fleet.begin_reaping("w1", "w3", 30.0)


async def test_a_lost_worker_is_forgotten(stores: Stores) -> None:
    report = a_report("w1")
    await stores.fleet.report(report)
    await stores.expire("lease", "w1")
    await stores.fleet.begin_reaping("w1", "w2", 30.0)
    await stores.fleet.forget(report)
    await stores.fleet.forget(report)
    assert not (await stores.fleet.sighting()).lost
    assert await stores.fleet.begin_reaping("w1", "w3", 30.0)


async def test_a_worker_that_came_back_is_not_forgotten(stores: Stores) -> None:
    report = a_report("w1")
    await stores.fleet.report(report)
    await stores.fleet.forget(report)
    assert list(await live(stores)) == ["w1"]
    await stores.fleet.report(later(report))
    await stores.expire("lease", "w1")
    await stores.fleet.forget(report)
    assert (await stores.fleet.sighting()).lost == (later(report),)


async def test_what_was_measured_is_known_by_model_and_gpu(stores: Stores) -> None:
    small, large = Measurement(2**30, 0.5, 0.01), Measurement(2**40 + 1, 1.25, 0.1 + 0.2)
    await stores.fleet.learn("a/b:1", "NVIDIA H100 | 80GB", small)
    await stores.fleet.learn("a/b:1", "Fake", small)
    await stores.fleet.learn("a/b:1", "Fake", large)
    assert await stores.fleet.learned() == {("a/b:1", "NVIDIA H100 | 80GB"): small, ("a/b:1", "Fake"): large}


async def test_a_load_from_the_hosts_memory_is_not_forgotten_for_a_worker_that_never_had_one(stores: Stores) -> None:
    async def told(reload_s: float | None, load_s: float = 4.0) -> Measurement:
        await stores.fleet.learn("m", "Fake", Measurement(2**30, load_s, 0.01, reload_s))
        return (await stores.fleet.learned())["m", "Fake"]

    assert await told(None) == Measurement(2**30, 4.0, 0.01)
    assert await told(0.1 + 0.2) == Measurement(2**30, 4.0, 0.01, 0.1 + 0.2)
    assert await told(None, load_s=5.0) == Measurement(2**30, 5.0, 0.01, 0.1 + 0.2), "of the rest, the newest counts"
    assert await told(1e-07) == Measurement(2**30, 4.0, 0.01, 1e-07)
    assert await told(None) == Measurement(2**30, 4.0, 0.01, 1e-07)
    assert await told(2.0) == Measurement(2**30, 4.0, 0.01, 2.0)


async def test_a_hint_reaches_everybody_who_listens(stores: Stores) -> None:
    async with asyncio.timeout(10):
        listeners = [stores.fleet.wakes() for _ in range(3)]
        for listener in listeners:
            await anext(listener)
        await stores.fleet.wake()
        for listener in listeners:
            await anext(listener)
        await stores.fleet.wake()
        await anext(listeners[0])
        for listener in listeners:
            await listener.aclose()


async def test_no_hint_comes_by_itself(stores: Stores) -> None:
    listener = stores.fleet.wakes()
    await anext(listener)
    waiting = asyncio.ensure_future(anext(listener))
    done, _ = await asyncio.wait([waiting], timeout=0.05)
    assert not done
    await stores.fleet.wake()
    await asyncio.wait_for(waiting, timeout=10)
    await listener.aclose()


async def test_who_tidied_up_after_a_worker_that_is_back_gives_up_the_right_to(stores: Stores) -> None:
    report = a_report("w1")
    await stores.fleet.report(report)
    assert await stores.fleet.begin_reaping("w1", "w2", 30.0)
    await stores.fleet.forget(report)
    assert list((await stores.fleet.sighting()).view.workers) == ["w1"]
    assert await stores.fleet.begin_reaping("w1", "w3", 30.0), "its next death would wait for 30 s"
