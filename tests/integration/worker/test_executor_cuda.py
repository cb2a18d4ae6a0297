"""The executor on a real CUDA device: skipped, and said so, where there is none."""

import asyncio

import pytest

from affinity.fleet import GIB
from models.catalog import Catalog, default_catalog_path
from worker.executor import Executor
from worker.gpu import DriverMissing, open_probe
from worker.host_cache import Tier
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
        host_cache_bytes=GIB,
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
        assert executor.cached.held_bytes >= 80e6
        probe.observe(device.uuid, executor.pid, 0)
        without = await asyncio.to_thread(probe.read, device.uuid, pids, 0)
        assert without.used_bytes - without.foreign_bytes <= with_model.used_bytes - with_model.foreign_bytes - 64e6
        again = await executor.load(Catalog.load(default_catalog_path()).get("minilm-l6-v2"))
        assert again.tier is Tier.HOST
        assert again.load_s < loaded.load_s
        repeated = await executor.run("minilm-l6-v2", [{"texts": ["A man is eating food."]}])
        assert repeated.results == reply.results
    finally:
        await executor.kill()
        probe.close()
