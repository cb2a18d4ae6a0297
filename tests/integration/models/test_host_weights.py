"""Weights on their way to the host's memory and back, with real networks.

The "device" of most tests is the CPU, with ``clone`` in the place of both copies: what is moved and what is let go is
the same. ``test_gpu.py`` does it on a GPU.
"""

import weakref
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from affinity.errors import InvariantBroken, LoadFailed, OutOfVram
from models.catalog import Catalog
from models.entry import ModelEntry
from models.runtimes import load
from models.runtimes.base import GuardedModel
from models.runtimes.host_weights import HostWeights, TorchCore, has_strays, named_tensors, pinned_bytes


class Network(torch.nn.Module):
    """Tied weights, a buffer that changes, and a recurrent layer whose weights cuDNN wants in one block."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(7, 4)
        self.rnn = torch.nn.LSTM(4, 4)
        self.out = torch.nn.Linear(4, 7, bias=False)
        self.out.weight = self.embed.weight
        self.register_buffer("calls", torch.zeros(1))

    @torch.inference_mode()
    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.out(self.rnn(self.embed(tokens))[0])


TOKENS = torch.arange(7)


def moved(network: torch.nn.Module) -> HostWeights:
    return HostWeights(network, torch.clone, torch.clone)


def test_what_comes_back_computes_the_same_and_what_left_is_not_held_any_more():
    network = Network().eval().requires_grad_(False)
    expected, weights = network(TOKENS), moved(network)
    on_device = [weakref.ref(tensor.untyped_storage()) for _, tensor in named_tensors(network)]
    weights.leave()
    assert [ref() for ref in on_device] == [None] * len(on_device)
    on_host = {name: tensor.data_ptr() for name, tensor in named_tensors(network)}
    weights.back()
    assert on_host.keys() == dict(named_tensors(network)).keys()
    assert all(tensor.data_ptr() != on_host[name] for name, tensor in named_tensors(network))
    assert torch.equal(network(TOKENS), expected)
    assert network.out.weight is network.embed.weight, "what was tied is tied"


def test_a_copy_is_made_once_and_what_changed_while_it_served_is_kept():
    network = Network().eval().requires_grad_(False)
    made: list[tuple[int, ...]] = []

    def counted(tensor: torch.Tensor) -> torch.Tensor:
        made.append(tuple(tensor.shape))
        return tensor.clone()

    weights = HostWeights(network, counted, torch.clone)
    weights.leave()
    first = len(made)
    assert first == len(dict(named_tensors(network)))
    weights.back()
    network(TOKENS)
    network(TOKENS)
    weights.leave()
    assert len(made) == first
    weights.back()
    assert network.calls.item() == 2
    weights.drop()
    weights.leave()
    assert len(made) == 2 * first, "a dropped copy has to be made again"


def test_a_copy_back_that_finds_no_room_leaves_everything_on_the_host_to_be_tried_again():
    network = Network().eval().requires_grad_(False)
    expected = network(TOKENS)
    room = iter([True, True, False])

    def cramped(tensor: torch.Tensor) -> torch.Tensor:
        if not next(room, True):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return tensor.clone()

    weights = HostWeights(network, torch.clone, cramped)
    weights.leave()
    on_host = {name: tensor.data_ptr() for name, tensor in named_tensors(network)}
    with pytest.raises(torch.OutOfMemoryError):
        weights.back()
    assert {name: tensor.data_ptr() for name, tensor in named_tensors(network)} == on_host
    weights.back()
    assert torch.equal(network(TOKENS), expected)


def test_a_model_whose_tensors_changed_their_shape_is_not_given_an_older_copy():
    network = Network().eval().requires_grad_(False)
    weights = moved(network)
    weights.leave()
    weights.back()
    network.calls = torch.zeros(5)
    with pytest.raises(LoadFailed, match="changed while it served"):
        weights.leave()


def test_torchscript_and_transformers_models_move_too(
    catalog: Catalog, spoken: bytes, sound: Callable[[bytes], object]
):
    for name, value in (("silero-vad", sound(spoken)), ("minilm-l6-v2", {"texts": ["A man is eating food."]})):
        model = load(catalog.get(name), "cpu")
        assert isinstance(model, GuardedModel)
        expected, core = model.run([value]), model._core
        assert isinstance(core, TorchCore)
        weights = moved(core._network)
        weights.leave()
        weights.back()
        assert model.run([value]) == expected, name


@pytest.mark.parametrize(("nbytes", "taken"), [(0, 0), (1, 1), (4096, 4096), (4097, 8192), (90 * 2**20, 128 * 2**20)])
def test_page_locked_blocks_are_counted_as_the_power_of_two_they_take(nbytes: int, taken: int):
    assert pinned_bytes(nbytes) == taken


class Holder(TorchCore):
    """A core that may hold more than its network."""

    def __init__(self, extra: object = None) -> None:
        super().__init__(Network().to("meta"), "meta")
        self.extra = extra


@pytest.mark.parametrize(
    "extra",
    [
        torch.zeros(2, device="meta"),
        [{"deep": (SimpleNamespace(cache=torch.zeros(2, device="meta")),)}],
    ],
)
def test_a_tensor_kept_beside_the_network_is_found_and_the_model_cannot_be_cached(extra: object):
    assert Holder(extra).host_bytes is None


def test_only_tensors_on_the_device_are_strays():
    holder = Holder([torch.zeros(2), "text", print, torch.nn.Linear])
    assert not has_strays(holder, "meta")
    assert holder.host_bytes == sum(pinned_bytes(tensor.nbytes) for _, tensor in named_tensors(holder._network))


def test_on_the_cpu_a_model_is_in_the_hosts_memory_as_it_is(catalog: Catalog):
    model = load(catalog.get("tiny-mlp"), "cpu")
    assert model.host_bytes == model.weight_bytes == 9 * 4
    model.leave_device()
    model.return_to_device()
    model.drop_host_copy()
    assert model.run([{"bits": [0, 1]}]) == [{"xor": 1.0}]


class Immovable:
    """A core whose moves fail."""

    weight_bytes = host_bytes = 7

    def __init__(self, error: Exception) -> None:
        self.error = error

    def leave_device(self) -> None:
        raise self.error

    return_to_device = drop_host_copy = leave_device


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfVram),
        (RuntimeError("CUDA error: out of memory"), OutOfVram),
        (RuntimeError("incompatible tensor type"), LoadFailed),
        (LoadFailed("changed"), LoadFailed),
    ],
)
def test_what_goes_wrong_on_the_way_is_translated_and_what_it_took_is_released(error: Exception, kind: type):
    released: list[str] = []
    model = GuardedModel(ModelEntry("m", "torch"), Immovable(error), lambda: released.append("released"))
    for move in (model.leave_device, model.return_to_device):
        with pytest.raises(kind):
            move()
    assert len(released) == 2


def test_a_closed_model_is_nowhere(catalog: Catalog):
    model = load(catalog.get("tiny-mlp"), "cpu")
    model.close()
    assert model.host_bytes is None
    with pytest.raises(InvariantBroken, match="moved after it was closed"):
        model.return_to_device()
