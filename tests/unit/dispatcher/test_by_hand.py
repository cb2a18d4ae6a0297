"""Loading, unloading and pinning by hand, as an operator asks for it over HTTP."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import pytest

from affinity.fleet import GIB, Refusal, Residency, ResidencyState, WorkerReport
from affinity.orders import EVERYWHERE, ORDER_LIFE_S, Order, OrderState, Pins
from affinity.wire import rfc3339
from dispatcher.keys import key_hash
from models.catalog import Catalog
from models.entry import ModelEntry, SyntheticOptions
from tests.support.dispatcher import BIG, ECHO, DispatcherWorld, dispatcher_world
from tests.support.job_samples import a_report

KEPT = ModelEntry("kept", "synthetic", vram_gib=1.0, pinned=True, options=SyntheticOptions())
HUGE = ModelEntry("huge", "synthetic", vram_gib=80.0, options=SyntheticOptions())
SLASHED = ModelEntry("org/name:1/load", "synthetic", vram_gib=1.0, options=SyntheticOptions())


@pytest.fixture
async def world() -> AsyncIterator[DispatcherWorld]:
    async with dispatcher_world(Catalog([ECHO, BIG, KEPT, HUGE, SLASHED])) as running:
        yield running


def resident(model: str, gib: float = 1.0, state: ResidencyState = ResidencyState.READY) -> Residency:
    return Residency(model, state, int(gib * GIB), loaded_at=1.0, last_used_at=1.0)


async def up(world: DispatcherWorld, *reports: WorkerReport) -> None:
    for report in reports:
        await world.stores.fleet.report(replace(report, as_of=world.clock.now()))


async def waiting(world: DispatcherWorld) -> list[Order]:
    return list((await world.stores.fleet.sighting()).view.orders)


async def pins(world: DispatcherWorld) -> Pins:
    return (await world.stores.fleet.sighting()).view.pins


def said(world: DispatcherWorld, kind: str) -> list[Mapping[str, str]]:
    return [event.fields for event in world.stores.said if event.kind == kind]


# -- load --------------------------------------------------------------------------------------------------------------


async def test_a_load_is_an_order_that_waits_in_the_store_until_a_worker_carries_it_out(world: DispatcherWorld):
    await up(world, a_report("w1"))

    answer = await world.post("/models/big/load", {"worker": "w1"})

    [order] = answer.json()["orders"]
    now = world.clock.now()
    assert (answer.status_code, answer.headers["location"]) == (202, f"/orders/{order['id']}")
    assert "big is to be loaded on w1 within 10 minutes" in answer.json()["detail"]
    assert (order["action"], order["model"], order["worker"], order["state"]) == ("load", "big", "w1", "waiting")
    assert (order["asked_at"], order["expires_at"]) == (rfc3339(now), rfc3339(now + ORDER_LIFE_S))
    assert (order["ended_at"], order["reason"]) == (None, None)
    assert [(found.id, found.worker) for found in await waiting(world)] == [(order["id"], "w1")]
    shown = (await world.http.get(answer.headers["location"])).json()
    assert {**shown, "outlook": None} == {**order, "outlook": None}


@pytest.mark.parametrize("body", [None, {}, {"worker": None}])
async def test_without_a_worker_whichever_is_best_is_meant(world: DispatcherWorld, body: object):
    await up(world, a_report("w1"), a_report("w2"))

    answer = await (world.http.post("/models/big/load") if body is None else world.post("/models/big/load", body))

    assert answer.status_code == 202
    assert answer.json()["orders"][0]["worker"] is None
    assert [order.worker for order in await waiting(world)] == [None]


async def test_workers_are_told_to_look_at_once_and_everybody_who_watches_hears_who_asked(world: DispatcherWorld):
    await up(world, a_report("w1"))
    hints = world.stores.fleet.wakes()
    await anext(hints)

    order = (await world.post("/models/big/load", {"worker": "w1"})).json()["orders"][0]

    await anext(hints)
    asked = {"order": order["id"], "action": "load", "model": "big", "worker": "w1", "by": "127.0.0.1"}
    assert said(world, "order.asked") == [asked]
    assert order["asked_by"] == "127.0.0.1"


async def test_with_keys_it_is_the_key_that_asked_and_it_cannot_be_read_from_what_is_said():
    async with dispatcher_world(affinity_api_keys="sesame-1,sesame-2") as world:
        await up(world, a_report("w1"))
        refused = await world.http.post("/models/big/load")
        await world.post("/models/big/load", {}, Authorization="Bearer sesame-2")
        await world.post("/models/big/pin", {}, X_API_Key="sesame-1")

        assert refused.status_code == 401
        asked = [said(world, kind)[0]["by"] for kind in ("order.asked", "model.pinned")]
        assert asked == [f"key {key_hash(key).hex()[:8]}" for key in ("sesame-2", "sesame-1")]


async def test_a_model_that_is_where_it_is_wanted_is_nothing_to_do(world: DispatcherWorld):
    await up(world, replace(a_report("w1"), residents=(resident("big", 14),)), a_report("w2"))

    for body in ({}, {"worker": "w1"}):
        answer = await world.post("/models/big/load", body)
        assert (answer.status_code, answer.json()) == (200, {"detail": "big is resident on w1 already", "orders": []})
    assert (await world.post("/models/big/load", {"worker": "w2"})).status_code == 202
    assert [order.worker for order in await waiting(world)] == ["w2"]


async def test_a_second_order_for_the_same_place_replaces_the_first(world: DispatcherWorld):
    await up(world, a_report("w1"))
    first, second = [(await world.post("/models/big/load", {"worker": "w1"})).json()["orders"][0] for _ in range(2)]

    shown = (await world.http.get(f"/orders/{first['id']}")).json()
    assert (shown["state"], shown["reason"]) == ("replaced", f"order {second['id']} says otherwise")
    assert [order.id for order in await waiting(world)] == [second["id"]]


async def test_an_order_that_was_not_carried_out_in_time_is_over(world: DispatcherWorld):
    await up(world, replace(a_report("w1"), lease_s=2 * ORDER_LIFE_S))
    [order] = (await world.post("/models/big/load", {})).json()["orders"]
    world.clock.advance(ORDER_LIFE_S - 1)
    assert [waits["id"] for waits in await orders_shown(world, "big")] == [order["id"]]
    world.clock.advance(1)

    assert await orders_shown(world, "big") == []
    shown = (await world.http.get(f"/orders/{order['id']}")).json()
    assert (shown["state"], shown["ended_at"]) == ("expired", rfc3339(world.clock.now()))
    assert said(world, "order.ended")[0]["state"] == "expired"


async def orders_shown(world: DispatcherWorld, model: str) -> list[dict[str, object]]:
    models = {row["name"]: row for row in (await world.http.get("/models")).json()["models"]}
    found: list[dict[str, object]] = models[model]["orders"]
    return found


@pytest.mark.parametrize(
    ("model", "body", "status", "code", "says"),
    [
        ("nobody", {}, 404, "unknown_model", "nobody"),
        ("big", {"worker": "w9"}, 404, "unknown_worker", "there are w1, w2, w3, w4, w5"),
        ("huge", {}, 422, "never_fits", "add a larger GPU"),
        ("huge", {"worker": "w1"}, 422, "never_fits", "the largest GPU"),
        ("big", {"worker": "w1"}, 409, "cannot_load", "w1 is stopping: name another worker"),
        (
            "big",
            {"worker": "w2"},
            409,
            "cannot_load",
            "w2 is too small: the model takes 14.0 GiB, its GPU offers 8.0 GiB",
        ),
        ("big", {"worker": "w3"}, 409, "cannot_load", "does not try again for 20 s (load_failed: truncated)"),
        ("big", {"worker": "w4"}, 409, "cannot_load", "has 4.0 GiB beside what is pinned there (echo)"),
        ("big", {"worker": ""}, 422, "invalid_input", "worker"),
        ("big", {"worker": ["w5"]}, 422, "invalid_input", "worker"),
        ("big", {"node": "w5"}, 422, "invalid_input", "there are worker"),
    ],
)
async def test_what_waiting_would_not_bring_about_is_refused_with_what_to_do_and_leaves_nothing_behind(
    world: DispatcherWorld, model: str, body: object, status: int, code: str, says: str
):
    small = replace(a_report("w2").gpu, total_bytes=8 * GIB)
    refusal = Refusal("big", world.clock.now() + 20, "load_failed", "truncated", hopeless=True)
    await up(
        world,
        replace(a_report("w1"), draining=True),
        replace(a_report("w2"), gpu=small),
        replace(a_report("w3"), refusals=(refusal,)),
        replace(a_report("w4"), residents=(resident("echo", 20),)),
        a_report("w5"),
    )
    await world.post("/models/echo/pin", {"worker": "w4"})

    answer = await world.post(f"/models/{model}/load", body)

    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code)
    assert says in problem["detail"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert await waiting(world) == []


async def test_a_load_anywhere_is_refused_only_if_every_worker_is_out_of_the_question(world: DispatcherWorld):
    assert (await world.post("/models/big/load", {})).json()["detail"] == "no worker is up: start one, then ask again"
    await up(world, *(replace(a_report(f"w{number}"), draining=True) for number in range(7)))
    answer = await world.post("/models/big/load", {})
    assert (answer.status_code, answer.json()["code"]) == (409, "cannot_load")
    assert "and so on for 2 others" in answer.json()["detail"]
    await up(world, a_report("w7"))
    assert (await world.post("/models/big/load", {})).status_code == 202


# -- unload ------------------------------------------------------------------------------------------------------------


async def test_unloading_everywhere_is_an_order_for_each_worker_that_holds_it(world: DispatcherWorld):
    holding = (resident("big", 14),)
    await up(world, *(replace(a_report(name), residents=holding) for name in ("w1", "w2")), a_report("w3"))

    answer = await world.post("/models/big/unload", {})

    assert answer.status_code == 202
    assert answer.json()["detail"] == "big is to leave w1, w2 once none of its jobs runs there"
    assert "location" not in answer.headers
    assert {(order.action, order.worker) for order in await waiting(world)} == {("unload", "w1"), ("unload", "w2")}
    one = await world.post("/models/big/unload", {"worker": "w2"})
    assert [order["worker"] for order in one.json()["orders"]] == ["w2"]
    assert len(await waiting(world)) == 2


async def test_unloading_what_is_not_resident_is_nothing_to_do_and_withdraws_loads_that_wait(world: DispatcherWorld):
    await up(world, a_report("w1"), a_report("w2"))
    assert (await world.http.post("/models/big/unload")).json() == {
        "detail": "big is not resident anywhere",
        "orders": [],
    }
    orders = [
        (await world.post("/models/big/load", {"worker": each})).json()["orders"][0] for each in ("w1", "w2", None)
    ]

    answer = await world.post("/models/big/unload", {"worker": "w1"})

    assert (answer.status_code, answer.json()["detail"]) == (
        200,
        "big is not resident on w1; the order to load it is withdrawn",
    )
    assert {order.worker for order in await waiting(world)} == {"w2", None}
    await world.post("/models/big/unload", {})
    assert await waiting(world) == []
    assert {(await world.stores.fleet.get_order(order["id"])).state for order in orders} == {OrderState.REPLACED}


@pytest.mark.parametrize("pin", [{}, {"worker": "w1"}])
async def test_what_is_pinned_by_hand_is_not_unloaded(world: DispatcherWorld, pin: dict[str, str]):
    await up(world, replace(a_report("w1"), residents=(resident("big", 14),)))
    await world.post("/models/big/pin", pin)

    answer = await world.post("/models/big/unload", {})

    assert (answer.status_code, answer.json()["code"]) == (409, "pinned")
    assert "pinned on w1: unpin it first" in answer.json()["detail"]
    assert await waiting(world) == []


async def test_what_the_catalogue_pins_is_neither_unloaded_nor_unpinned_by_hand(world: DispatcherWorld):
    await up(world, replace(a_report("w1"), residents=(replace(resident("kept"), pinned=True),)))
    answers = [await world.post(f"/models/kept/{verb}", {"worker": "w1"}) for verb in ("unload", "unpin")]

    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [
        (409, "pinned"),
        (409, "not_unpinnable"),
    ]
    assert all("take 'pinned' out of its entry" in answer.json()["detail"] for answer in answers)


# -- pins --------------------------------------------------------------------------------------------------------------


async def test_a_pin_is_kept_in_the_store_and_shown_until_it_is_taken_back(world: DispatcherWorld):
    await up(world, replace(a_report("w1"), residents=(resident("echo"), resident("big", 14))))

    pinned = await world.post("/models/echo/pin", {"worker": "w1"})

    assert (pinned.status_code, pinned.json()) == (
        200,
        {"model": "echo", "pinned": False, "pinned_by": None, "pinned_on": ["w1"]},
    )
    assert await pins(world) == Pins(frozenset({("echo", "w1")}))
    assert await shown(world) == ((False, None, ["w1"]), {"echo": True, "big": False})
    unpinned = await world.post("/models/echo/unpin", {"worker": "w1"})
    assert unpinned.json() == {"model": "echo", "pinned": False, "pinned_by": None, "pinned_on": []}
    assert await shown(world) == ((False, None, []), {"echo": False, "big": False})
    assert said(world, "model.pinned") == [{"model": "echo", "worker": "w1", "by": "127.0.0.1"}]
    assert said(world, "model.unpinned") == [{"model": "echo", "worker": "w1", "by": "127.0.0.1"}]


async def shown(world: DispatcherWorld) -> tuple[tuple[object, ...], dict[str, bool]]:
    """What /models says of echo, and /workers of w1's residents."""
    models = {row["name"]: row for row in (await world.http.get("/models")).json()["models"]}
    [worker] = (await world.http.get("/workers")).json()["workers"]
    residents = {each["model"]: each["pinned"] for each in worker["residents"]}
    return tuple(models["echo"][name] for name in ("pinned", "pinned_by", "pinned_on")), residents


async def test_a_pin_without_a_worker_is_for_every_worker_and_only_taken_back_as_such(world: DispatcherWorld):
    await up(world, replace(a_report("w1"), residents=(resident("echo"),)))
    await world.post("/models/echo/pin", {"worker": "w1"})

    everywhere = await world.http.post("/models/echo/pin")

    assert everywhere.json() == {"model": "echo", "pinned": True, "pinned_by": "hand", "pinned_on": ["w1"]}
    refused = await world.post("/models/echo/unpin", {"worker": "w1"})
    assert (refused.status_code, refused.json()["code"]) == (409, "not_unpinnable")
    assert "unpin it without naming one" in refused.json()["detail"]
    assert (await pins(world)).held == {("echo", "w1"), ("echo", EVERYWHERE)}
    gone = await world.http.post("/models/echo/unpin")
    assert gone.json() == {"model": "echo", "pinned": False, "pinned_by": None, "pinned_on": []}
    assert not (await pins(world)).held


async def test_what_the_catalogue_pins_is_shown_as_pinned_by_it_and_gets_no_second_pin(world: DispatcherWorld):
    await up(world, a_report("w1"))

    answer = await world.http.post("/models/kept/pin")

    assert answer.json() == {"model": "kept", "pinned": True, "pinned_by": "catalogue", "pinned_on": []}
    assert not (await pins(world)).held


async def test_a_pin_on_a_worker_that_is_gone_can_be_taken_back_but_not_set(world: DispatcherWorld):
    await up(world, a_report("w1"))
    await world.post("/models/echo/pin", {"worker": "w1"})
    await world.stores.fleet.leave(a_report("w1"))

    for verb, worker, status in (("pin", "w1", 404), ("unpin", "w2", 404), ("unpin", "w1", 200)):
        assert (await world.post(f"/models/echo/{verb}", {"worker": worker})).status_code == status
    assert not (await pins(world)).held


async def test_unpinning_what_is_not_pinned_changes_nothing_and_is_said_to_nobody(world: DispatcherWorld):
    answer = await world.http.post("/models/echo/unpin")

    assert (answer.status_code, answer.json()["pinned_on"]) == (200, [])
    assert said(world, "model.unpinned") == []


# -- requests ----------------------------------------------------------------------------------------------------------


async def test_a_model_with_slashes_in_its_name_is_found_by_it_raw_or_quoted(world: DispatcherWorld):
    await up(world, a_report("w1"))
    for path in ("org/name:1/load", "org%2Fname%3A1%2Fload"):
        assert (await world.http.post(f"/models/{path}/pin")).json()["model"] == "org/name:1/load"


@pytest.mark.parametrize("verb", ["load", "unload", "pin", "unpin"])
async def test_a_browser_must_say_that_it_sends_json_so_that_no_other_page_can_move_models(
    world: DispatcherWorld, verb: str
):
    await up(world, replace(a_report("w1"), residents=(resident("big", 14),)))
    answer = await world.http.post(f"/models/big/{verb}", headers={"Origin": "http://elsewhere"})
    text = await world.http.post(f"/models/big/{verb}", content=b'{"worker": "w1"}')

    assert [(each.status_code, each.json()["code"]) for each in (answer, text)] == [(415, "unsupported_media_type")] * 2
    assert await waiting(world) == []
    assert not (await pins(world)).held


@pytest.mark.parametrize("verb", ["load", "unload", "pin", "unpin"])
async def test_without_a_store_nothing_is_asked_of_anybody(world: DispatcherWorld, verb: str):
    world.stores.down = True
    answer = await world.post(f"/models/big/{verb}", {})

    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert "retry-after" in answer.headers


async def test_an_order_that_nobody_gave_is_unknown(world: DispatcherWorld):
    answer = await world.http.get("/orders/none")

    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_order")


# -- drain -------------------------------------------------------------------------------------------------------------


async def drains(world: DispatcherWorld) -> frozenset[str]:
    return (await world.stores.fleet.sighting()).view.drains


async def test_a_worker_is_drained_until_it_is_undrained(world: DispatcherWorld):
    await up(world, a_report("w1"), a_report("w2"))

    answer = await world.post("/workers/w1/drain", {})
    again = await world.post("/workers/w1/drain", {})

    told = {"worker": "w1", "drain": True, "detail": answer.json()["detail"]}
    assert (answer.status_code, answer.json(), again.json()) == (200, told, told)
    assert "takes no more work" in told["detail"]
    assert await drains(world) == {"w1"}
    answer = await world.post("/workers/w1/undrain", {})
    assert answer.json() == {"worker": "w1", "drain": False, "detail": "w1 takes work again"}
    assert await drains(world) == frozenset()
    answer = await world.post("/workers/w1/undrain", {})
    assert (answer.status_code, answer.json()["detail"]) == (200, "w1 was not drained by hand")
    assert [len(said(world, kind)) for kind in ("worker.drain_asked", "worker.drain_ended")] == [1, 1]


async def test_a_drained_worker_that_is_down_may_be_undrained_by_its_id(world: DispatcherWorld):
    await up(world, a_report("w1"))
    await world.post("/workers/w1/drain", {})
    await world.stores.fleet.leave(a_report("w1"))

    assert "when it comes back" in (await world.post("/workers/w1/drain", {})).json()["detail"]
    assert "when it comes back" in (await world.post("/workers/w1/undrain", {})).json()["detail"]
    assert await drains(world) == frozenset()


@pytest.mark.parametrize("verb", ["drain", "undrain"])
@pytest.mark.parametrize("worker", ["nobody", "%F0%9F%98%80", "x" * 3000])
async def test_a_worker_nobody_knows_is_not_drained(world: DispatcherWorld, verb: str, worker: str):
    answer = await world.post(f"/workers/{worker}/{verb}", {})
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_worker")


async def test_a_drain_takes_no_fields_and_no_foreign_page(world: DispatcherWorld):
    await up(world, a_report("w1"))
    assert (await world.post("/workers/w1/drain", {"worker": "w2"})).status_code == 422
    foreign = await world.http.post("/workers/w1/drain", headers={"Origin": "http://elsewhere"})
    assert foreign.status_code == 415
    assert await drains(world) == frozenset()
