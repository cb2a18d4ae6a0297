"""What the fake executor of the unit tests does is what a real one does. Each test runs against both."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest

from affinity.errors import ExecutorDied, InvariantBroken, JobFailed, LoadFailed, OutOfVram
from affinity.fleet import GIB
from tests.support.executors import ECHO, synthetic
from tests.support.worker_world import FakeExecutor
from worker.executor import Executor
from worker.settings import executor_environment

M = synthetic("m", 6.0)


@pytest.fixture(params=["fake", "real"])
async def executor(request: pytest.FixtureRequest) -> AsyncIterator[Executor]:
    made: Executor = FakeExecutor(12 * GIB)
    if request.param == "real":
        made = Executor(env=executor_environment(), torch_device="cpu", limit_bytes=12 * GIB, label="real")
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
