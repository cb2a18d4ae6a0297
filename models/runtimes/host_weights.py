"""Weights of torch networks on their way between the device and the host's memory.

In the host's memory they are page-locked ("pinned"): only such memory is copied to a GPU at the full speed of PCIe.
"""

import gc
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import torch

from affinity.errors import LoadFailed
from models.runtimes.torch_device import module_bytes

Copy = Callable[[torch.Tensor], torch.Tensor]

_LEAVES = (type, ModuleType, FunctionType, BuiltinFunctionType, str, bytes, int, float)
"""What a model does not own, or what holds nothing: a search through its objects ends there."""


class TorchCore:
    """Base of the torch families' models: a network that can leave its device and come back.

    On the CPU there is nothing to move: the weights lie in the host's memory as it is.
    """

    def __init__(self, network: torch.nn.Module, device: str) -> None:
        self._network = network
        self._device = device
        self._weights = HostWeights(network, pinned_copy, lambda tensor: tensor.to(device, non_blocking=True))
        self.weight_bytes = module_bytes(network)

    @property
    def host_bytes(self) -> int | None:
        """What the weights take, or would take, of the host's memory.

        ``None`` for a model that keeps tensors on its GPU which are neither parameters nor buffers: they would stay.
        """
        if self._device == "cpu":
            return self.weight_bytes
        if has_strays(self, torch.device(self._device).type):
            return None
        return sum(pinned_bytes(tensor.nbytes) for _, tensor in named_tensors(self._network))

    def leave_device(self) -> None:
        """Copy the weights into the host's memory, unless they are there still, and let those on the device go."""
        if self._device != "cpu":
            self._weights.leave()

    def return_to_device(self) -> None:
        """Copy the weights to the device. If that fails, they are all where they were."""
        if self._device != "cpu":
            self._weights.back()

    def drop_host_copy(self) -> None:
        """Forget the copy in the host's memory; ``release`` then gives that memory back."""
        self._weights.drop()


class HostWeights:
    """Every parameter and buffer of a network, moved under its feet: the tensors keep their identity.

    Ties between layers, TorchScript modules and an optimiser's or pipeline's references therefore survive.
    """

    def __init__(self, network: torch.nn.Module, to_host: Copy, to_device: Copy) -> None:
        self._network = network
        self._to_host = to_host
        self._to_device = to_device
        self._copies: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def leave(self) -> None:
        """To the host. Parameters do not change while a model serves, so a copy that is there already will do."""
        tensors = dict(named_tensors(self._network))
        copies = self._copies or {name: self._to_host(tensor) for name, tensor in tensors.items()}
        if {name: _kind(tensor) for name, tensor in tensors.items()} != {n: _kind(copy) for n, copy in copies.items()}:
            raise LoadFailed("the model's tensors changed while it served")
        if copies is self._copies:
            for name, buffer in self._network.named_buffers():
                copies[name].copy_(buffer, non_blocking=True)
        self._put(tensors, copies)
        self._copies = copies

    @torch.no_grad()
    def back(self) -> None:
        """To the device; the copies stay, see ``leave``."""
        moved = {name: self._to_device(copy) for name, copy in self._copies.items()}
        self._put(dict(named_tensors(self._network)), moved)
        for module in self._network.modules():
            if isinstance(module, torch.nn.RNNBase):
                module.flatten_parameters()  # cuDNN wants them in one block, and warns at every call where they are not

    def drop(self) -> None:
        """Forget the copies."""
        self._copies = {}

    @staticmethod
    def _put(tensors: dict[str, torch.Tensor], values: dict[str, torch.Tensor]) -> None:
        for name, tensor in tensors.items():
            tensor.data = values[name]


def named_tensors(network: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers, each once, tied ones under their first name."""
    yield from network.named_parameters()
    yield from network.named_buffers()


def pinned_copy(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in page-locked memory. It is complete once the current stream is."""
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


def pinned_bytes(nbytes: int) -> int:
    """What torch takes for a page-locked block: it rounds up to a power of two."""
    return 1 << (nbytes - 1).bit_length() if nbytes else 0


def has_strays(core: TorchCore, device_type: str) -> bool:
    """True if the model holds a tensor on such a device beside its network's parameters and buffers."""
    known = {id(tensor) for _, tensor in named_tensors(core._network)}
    seen: set[int] = set()
    waiting: list[Any] = [core]
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, _LEAVES):
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.Tensor):
            if thing.device.type == device_type and id(thing) not in known:
                return True
            continue
        waiting += gc.get_referents(thing)
    return False


def _kind(tensor: torch.Tensor) -> tuple[torch.Size, torch.dtype]:
    return tensor.shape, tensor.dtype
