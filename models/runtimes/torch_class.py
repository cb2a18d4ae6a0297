"""Runtime ``torch``: any class of the user's with safetensors weights. The extension point; see docs/models.md.

The class is an ``nn.Module`` with ``predict(inputs: list) -> list`` and, if it likes, ``validate(input) -> None``.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from affinity.errors import AffinityError, InvalidInput, JobFailed, LoadFailed
from models.entry import ModelEntry, TorchOptions
from models.runtimes.base import plain_or_error, translated
from models.runtimes.host_weights import TorchCore
from models.runtimes.torch_device import listed, prepare, read_tensors, release
from models.sources import find_files

__all__ = ["load", "release"]


def load(entry: ModelEntry, device: str) -> "TorchClass":
    """Build the class, give it the weights, put it on the device."""
    prepare(device)
    options = entry.options_as(TorchOptions)
    files = find_files(entry.source, entry.folder, "*.safetensors")
    module = _built(_class(options.class_path, entry.folder), options)
    _assign(module, read_tensors(files, device), options.class_path)
    # Buffers that are not in the file are still where __init__ made them.
    return TorchClass(module.to(device).eval().requires_grad_(False), device)


class TorchClass(TorchCore):
    """The user's module behind the family's interface."""

    def __init__(self, module: Any, device: str) -> None:
        super().__init__(module, device)
        self._module = module

    @torch.inference_mode()
    def forward(self, inputs: Sequence[dict[str, object]]) -> Sequence[object | AffinityError]:
        refusals = [self._refusal(value) for value in inputs]
        accepted = [value for value, refusal in zip(inputs, refusals, strict=True) if refusal is None]
        answers = self._module.predict(accepted) if accepted else []
        if not isinstance(answers, list | tuple) or len(answers) != len(accepted):
            given = f"{len(answers)} results" if isinstance(answers, list | tuple) else f"a {type(answers).__name__}"
            raise JobFailed(f"predict returned {given} for {len(accepted)} inputs; return a list, one result per input")
        results = iter(answers)
        return [refusal or plain_or_error(next(results)) for refusal in refusals]

    def _refusal(self, value: dict[str, object]) -> InvalidInput | None:
        """What the class's own ``validate`` says: whatever it raises is the caller's fault."""
        if not hasattr(self._module, "validate"):
            return None
        try:
            self._module.validate(value)
        except InvalidInput as error:
            return error
        except Exception as error:  # noqa: BLE001 - a user's class may raise anything
            return InvalidInput(str(error) or type(error).__name__, "input")
        return None


def _class(class_path: str, folder: Path) -> type[torch.nn.Module]:
    module_name, _, class_name = class_path.partition(":")
    if str(folder) not in sys.path:
        # A class may lie beside its catalogue. At the end, so that it never shadows an installed module.
        sys.path.append(str(folder))
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except AttributeError as error:
        raise LoadFailed(f"module {module_name} has no {class_name}; correct options.class") from error
    except ModuleNotFoundError as error:
        raise LoadFailed(
            f"options.class {class_path}: there is no module {error.name}; install it or put it beside the catalogue"
        ) from error
    except Exception as error:
        raise translated(error, f"importing {module_name}", LoadFailed) from error
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module) and hasattr(found, "predict")):
        raise LoadFailed(f"{class_path} must be a torch.nn.Module with a method predict(inputs: list) -> list")
    return found


def _built(kind: type[torch.nn.Module], options: TorchOptions) -> torch.nn.Module:
    try:
        return kind(**options.kwargs)
    except Exception as error:
        raise translated(error, f"building {options.class_path}", LoadFailed) from error


def _assign(module: torch.nn.Module, tensors: dict[str, torch.Tensor], class_path: str) -> None:
    """Weights become the module's own without a copy; names and shapes must agree exactly."""
    expected = module.state_dict()
    faults = []
    if missing := expected.keys() - tensors.keys():
        faults.append(f"the weights lack {listed(missing)}")
    if unexpected := tensors.keys() - expected.keys():
        faults.append(f"the class has no {listed(unexpected)}")
    odd = {
        f"{name} {list(tensors[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in tensors and tensors[name].shape != tensor.shape
    }
    if odd:
        faults.append(f"shapes differ: {listed(odd)}")
    if faults:
        raise LoadFailed(f"{class_path} and its weights do not belong together: {'; '.join(faults)}")
    module.load_state_dict(tensors, strict=True, assign=True)
