"""The executor with real child processes and models: results, memory, loading beside running, and errors."""

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import pytest

from affinity.errors import InvalidInput, InvariantBroken, JobFailed, LoadFailed, OutOfVram, PayloadTooLarge
from affinity.fleet import GIB
from models.catalog import Catalog, default_catalog_path
from tests.support.executors import ECHO, running_executor, synthetic, users_model
from worker.executor import Executor
from worker.frames import MAX_FRAME_BYTES
from worker.host_cache import Cached, Tier

TEXTS = ["A man is eating food.", "A man is eating a piece of bread."]


@pytest.fixture
async def executor() -> AsyncIterator[Executor]:
    async with running_executor() as started:
        yield started


async def test_what_goes_in_comes_out_in_order_whatever_json_it_is(executor: Executor):
    await executor.load(ECHO)
    values = [{"a": [1, 2.5, None]}, "é\U0001f600", 2**70, "\ud800", [], "x" * 3_000_000]
    assert (await executor.run("echo", values)).results == tuple(values)


async def test_real_weights_embed_real_sentences(executor: Executor):
    loaded = await executor.load(Catalog.load(default_catalog_path()).get("minilm-l6-v2"))
    assert 80e6 < loaded.reserved_bytes < 100e6
    assert loaded.load_s > 0
    reply = await executor.run("minilm-l6-v2", [{"texts": TEXTS}, {"texts": 3}])
    first, second = reply.results[0]["embeddings"]
    assert sum(a * b for a, b in zip(first, second, strict=True)) == pytest.approx(0.7553, abs=0.005)
    assert isinstance(reply.results[1], InvalidInput), "one job's bad input is its own affair"
    assert reply.results[1].field == "input.texts"
    assert reply.exec_s > 0


async def test_models_add_up_in_memory_until_they_are_unloaded(executor: Executor):
    first = await executor.load(synthetic("a", 6.0))
    second = await executor.load(synthetic("b", 10.0))
    assert (first.reserved_bytes, first.total_bytes) == (6 * GIB, 6 * GIB)
    assert (second.reserved_bytes, second.total_bytes) == (10 * GIB, 16 * GIB)
    reply = await executor.run("a", [{}])
    assert (reply.reserved_bytes, reply.total_bytes) == (6 * GIB, 16 * GIB)
    assert await executor.unload("a") == 10 * GIB
    assert await executor.unload("a") == 10 * GIB, "unloading twice is fine"
    with pytest.raises(InvariantBroken, match="a is not resident"):
        await executor.run("a", [{}])


async def test_a_model_that_does_not_fit_is_refused_as_on_a_real_gpu():
    async with running_executor(limit_bytes=12 * GIB) as small:
        await small.load(synthetic("a", 6.0))
        with pytest.raises(OutOfVram, match=r"takes 10\.00 GiB"):
            await small.load(synthetic("b", 10.0))
        assert await small.unload("b") == 6 * GIB
        await small.unload("a")
        assert (await small.load(synthetic("b", 10.0))).total_bytes == 10 * GIB


async def test_loading_twice_gives_the_same_resident(executor: Executor):
    first = await executor.load(synthetic("a", 6.0))
    assert await executor.load(synthetic("a", 6.0)) == first


async def test_the_gpu_serves_while_another_model_loads(executor: Executor):
    await executor.load(ECHO)
    order: list[str] = []

    async def load() -> None:
        await executor.load(synthetic("slow", load_s=1.0))
        order.append("loaded")

    async def run() -> None:
        for _ in range(20):
            await executor.run("echo", [1])
        order.append("ran")

    await asyncio.gather(load(), run())
    assert order == ["ran", "loaded"]


async def test_a_model_computes_while_another_imports_torch(executor: Executor):
    """Importing is Python code that competes for the interpreter: the running batches must still get through."""
    await executor.load(ECHO)
    loop = asyncio.get_running_loop()
    loading = asyncio.create_task(executor.load(Catalog.load(default_catalog_path()).get("tiny-mlp")))
    ended_at = [loop.time()]
    while not loading.done():
        await executor.run("echo", [1])
        ended_at.append(loop.time())
    await loading
    waits = sorted(later - earlier for earlier, later in pairwise(ended_at))
    assert len(waits) > 20
    assert waits[len(waits) // 2] < 0.1


async def test_weights_that_left_come_back_without_their_file_and_compute_the_same(tmp_path: Path):
    predict = "return [(self.scale * job['x']).item() for job in inputs]"
    async with running_executor(host_cache_bytes=GIB) as executor:
        entry = users_model(tmp_path, predict)
        first = await executor.load(entry)
        assert (await executor.run("users", [{"x": 3}])).results == (3.0,)
        assert await executor.unload("users") == 0, "its memory is free"
        (tmp_path / "users.safetensors").unlink()
        assert executor.cached == Cached(("users",), 4)
        again = await executor.load(entry)
        assert (first.tier, again.tier) == (Tier.DISK, Tier.HOST)
        assert again.total_bytes == 4
        assert again.load_s < first.load_s
        assert (await executor.run("users", [{"x": 5}])).results == (5.0,)
        await executor.unload("users")
    async with running_executor() as executor:
        with pytest.raises(LoadFailed, match="does not exist"):
            await executor.load(entry)


async def test_real_models_come_back_from_the_hosts_memory_faster_than_from_disk():
    catalog = Catalog.load(default_catalog_path())
    async with running_executor(host_cache_bytes=GIB) as executor:
        await executor.load(catalog.get("tiny-mlp"))  # The first import of torch is no part of any load from disk.
        first = await executor.load(catalog.get("minilm-l6-v2"))
        expected = (await executor.run("minilm-l6-v2", [{"texts": TEXTS}])).results
        await executor.unload("minilm-l6-v2")
        assert 80e6 < executor.cached.held_bytes < 100e6
        again = await executor.load(catalog.get("minilm-l6-v2"))
        assert again.tier is Tier.HOST
        assert again.load_s < first.load_s / 2
        assert (await executor.run("minilm-l6-v2", [{"texts": TEXTS}])).results == expected


async def test_a_synthetic_model_takes_its_reload_time_from_the_host():
    async with running_executor(host_cache_bytes=4 * GIB) as executor:
        entry = synthetic("slow", load_s=0.5, reload_s=0.05)
        assert (await executor.load(entry)).load_s >= 0.5
        await executor.unload("slow")
        assert 0.05 <= (await executor.load(entry)).load_s < 0.4


@pytest.mark.parametrize(
    ("options", "kind"),
    [({"load_fail": "error"}, LoadFailed), ({"load_fail": "oom"}, OutOfVram)],
)
async def test_a_failed_load_leaves_nothing_behind(executor: Executor, options: dict[str, str], kind: type):
    with pytest.raises(kind, match="bad: "):
        await executor.load(synthetic("bad", **options))
    assert await executor.unload("bad") == 0
    assert (await executor.load(ECHO)).total_bytes == GIB // 2


async def test_a_job_that_fails_fails_alone(executor: Executor):
    await executor.load(synthetic("m"))
    good, error, oom = (await executor.run("m", [{}, {"fail": "error"}, {"fail": "oom"}])).results
    assert good == {"model": "m", "exec_s": 0.0}
    assert isinstance(error, JobFailed)
    assert isinstance(oom, OutOfVram)


async def test_a_batch_over_the_frame_limit_is_refused_and_the_executor_lives(executor: Executor):
    await executor.load(ECHO)
    with pytest.raises(PayloadTooLarge, match="lower the model's max_batch"):
        await executor.run("echo", ["x" * MAX_FRAME_BYTES])
    assert (await executor.run("echo", ["small"])).results == ("small",)


async def test_results_over_the_frame_limit_are_refused_and_the_executor_lives(executor: Executor, tmp_path: Path):
    await executor.load(users_model(tmp_path, f"return ['x' * {MAX_FRAME_BYTES} if 'big' in i else 1 for i in inputs]"))
    with pytest.raises(PayloadTooLarge, match="return less"):
        await executor.run("users", [{"big": 1}])
    assert (await executor.run("users", [{}])).results == (1,)


async def test_a_model_that_prints_does_not_disturb_its_results_and_can_be_read(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    predict = """
print("printed by a model")
os.write(1, b"written to 1\\n")
os.write(2, b"written to 2\\n")
return [sys.stdin.read() for _ in inputs]
"""
    async with running_executor() as executor:  # not the fixture: that starts before the output is captured
        await executor.load(users_model(tmp_path, predict))
        assert (await executor.run("users", [{}])).results == ("",), "stdin is empty, not the worker's"
    seen = capfd.readouterr()
    assert seen.out == "", "a model's output belongs into the worker's log"
    assert {"printed by a model", "written to 1", "written to 2"} <= set(seen.err.splitlines())


async def test_a_model_that_tries_to_end_the_process_fails_its_job_only(executor: Executor, tmp_path: Path):
    await executor.load(users_model(tmp_path, "raise SystemExit(3) if 'exit' in inputs[0] else KeyboardInterrupt()"))
    with pytest.raises(JobFailed, match="SystemExit: 3"):
        await executor.run("users", [{"exit": 1}])
    with pytest.raises(JobFailed, match="KeyboardInterrupt"):
        await executor.run("users", [{}])
    await executor.load(ECHO)
    assert (await executor.run("echo", [1])).results == (1,)


async def test_a_cancelled_call_leaves_the_executor_usable(executor: Executor):
    await executor.load(synthetic("m", exec_s=0.2))
    await executor.load(ECHO)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(executor.run("m", [{}]), timeout=0.02)
    assert (await executor.run("echo", ["after"])).results == ("after",)
