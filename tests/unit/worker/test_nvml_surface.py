"""The fake ``pynvml`` says what the real module says, and the probe uses nothing the fake lacks."""

import inspect
import re
from pathlib import Path

import pynvml
import pytest

import worker.nvml
from tests.support.fake_pynvml import BY_CODE, FakeDevice, FakeNvml, FakeProcess

FUNCTIONS = sorted(name for name in vars(FakeNvml) if name.startswith("nvml") and callable(getattr(FakeNvml, name)))
CONSTANTS = ["nvmlMemory_v2", "NVML_DEVICE_MIG_DISABLE", "NVML_DEVICE_MIG_ENABLE"]
ERRORS = sorted(name for name in dir(pynvml) if name.startswith("NVMLError_"))


def fields_of(structure: type) -> set[str]:
    return {name for name, _ in structure._fields_}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_the_fake_has_the_real_ones_signature(name: str):
    ours = inspect.signature(getattr(FakeNvml(), name))
    theirs = inspect.signature(getattr(pynvml, name))
    assert [(p.name, p.default, p.kind) for p in ours.parameters.values()] == [
        (p.name, p.default, p.kind) for p in theirs.parameters.values()
    ]


@pytest.mark.parametrize("name", CONSTANTS)
def test_a_constant_of_the_fake_has_the_real_value(name: str):
    assert getattr(FakeNvml, name) == getattr(pynvml, name)


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_class_of_the_real_module_is_in_the_fake(name: str):
    ours, theirs = getattr(FakeNvml(), name), getattr(pynvml, name)
    assert issubclass(ours, FakeNvml.NVMLError)
    assert issubclass(theirs, pynvml.NVMLError)
    assert ours().value == theirs().value
    assert isinstance(FakeNvml.NVMLError(ours().value), ours)
    assert isinstance(pynvml.NVMLError(theirs().value), theirs)


def test_the_fake_has_no_error_class_of_its_own():
    assert {kind.__name__ for kind in BY_CODE.values()} == set(ERRORS)


def test_common_errors_read_like_the_real_ones():
    for code in (1, 3, 4, 9, 12, 15, 16, 999):
        assert str(FakeNvml.NVMLError(code)) == str(pynvml.NVMLError(code))


def test_memory_and_processes_have_the_real_structures_fields():
    nvml = FakeNvml()
    nvml.nvmlInit()
    device = FakeDevice("GPU-1", processes=[FakeProcess(1, 2)])
    assert set(vars(nvml.nvmlDeviceGetMemoryInfo(device))) == fields_of(pynvml.c_nvmlMemory_t)
    assert set(vars(nvml.nvmlDeviceGetMemoryInfo(device, nvml.nvmlMemory_v2))) == fields_of(pynvml.c_nvmlMemory_v2_t)
    assert set(vars(nvml.nvmlDeviceGetUtilizationRates(device))) == fields_of(pynvml.c_nvmlUtilization_t)
    (process,) = nvml.nvmlDeviceGetComputeRunningProcesses(device)
    assert set(vars(process)) == fields_of(pynvml.c_nvmlProcessInfo_v3_t)


def test_the_probe_uses_only_what_both_have():
    used = set(re.findall(r"nvml\.(\w+)", Path(worker.nvml.__file__).read_text()))
    assert used, "the pattern finds nothing: it no longer fits the code"
    fake = FakeNvml()
    assert [name for name in used if not hasattr(pynvml, name)] == []
    assert [name for name in used if not hasattr(fake, name)] == []
