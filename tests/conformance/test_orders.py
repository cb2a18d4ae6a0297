"""What every ``FleetStore`` does with an operator's orders and pins."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest

from affinity.errors import UnknownOrder
from affinity.io.event_port import Event
from affinity.io.fleet_store import RedisFleetStore
from affinity.io.redis_client import RedisLink
from affinity.orders import EVERYWHERE, Action, Order, OrderState, Pins
from affinity.topology import Keys
from tests.support.job_samples import a_report, later
from tests.support.stores import Stores

AT = 1_700_000_000.123456


def an_order(
    order_id: str = "o1", action: Action = Action.LOAD, worker: str | None = "w1", life_s: float = 60
) -> Order:
    return Order(order_id, action, "a/b:1", worker, AT, AT + life_s, by="key 1a2b3c4d")


async def waiting(stores: Stores) -> dict[str, Order]:
    return {order.id: order for order in (await stores.fleet.sighting()).view.orders}


async def pins(stores: Stores) -> Pins:
    return (await stores.fleet.sighting()).view.pins


async def said(stores: Stores, last: str) -> list[tuple[str, Mapping[str, str]]]:
    """Kinds and fields of all events so far; ``last`` is said to know where they end."""
    await stores.events.emit("test.end", AT, {"of": last})
    found: list[Event] = []
    async with asyncio.timeout(10):
        async for event in stores.events.read("0-0"):
            if event.fields == {"of": last}:
                return [(found_event.kind, found_event.fields) for found_event in found]
            found.append(event)
    raise AssertionError


async def test_an_order_waits_as_it_was_placed(stores: Stores) -> None:
    here, anywhere = an_order("o1"), an_order("o2", worker=None)
    await stores.fleet.order(here)
    await stores.fleet.order(anywhere)
    assert await waiting(stores) == {"o1": here, "o2": anywhere}
    assert await stores.fleet.get_order("o2") == anywhere


async def test_an_order_that_nobody_placed_is_unknown(stores: Stores) -> None:
    with pytest.raises(UnknownOrder, match="no order"):
        await stores.fleet.get_order("o1")
    assert not await stores.fleet.end_order("o1", OrderState.DONE, "", AT)


async def test_a_later_order_for_the_same_place_replaces_the_one_that_waits(stores: Stores) -> None:
    await stores.fleet.order(an_order("o1", Action.LOAD))
    await stores.fleet.order(an_order("o2", Action.LOAD, "w2"))
    await stores.fleet.order(an_order("o3", Action.UNLOAD))
    assert set(await waiting(stores)) == {"o2", "o3"}
    replaced = await stores.fleet.get_order("o1")
    assert (replaced.state, replaced.reason, replaced.ended_at) == (
        OrderState.REPLACED,
        "order o3 says otherwise",
        AT,
    )


async def test_an_order_ends_once_and_can_be_asked_about_afterwards(stores: Stores) -> None:
    order = an_order()
    await stores.fleet.order(order)
    assert await stores.fleet.end_order("o1", OrderState.DONE, "w1 holds it", AT + 5)
    assert await stores.fleet.end_order("o1", OrderState.DONE, "w1 holds it", AT + 6), "again: it has ended so"
    assert not await stores.fleet.end_order("o1", OrderState.FAILED, "w1 is gone", AT + 7)
    assert not await waiting(stores)
    ended = replace(order, state=OrderState.DONE, reason="w1 holds it", ended_at=AT + 5)
    assert await stores.fleet.get_order("o1") == ended


async def test_an_order_whose_place_was_taken_leaves_its_successor_alone_when_it_ends(stores: Stores) -> None:
    await stores.fleet.order(an_order("o1"))
    await stores.fleet.order(an_order("o2"))
    assert not await stores.fleet.end_order("o1", OrderState.DONE, "w1 holds it", AT)
    assert set(await waiting(stores)) == {"o2"}


async def test_an_order_whose_life_is_over_ends_by_itself(stores: Stores) -> None:
    await stores.fleet.order(an_order("o1", life_s=0.0))
    await stores.fleet.order(an_order("o2", worker="w2"))
    assert set(await waiting(stores)) == {"o2"}
    ended = await stores.fleet.get_order("o1")
    assert (ended.state, ended.reason) == (OrderState.EXPIRED, "it could not be carried out in time")
    assert ended.ended_at == pytest.approx(stores.clock.now(), abs=60)
    assert not await stores.fleet.end_order("o1", OrderState.DONE, "", AT)


async def test_an_order_placed_again_after_it_has_ended_does_not_wait_again(stores: Stores) -> None:
    await stores.fleet.order(an_order())
    await stores.fleet.end_order("o1", OrderState.DONE, "w1 holds it", AT)
    await stores.fleet.order(an_order())
    assert not await waiting(stores)


async def test_orders_are_said_once_when_asked_and_once_when_over(stores: Stores) -> None:
    await stores.fleet.order(an_order("o1"))
    await stores.fleet.order(an_order("o2"))
    await stores.fleet.end_order("o2", OrderState.DONE, "w1 holds it", AT)
    await stores.fleet.order(an_order("o3", Action.UNLOAD, life_s=0.0))
    await waiting(stores)
    place = {"model": "a/b:1", "worker": "w1"}
    one, two = {"order": "o1", "action": "load", **place}, {"order": "o2", "action": "load", **place}
    three = {"order": "o3", "action": "unload", **place}
    assert await said(stores, "orders") == [
        ("order.asked", {**one, "by": "key 1a2b3c4d"}),
        ("order.ended", {**one, "state": "replaced", "reason": "order o2 says otherwise"}),
        ("order.asked", {**two, "by": "key 1a2b3c4d"}),
        ("order.ended", {**two, "state": "done", "reason": "w1 holds it"}),
        ("order.asked", {**three, "by": "key 1a2b3c4d"}),
        ("order.ended", {**three, "state": "expired", "reason": "it could not be carried out in time"}),
    ]


async def test_a_pin_lasts_until_it_is_taken_back(stores: Stores) -> None:
    await stores.fleet.pin("a/b:1", "w1", "me", AT)
    await stores.fleet.pin("a/b:1", "w1", "me", AT)
    await stores.fleet.pin("a/b:1", None, "me", AT)
    await stores.fleet.pin("n", "w2", "me", AT)
    assert await pins(stores) == Pins(frozenset({("a/b:1", "w1"), ("a/b:1", EVERYWHERE), ("n", "w2")}))
    await stores.fleet.unpin("a/b:1", [EVERYWHERE], "me", AT)
    assert await pins(stores) == Pins(frozenset({("a/b:1", "w1"), ("n", "w2")}))
    await stores.fleet.unpin("a/b:1", ["w1", "w2", EVERYWHERE], "me", AT)
    assert await pins(stores) == Pins(frozenset({("n", "w2")}))


async def test_pins_are_said_when_something_has_changed(stores: Stores) -> None:
    for _ in range(2):
        await stores.fleet.pin("m", "w1", "me", AT)
    await stores.fleet.pin("m", None, "you", AT)
    for _ in range(2):
        await stores.fleet.unpin("m", ["w1", "w2", EVERYWHERE], "me", AT)
    assert await said(stores, "pins") == [
        ("model.pinned", {"model": "m", "worker": "w1", "by": "me"}),
        ("model.pinned", {"model": "m", "worker": "", "by": "you"}),
        ("model.unpinned", {"model": "m", "worker": "w1", "by": "me"}),
        ("model.unpinned", {"model": "m", "worker": "", "by": "me"}),
    ]


async def test_orders_and_pins_outlast_the_workers_they_are_about(stores: Stores) -> None:
    report = a_report("w1")
    await stores.fleet.report(report)
    await stores.fleet.order(an_order())
    await stores.fleet.pin("m", "w1", "me", AT)
    await stores.fleet.leave(report)
    assert set(await waiting(stores)) == {"o1"}
    assert (await pins(stores)).cover("m", "w1")
    view = (await stores.fleet.sighting()).view.with_report(later(report))
    assert (set(view.workers), [order.id for order in view.orders]) == ({"w1"}, ["o1"])
    assert view.pins.cover("m", "w1")


async def test_orders_and_pins_leave_no_key_that_the_topology_does_not_name(link: RedisLink, keys: Keys) -> None:
    fleet = RedisFleetStore(link, keys)
    await fleet.order(an_order())
    await fleet.pin("m", None, "me", AT)
    async with link.guard() as client:
        found = {key async for key in client.scan_iter(f"{keys.prefix}*")}
        assert found == {keys.orders, keys.order("o1"), keys.pins, keys.events}
        assert 3_600_000 < await client.pttl(keys.order("o1")) <= 3_660_000
        await fleet.end_order("o1", OrderState.DONE, "", AT)
        assert 0 < await client.pttl(keys.order("o1")) <= 3_600_000
        assert not await client.exists(keys.orders)


async def test_an_order_that_is_gone_or_cannot_be_read_hides_no_other(link: RedisLink, keys: Keys) -> None:
    fleet = RedisFleetStore(link, keys)
    for number in range(3):
        await fleet.order(an_order(f"o{number}", worker=f"w{number}"))
    async with link.guard() as client:
        await client.delete(keys.order("o0"))
        await client.hset(keys.order("o1"), "action", "polish")
        assert [order.id for order in (await fleet.sighting()).view.orders] == ["o2"]
        assert await client.hvals(keys.orders) == ["o1", "o2"], "what another version placed stays for it"
