"""Names and arguments on the broker and in Redis: another installation, another version must find the same."""

import pytest

from affinity.errors import InvalidInput, InvariantBroken
from affinity.topology import PERSISTENT, Keys, Topology, is_tenants, lane, model_in

NAMES = Topology("ns")


def test_exchanges_and_queues_have_their_documented_names() -> None:
    assert NAMES.jobs_exchange == "ns.jobs"
    assert NAMES.fallback == "ns.fallback"
    assert NAMES.dead == "ns.dead"
    assert NAMES.model_queue("org/m-1.5:x_y") == "ns.model.org/m-1.5:x_y"
    assert PERSISTENT == 2


def test_a_lane_is_a_models_queue_for_one_tenant_and_its_name_is_the_routing_key() -> None:
    assert lane("org/m-1.5:x_y", "acme.x") == "org/m-1.5:x_y@acme.x"
    assert lane("m", "") == "m"
    assert NAMES.model_queue(lane("m", "acme")) == "ns.model.m@acme"
    for key in ("m@acme", "ns.model.m@acme"):
        assert (NAMES.lane_of(key), NAMES.model_of(key)) == ("m@acme", "m")
    assert (NAMES.lane_of("ns.model.m"), NAMES.model_of("m")) == ("m", "m")
    assert (model_in("m@acme"), model_in("m")) == ("m", "m")
    assert (is_tenants("m@acme"), is_tenants("m")) == (True, False)


@pytest.mark.parametrize("name", ["m#@acme", "m@ac me", "m@a@b", "@acme"])
def test_a_lane_of_no_model_or_no_tenant_has_no_queue(name: str) -> None:
    with pytest.raises(InvalidInput):
        NAMES.model_queue(name)


def test_what_no_queue_is_bound_for_goes_to_fallback() -> None:
    assert dict(NAMES.jobs_exchange_arguments) == {"alternate-exchange": "ns.fallback"}


def test_a_models_queue_is_declared_with_exactly_these_arguments() -> None:
    assert dict(NAMES.model_queue_arguments) == {
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": "ns.fallback",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
        "x-delivery-limit": 100,
        "x-message-ttl": 600_000,
    }


def test_the_fallback_queue_neither_expires_nor_drops() -> None:
    assert dict(NAMES.fallback_arguments) == {
        "x-queue-type": "quorum",
        "x-delivery-limit": 100,
        "x-dead-letter-exchange": "ns.dead",
    }


def test_the_dead_letters_are_the_end_of_the_line() -> None:
    assert dict(NAMES.dead_arguments) == {"x-queue-type": "quorum"}


def test_the_safety_net_is_in_whole_milliseconds() -> None:
    ttl = Topology("ns", model_ttl_s=0.2).model_queue_arguments["x-message-ttl"]
    assert (ttl, type(ttl)) == (200, int)


def test_a_delivery_limit_holds_for_models_and_fallback() -> None:
    names = Topology("ns", delivery_limit=5)
    assert names.model_queue_arguments["x-delivery-limit"] == names.fallback_arguments["x-delivery-limit"] == 5


@pytest.mark.parametrize("name", ["", "a*", "#", "a b", "m" * 129])
def test_no_queue_is_named_after_what_is_no_model(name: str) -> None:
    with pytest.raises(InvalidInput):
        NAMES.model_queue(name)


def test_each_worker_has_a_binding_of_its_own() -> None:
    assert dict(NAMES.binding_arguments("w1")) == {"worker": "w1"}


@pytest.mark.parametrize("model", ["m", "org/m:1", "model.m"])
def test_a_routing_key_is_the_model_or_its_queue(model: str) -> None:
    assert NAMES.model_of(model) == model
    assert NAMES.model_of(NAMES.model_queue(model)) == model


@pytest.mark.parametrize("namespace", ["", "a:b"])
def test_a_namespace_cannot_reach_into_another_ones_keys(namespace: str) -> None:
    with pytest.raises(InvariantBroken, match="namespace"):
        Keys(namespace)


def test_every_key_begins_with_the_namespace_and_no_two_are_alike() -> None:
    keys = Keys("ns")
    single = [keys.unpublished, keys.demand, keys.workers, keys.epoch, keys.measured, keys.wake, keys.events]
    made = [keys.job, keys.queued, keys.report, keys.lease, keys.gpu, keys.claim, keys.reaping]
    every = [*single, *(make("x") for make in made), keys.index(), keys.index("queued"), keys.index(model="m")]
    assert all(key.startswith(keys.prefix) for key in every)
    assert keys.prefix == "ns:"
    assert len(set(every)) == len(every)
