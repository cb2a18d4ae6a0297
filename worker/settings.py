"""The worker's settings: the one place of this package that reads the environment.

A field's name in capitals is its environment variable. Memory is given in GiB here and used in bytes everywhere else.
"""

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import NoDecode

from affinity.fleet import GIB
from affinity.io.connection_settings import ConnectionSettings
from worker.gpu_probe import GpuDevice

HEARTBEATS_PER_LEASE = 3

_PRIVATE = ("RABBITMQ_", "REDIS_", "AFFINITY_", "WORKER_", "DISPATCHER_")
"""Heads of variables that executors must not inherit: they hold passwords, and models are other people's code."""


def _default_id() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"


class WorkerSettings(ConnectionSettings):
    """What one worker process is told. Frozen; a bad value stops the process with exit 2 (``load_settings``)."""

    worker_id: str = Field(
        default_factory=_default_id,
        pattern=r"^[A-Za-z0-9._\-]{1,100}$",
        description="Name of this worker, unique in its namespace. Default: host name and process id.",
    )
    worker_gpu: Literal["auto", "nvml", "simulated"] = Field(
        "auto", description="Where GPUs come from: nvml (NVIDIA's), simulated, or auto: nvml if there is one."
    )
    worker_gpu_index: Annotated[tuple[int, ...] | None, NoDecode] = Field(
        None, description="Serve only these GPUs, as 0,2 in the order of nvidia-smi. Default: all that are visible."
    )
    worker_simulated_vram_gib: float = Field(
        24.0, gt=0, le=1_000_000, allow_inf_nan=False, description="Memory of each simulated GPU, in GiB."
    )
    worker_simulated_gpus: int = Field(1, ge=1, le=64, description="Number of simulated GPUs of this worker.")
    worker_vram_reserve_gib: float | None = Field(
        None,
        ge=0,
        le=1_000_000,
        allow_inf_nan=False,
        description="Memory kept free on each GPU, in GiB. Default: 0.5 (CUDA's own context), 0 on simulated GPUs.",
    )
    worker_host_cache_gib: float = Field(
        # Off: what is page-locked is lost to everything else on the host, and only its owner knows what can be spared.
        0.0,
        ge=0,
        le=1_000_000,
        allow_inf_nan=False,
        description="Host memory for each GPU, in GiB, that keeps weights of models which left VRAM; 0 keeps none.",
    )
    worker_heartbeat_s: float = Field(
        2.0, gt=0, le=60, allow_inf_nan=False, description="Seconds between two reports to the store."
    )
    worker_lease_s: float = Field(
        10.0,
        gt=0,
        le=600,
        allow_inf_nan=False,
        description="Seconds without a report after which a worker counts as lost; at least 3 heartbeats.",
    )
    worker_grace_s: float = Field(
        30.0, ge=0, le=86_400, allow_inf_nan=False, description="Seconds a stopping worker gives its running jobs."
    )
    worker_metrics_host: str = Field(
        "127.0.0.1", min_length=1, description="Address that metrics and health listen on."
    )
    worker_metrics_port: int = Field(8000, ge=0, le=65535, description="Port of metrics and health; 0: any free one.")
    worker_fallback_prefetch: int = Field(
        16, ge=1, le=1000, description="Jobs a worker takes from the fallback queue ahead of sorting them."
    )
    cuda_visible_devices: str | None = Field(
        # Empty variables count as not set, but this one empty means "no device": the default has to look once more.
        default_factory=lambda: os.environ.get("CUDA_VISIBLE_DEVICES"),
        description="CUDA's own variable: devices the worker may see, by index or UUID; empty hides them all.",
    )

    @field_validator("worker_gpu", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("worker_gpu_index", mode="before")
    @classmethod
    def _indices(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        words = [word.strip() for word in value.split(",")]
        if not all(word.isdecimal() for word in words):
            raise ValueError("must be GPU indices with commas between them, such as 0 or 0,2")
        return tuple(int(word) for word in words)

    @field_validator("worker_lease_s")
    @classmethod
    def _outlives_heartbeats(cls, lease_s: float, others: ValidationInfo) -> float:
        heartbeat_s = others.data.get("worker_heartbeat_s")
        if heartbeat_s is not None and lease_s < HEARTBEATS_PER_LEASE * heartbeat_s:
            # One late or lost report would look like a dead worker, and its jobs would start a second time.
            raise ValueError(f"must be at least {HEARTBEATS_PER_LEASE} x WORKER_HEARTBEAT_S ({heartbeat_s:g})")
        return lease_s

    @property
    def simulated_vram_bytes(self) -> int:
        """Memory of each simulated GPU."""
        return int(self.worker_simulated_vram_gib * GIB)

    @property
    def host_cache_bytes(self) -> int:
        """Most that weights which left VRAM may keep of the host's memory, for each GPU."""
        return int(self.worker_host_cache_gib * GIB)

    def reserve_bytes(self, torch_device: str) -> int:
        """Memory kept free on a GPU: as set, else half a GiB for CUDA's context where there is one."""
        if self.worker_vram_reserve_gib is None:
            return 0 if torch_device == "cpu" else GIB // 2
        return int(self.worker_vram_reserve_gib * GIB)


def worker_ids(settings: WorkerSettings, devices: Sequence[GpuDevice]) -> Mapping[str, str]:
    """GPU's UUID -> id of its worker: ``WORKER_ID`` itself for a single GPU, else ``<WORKER_ID>-gpu<index>``."""
    if len(devices) == 1:
        return {devices[0].uuid: settings.worker_id}
    return {device.uuid: f"{settings.worker_id}-gpu{device.index}" for device in devices}


def executor_environment() -> dict[str, str]:
    """The environment of this process without our own settings: what an executor inherits."""
    return {name: value for name, value in os.environ.items() if not name.upper().startswith(_PRIVATE)}
