"""The host tier's bookkeeping: what stays, what goes first, and what a model is told."""

from collections.abc import Sequence

import pytest

from affinity.errors import LoadFailed
from worker.host_cache import Cached, HostCache


class Weights:
    """A model that is nothing but its weight; ``told`` is what became of it."""

    def __init__(self, host_bytes: int | None) -> None:
        self.host_bytes = host_bytes
        self.weight_bytes = host_bytes or 0
        self.told: list[str] = []

    def run(self, inputs: Sequence[object]) -> Sequence[object]:
        return inputs

    def close(self) -> None:
        self.told.append("closed")

    def leave_device(self) -> None:
        self.told.append("left")

    def return_to_device(self) -> None:
        self.told.append("returned")

    def drop_host_copy(self) -> None:
        self.told.append("copy dropped")


def park(cache: HostCache, name: str, model: Weights, room_for: str = "") -> bool:
    return cache.park(name, model, model.leave_device, room_for)


def come_back(cache: HostCache, name: str) -> None:
    model = cache.parked(name)
    assert model is not None
    model.return_to_device()
    cache.returned(name)


def test_what_leaves_is_kept_until_its_room_is_needed_and_the_least_recently_evicted_goes_first():
    cache, a, b, c = HostCache(10), Weights(4), Weights(4), Weights(5)
    assert park(cache, "a", a)
    assert park(cache, "b", b)
    assert cache.cached == Cached(("a", "b"), 8)
    assert park(cache, "c", c)
    assert cache.cached == Cached(("b", "c"), 9)
    assert (a.told, b.told, c.told) == (["left", "closed"], ["left"], ["left"])
    assert cache.parked("a") is None
    assert cache.parked("b") is b


def test_a_model_larger_than_the_cache_is_not_kept_and_pushes_nothing_out():
    cache, small, large = HostCache(10), Weights(4), Weights(11)
    park(cache, "small", small)
    assert not park(cache, "large", large)
    assert (small.told, large.told) == (["left"], [])
    assert cache.cached == Cached(("small",), 4)


def test_the_last_byte_can_be_used():
    cache = HostCache(10)
    assert park(cache, "a", Weights(4))
    assert park(cache, "b", Weights(6))
    assert cache.cached.held_bytes == 10


@pytest.mark.parametrize("host_bytes", [0, 1])
def test_without_a_cache_nothing_is_kept_not_even_what_weighs_nothing(host_bytes: int):
    cache, model = HostCache(0), Weights(host_bytes)
    assert not park(cache, "a", model)
    assert (cache.cached, model.told) == (Cached(), [])


def test_a_model_that_cannot_be_kept_is_not():
    cache, model = HostCache(10), Weights(None)
    assert not park(cache, "a", model)
    assert model.told == []


def test_what_came_back_keeps_its_copy_so_that_leaving_again_needs_no_room():
    cache, a, b = HostCache(10), Weights(6), Weights(4)
    park(cache, "a", a)
    come_back(cache, "a")
    assert cache.parked("a") is None, "it is on the GPU"
    assert cache.cached == Cached(("a",), 6)
    park(cache, "b", b)
    assert park(cache, "a", a)
    assert cache.cached == Cached(("b", "a"), 10)
    assert (a.told, b.told) == (["left", "returned", "left"], ["left"])


def test_copies_of_what_is_on_the_gpu_go_first_and_cost_nobody_a_load():
    cache, a, b, c = HostCache(10), Weights(4), Weights(6), Weights(3)
    park(cache, "a", a)
    park(cache, "b", b)
    come_back(cache, "b")
    assert cache.cached.models == ("b", "a")
    park(cache, "c", c)
    assert cache.cached == Cached(("a", "c"), 7)
    assert (a.told, b.told) == (["left"], ["left", "returned", "copy dropped"])


def test_no_more_is_dropped_than_is_needed():
    cache, models = HostCache(10), {name: Weights(3) for name in "abc"}
    for name, model in models.items():
        park(cache, name, model)
    park(cache, "d", Weights(2))
    assert cache.cached == Cached(("b", "c", "d"), 8)


def test_the_model_that_is_about_to_be_loaded_is_not_pushed_out_by_what_makes_room_for_it():
    cache, wanted, other, victim = HostCache(10), Weights(5), Weights(4), Weights(5)
    park(cache, "wanted", wanted)
    park(cache, "other", other)
    assert park(cache, "victim", victim, room_for="wanted")
    assert cache.cached == Cached(("wanted", "victim"), 10)
    assert other.told == ["left", "closed"]
    assert not park(cache, "large", Weights(6), room_for="wanted")
    assert cache.cached == Cached(("wanted", "victim"), 10)


def test_a_model_that_fails_to_leave_leaves_no_copy():
    cache, model = HostCache(10), Weights(4)

    def fail() -> None:
        raise LoadFailed("no page-locked memory")

    with pytest.raises(LoadFailed):
        cache.park("a", model, fail)
    assert cache.cached == Cached()
    park(cache, "a", model)
    come_back(cache, "a")
    with pytest.raises(LoadFailed):
        cache.park("a", model, fail)
    assert cache.cached == Cached()
    assert cache.parked("a") is None
