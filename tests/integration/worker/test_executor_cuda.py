"""The executor on a real CUDA device: skipped, and said so, where there is none."""

import asyncio

import pytest

from models.catalog import Catalog, default_catalog_path
from worker.executor import Executor
from worker.gpu import DriverMissing, open_probe
from worker.settings import WorkerSettings, executor_environment

pytestmark = pytest.mark.gpu


async def test_a_model_takes_vram_serves_and_gives_it_back_as_the_driver_counts():
    try:
        probe = open_probe(WorkerSettings(worker_gpu="nvml"))
    except DriverMissing as missing:
        pytest.skip(str(missing))
    device = probe.devices()[0]
    executor = Executor(
        env={**executor_environment(), **probe.executor_env(device.uuid)},
        torch_device=probe.torch_device,
        limit_bytes=None,
        label="test",
    )
    await executor.start()
    try:
        pids = frozenset({executor.pid})
        loaded = await executor.load(Catalog.load(default_catalog_path()).get("minilm-l6-v2"))
        assert loaded.reserved_bytes > 80e6
        probe.observe(device.uuid, executor.pid, loaded.total_bytes)
        with_model = await asyncio.to_thread(probe.read, device.uuid, pids, 0)
        assert with_model.used_bytes - with_model.foreign_bytes >= loaded.total_bytes
        reply = await executor.run("minilm-l6-v2", [{"texts": ["A man is eating food."]}])
        assert len(reply.results[0]["embeddings"][0]) == 384
        assert reply.reserved_bytes >= loaded.reserved_bytes
        assert await executor.unload("minilm-l6-v2") < reply.total_bytes
    finally:
        await executor.kill()
        probe.close()
