"""A machine with NVIDIA GPUs, as the module ``pynvml`` would show it: devices, memory, processes, MIG and every error.

``FakeNvml(devices)`` takes the place of the module. ``tests/unit/worker/test_nvml_surface.py`` holds names, signatures,
constants and error classes against the real module.
"""

# ruff: noqa: N802, N815 - these are pynvml's names

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, TypeVar

Answer = TypeVar("Answer")

MIB = 1024**2
GIB = 1024**3

_ERRORS = {
    "Uninitialized": (1, "Uninitialized"),
    "InvalidArgument": (2, "Invalid Argument"),
    "NotSupported": (3, "Not Supported"),
    "NoPermission": (4, "Insufficient Permissions"),
    "AlreadyInitialized": (5, "Already Initialized"),
    "NotFound": (6, "Not Found"),
    "InsufficientSize": (7, "Insufficient Size"),
    "InsufficientPower": (8, "Insufficient External Power"),
    "DriverNotLoaded": (9, "Driver Not Loaded"),
    "Timeout": (10, "Timeout"),
    "IrqIssue": (11, "Interrupt Request Issue"),
    "LibraryNotFound": (12, "NVML Shared Library Not Found"),
    "FunctionNotFound": (13, "Function Not Found"),
    "CorruptedInforom": (14, "Corrupted infoROM"),
    "GpuIsLost": (15, "GPU is lost"),
    "ResetRequired": (16, "GPU requires restart"),
    "OperatingSystem": (17, "The operating system has blocked the request."),
    "LibRmVersionMismatch": (18, "RM has detected an NVML/RM version mismatch."),
    "InUse": (19, ""),
    "Memory": (20, "Insufficient Memory"),
    "NoData": (21, ""),
    "VgpuEccNotSupported": (22, ""),
    "InsufficientResources": (23, ""),
    "FreqNotSupported": (24, ""),
    "ArgumentVersionMismatch": (25, ""),
    "Deprecated": (26, ""),
    "NotReady": (27, ""),
    "GpuNotFound": (28, ""),
    "InvalidState": (29, ""),
    "ResetTypeNotSupported": (30, ""),
    "Unknown": (999, "Unknown Error"),
}


class NVMLError(Exception):
    """Root of NVML's errors. ``NVMLError(15)`` is an instance of the class for code 15."""

    value: int
    text = ""

    def __new__(cls, *arguments: int) -> "NVMLError":  # noqa: PYI034 - the root makes objects of its subclasses
        if cls is NVMLError:
            return BY_CODE[arguments[0]]()
        return super().__new__(cls)

    def __str__(self) -> str:
        return self.text or f"NVML Error with code {self.value}"


Error = NVMLError  # inside FakeNvml the name means the module's attribute

BY_CODE: dict[int, type[NVMLError]] = {
    code: type(f"NVMLError_{name}", (NVMLError,), {"value": code, "text": text})
    for name, (code, text) in _ERRORS.items()
}
"""The class of each code."""


@dataclass(slots=True)
class FakeProcess:
    """A process on a device. ``used_bytes`` ``None``: the driver does not tell (WSL, vGPU, MIG without rights)."""

    pid: int
    used_bytes: int | None
    graphics: bool = False
    compute: bool = True


@dataclass(slots=True)
class FakeDevice:
    """A GPU or MIG instance. ``extra_bytes`` are in use by no process that is listed.

    ``instances`` ``None``: it knows no MIG; otherwise it is in MIG mode with these, ``None`` being an empty slot.
    ``failing`` maps names of functions to what they raise for this device.
    """

    uuid: str
    name: str = "NVIDIA H100 80GB HBM3"
    total_bytes: int = 80 * GIB
    driver_bytes: int = 512 * MIB
    extra_bytes: int = 0
    processes: list[FakeProcess] = field(default_factory=list)
    utilization: int = 0
    instances: "list[FakeDevice | None] | None" = None
    failing: dict[str, type[NVMLError]] = field(default_factory=dict)

    def fail(self, error: type[NVMLError], *functions: str) -> None:
        """From now on these functions raise; none named: all that take the device do."""
        self.failing.update(dict.fromkeys(functions or ("",), error))

    def fall_off_the_bus(self) -> None:
        """From now on every question about it is answered with "GPU is lost"."""
        self.fail(BY_CODE[15])


class FakeNvml:
    """The part of the module ``pynvml`` that the worker uses. ``init_error`` is what ``nvmlInit`` raises."""

    NVMLError = NVMLError
    nvmlMemory_v2 = 0x02000028
    NVML_DEVICE_MIG_DISABLE = 0
    NVML_DEVICE_MIG_ENABLE = 1

    def __init__(self, *devices: FakeDevice, init_error: type[Error] | None = None) -> None:
        self._devices = devices
        self._init_error = init_error
        self.initialised = 0

    def __getattr__(self, name: str) -> type[Error]:
        error = next((kind for kind in BY_CODE.values() if kind.__name__ == name), None)
        if error is None:
            raise AttributeError(f"pynvml has no {name}, or this fake lacks it")
        return error

    def nvmlInit(self) -> None:
        if self._init_error:
            raise self._init_error
        self.initialised += 1

    def nvmlShutdown(self) -> None:
        self._check()
        self.initialised -= 1

    def nvmlDeviceGetCount(self) -> int:
        self._check()
        return len(self._devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeDevice:
        self._check()
        if not 0 <= index < len(self._devices):
            raise BY_CODE[2]
        return self._ask(self._devices[index], "nvmlDeviceGetHandleByIndex", lambda device: device)

    def nvmlDeviceGetUUID(self, handle: FakeDevice) -> str:
        return self._ask(handle, "nvmlDeviceGetUUID", lambda device: device.uuid)

    def nvmlDeviceGetName(self, handle: FakeDevice) -> str:
        return self._ask(handle, "nvmlDeviceGetName", lambda device: device.name)

    def nvmlDeviceGetMemoryInfo(self, handle: FakeDevice, version: int | None = None) -> Any:
        # pynvml calls one function of the library or the other, so each can be missing by itself.
        function = "nvmlDeviceGetMemoryInfo_v2" if version else "nvmlDeviceGetMemoryInfo"
        return self._ask(handle, function, _memory_v2 if version else _memory_v1)

    def nvmlDeviceGetUtilizationRates(self, handle: FakeDevice) -> Any:
        def rates(device: FakeDevice) -> Any:
            if device.instances is not None or device.uuid.startswith("MIG-"):
                raise BY_CODE[3]
            return SimpleNamespace(gpu=device.utilization, memory=0)

        return self._ask(handle, "nvmlDeviceGetUtilizationRates", rates)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: FakeDevice) -> list[Any]:
        return self._ask(
            handle,
            "nvmlDeviceGetComputeRunningProcesses",
            lambda device: [_listed(process) for process in device.processes if process.compute],
        )

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: FakeDevice) -> list[Any]:
        return self._ask(
            handle,
            "nvmlDeviceGetGraphicsRunningProcesses",
            lambda device: [_listed(process) for process in device.processes if process.graphics],
        )

    def nvmlDeviceGetMigMode(self, device: FakeDevice) -> list[int]:
        def mode(device: FakeDevice) -> list[int]:
            if device.instances is None:
                raise BY_CODE[3]
            return [self.NVML_DEVICE_MIG_ENABLE, self.NVML_DEVICE_MIG_ENABLE]

        return self._ask(device, "nvmlDeviceGetMigMode", mode)

    def nvmlDeviceGetMaxMigDeviceCount(self, device: FakeDevice) -> int:
        return self._ask(device, "nvmlDeviceGetMaxMigDeviceCount", lambda device: len(device.instances or ()))

    def nvmlDeviceGetMigDeviceHandleByIndex(self, device: FakeDevice, index: int) -> FakeDevice:
        def instance(device: FakeDevice) -> FakeDevice:
            found = (device.instances or [])[index]
            if found is None:
                raise BY_CODE[6]
            return found

        return self._ask(device, "nvmlDeviceGetMigDeviceHandleByIndex", instance)

    def _check(self) -> None:
        if not self.initialised:
            raise BY_CODE[1]

    def _ask(self, device: FakeDevice, function: str, answer: Callable[[FakeDevice], Answer]) -> Answer:
        self._check()
        error = device.failing.get(function) or device.failing.get("")
        if error:
            raise error
        return answer(device)


def _used(device: FakeDevice) -> int:
    return device.extra_bytes + sum(process.used_bytes or 0 for process in device.processes)


def _memory_v1(device: FakeDevice) -> Any:
    """The older structure counts what the driver keeps for itself as used."""
    used = _used(device) + device.driver_bytes
    return SimpleNamespace(total=device.total_bytes, free=device.total_bytes - used, used=used)


def _memory_v2(device: FakeDevice) -> Any:
    used, total, reserved = _used(device), device.total_bytes, device.driver_bytes
    return SimpleNamespace(version=0, total=total, reserved=reserved, free=total - reserved - used, used=used)


def _listed(process: FakeProcess) -> Any:
    return SimpleNamespace(
        pid=process.pid, usedGpuMemory=process.used_bytes, gpuInstanceId=None, computeInstanceId=None
    )
