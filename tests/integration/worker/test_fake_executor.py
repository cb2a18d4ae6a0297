"""What the fake executor of the unit tests does is what a real one does. Each test runs against both."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest

from affinity.errors import ExecutorDied, InvariantBroken, JobFailed, LoadFailed, OutOfVram
from affinity.fleet import GIB
from tests.support.executors import ECHO, synthetic
from tests.support.fake_executor import FakeExecutor
from worker.executor import Executor
from worker.host_cache import Cached, Tier
from worker.settings import executor_environment

M = synthetic("m", 6.0)


@pytest.fixture(params=["fake", "real"])
async def executor(request: pytest.FixtureRequest) -> AsyncIterator[Executor]:
    made: Executor = FakeExecutor(12 * GIB, 10 * GIB)
    if request.param == "real":
        made = Executor(
            env=executor_environment(),
            torch_device="cpu",
            limit_bytes=12 * GIB,
            label="real",
            host_cache_bytes=10 * GIB,
        )
    await made.start()
    yield made
    await made.kill()


def end(executor: Executor) -> None:
    """It ends without anybody having asked for it."""
    if isinstance(executor, FakeExecutor):
        executor.die("was killed by SIGSEGV")
    else:
        assert executor.pid is not None
        os.kill(executor.pid, signal.SIGSEGV)


async def test_models_add_up_run_and_go(executor: Executor):
    assert (await executor.load(ECHO)).total_bytes == GIB // 2
    loaded = await executor.load(M)
    assert (loaded.reserved_bytes, loaded.total_bytes) == (6 * GIB, 6 * GIB + GIB // 2)
    again = await executor.load(M)
    assert (again.reserved_bytes, again.total_bytes) == (loaded.reserved_bytes, loaded.total_bytes)
    echoed = await executor.run("echo", [[1], {"fail": "error"}])
    assert echoed.results == ([1], {"fail": "error"})
    reply = await executor.run("m", [{}, {"fail": "error"}, {"fail": "oom"}])
    assert reply.results[0] == {"model": "m", "exec_s": 0.0}
    assert [type(result) for result in reply.results[1:]] == [JobFailed, OutOfVram]
    assert (reply.reserved_bytes, reply.total_bytes) == (6 * GIB, 6 * GIB + GIB // 2)
    assert reply.exec_s >= 0
    assert await executor.unload("m") == GIB // 2
    assert await executor.unload("m") == GIB // 2
    with pytest.raises(InvariantBroken, match="m is not resident"):
        await executor.run("m", [{}])


async def test_loads_fail_and_leave_nothing(executor: Executor):
    with pytest.raises(LoadFailed, match="bad: fails because"):
        await executor.load(synthetic("bad", load_fail="error"))
    with pytest.raises(OutOfVram, match="bad: "):
        await executor.load(synthetic("bad", load_fail="oom"))
    with pytest.raises(OutOfVram, match="takes"):
        await executor.load(synthetic("large", 13.0))
    await executor.load(M)
    with pytest.raises(OutOfVram):
        await executor.load(synthetic("other", 7.0))
    assert await executor.unload("m") == 0


async def test_what_is_unloaded_stays_in_the_hosts_memory_within_its_bound_and_comes_back_from_there(
    executor: Executor,
):
    assert executor.cached == Cached()
    small, large = synthetic("small", 4.0), synthetic("large", 11.0)
    assert (await executor.load(M)).tier is Tier.DISK
    await executor.unload("m")
    assert executor.cached == Cached(("m",), 6 * GIB)
    assert (await executor.load(small)).tier is Tier.DISK
    await executor.unload("small")
    assert executor.cached == Cached(("m", "small"), 10 * GIB)
    back = await executor.load(M)
    assert (back.tier, back.reserved_bytes, back.total_bytes) == (Tier.HOST, 6 * GIB, 6 * GIB)
    assert executor.cached == Cached(("m", "small"), 10 * GIB), "its copy is there still, and the first to go"
    assert (await executor.load(M)).tier is Tier.HOST, "loading twice changes nothing"
    assert await executor.unload("m") == 0
    assert executor.cached == Cached(("small", "m"), 10 * GIB)
    await executor.load(large)
    await executor.unload("large")
    assert executor.cached == Cached(("small", "m"), 10 * GIB), "larger than the cache"
    await executor.load(synthetic("next", 6.0))
    await executor.unload("next", room_for="small")
    assert executor.cached == Cached(("small", "next"), 10 * GIB)


async def test_a_model_that_finds_no_room_to_come_back_stays_in_the_hosts_memory(executor: Executor):
    await executor.load(M)
    await executor.unload("m")
    await executor.load(synthetic("other", 8.0))
    with pytest.raises(OutOfVram):
        await executor.load(M)
    assert executor.cached == Cached(("m",), 6 * GIB)
    await executor.unload("other", room_for="m")
    assert (await executor.load(M)).tier is Tier.HOST
    assert (await executor.run("m", [{}])).results == ({"model": "m", "exec_s": 0.0},)


@pytest.mark.parametrize("how", ["dies", "is killed"])
async def test_the_hosts_memory_is_empty_after_the_end_of_the_process(executor: Executor, how: str):
    told = asyncio.Event()
    executor.on_death(lambda _: told.set())
    await executor.load(M)
    await executor.unload("m")
    if how == "dies":
        end(executor)
        await told.wait()
    else:
        await executor.kill()
    assert executor.cached == Cached()
    await executor.start()
    assert executor.cached == Cached()
    assert (await executor.load(M)).tier is Tier.DISK


@pytest.mark.parametrize("how", ["by a job", "by itself"])
async def test_a_death_fails_what_was_asked_is_told_once_and_another_can_be_started(executor: Executor, how: str):
    deaths: list[ExecutorDied] = []
    told = asyncio.Event()
    executor.on_death(lambda death: (deaths.append(death), told.set()))
    await executor.load(M)
    first = executor.pid
    assert first is not None
    asked = asyncio.create_task(executor.run("m", [{"fail": "crash" if how == "by a job" else "hang"}]))
    if how == "by itself":
        await executor.load(ECHO)  # By now the run has been sent.
        end(executor)
    with pytest.raises(ExecutorDied):
        await asked
    await told.wait()
    assert (len(deaths), executor.pid) == (1, None)
    with pytest.raises(ExecutorDied, match="not running"):
        await executor.run("m", [{}])
    await executor.start()
    assert executor.pid not in {None, first}
    with pytest.raises(InvariantBroken, match="not resident"):
        await executor.run("m", [{}])


async def test_starting_twice_is_a_bug(executor: Executor):
    with pytest.raises(InvariantBroken, match="runs already"):
        await executor.start()


async def test_killing_fails_what_was_asked_and_is_not_told(executor: Executor):
    deaths: list[ExecutorDied] = []
    executor.on_death(deaths.append)
    await executor.load(M)
    asked = asyncio.create_task(executor.run("m", [{"fail": "hang"}]))
    await asyncio.sleep(0)
    await executor.kill()
    with pytest.raises(ExecutorDied, match="killed by SIGKILL"):
        await asked
    assert (deaths, executor.pid) == ([], None)
    await executor.kill()


async def test_stopping_lets_what_was_asked_end(executor: Executor):
    deaths: list[ExecutorDied] = []
    executor.on_death(deaths.append)
    await executor.load(M)
    asked = asyncio.create_task(executor.run("m", [{}]))
    await asyncio.sleep(0)
    await executor.stop(grace_s=10.0)
    assert (await asked).results == ({"model": "m", "exec_s": 0.0},)
    assert (deaths, executor.pid) == ([], None)


async def test_stopping_waits_no_longer_than_its_grace(executor: Executor):
    await executor.load(M)
    asked = asyncio.create_task(executor.run("m", [{"fail": "hang"}]))
    await executor.load(ECHO)  # By now the run has been sent.
    await executor.stop(grace_s=0.0)
    with pytest.raises(ExecutorDied):
        await asked
    assert executor.pid is None
