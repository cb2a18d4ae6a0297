"""Ways an executor ends: it crashes, hangs and is killed, is stopped, cannot start, or loses its worker."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from affinity.errors import ExecutorDied, InvariantBroken, Transient
from tests.support.executors import ECHO, running_executor, synthetic, users_model
from tests.support.processes import alive_in_group, group_is_gone
from worker.executor import Executor
from worker.settings import executor_environment

PARENT = Path(__file__).with_name("parent_of_executor.py")
HOLDS_THE_INTERPRETER = "open(inputs[0]['path'], 'w').close()\nre.match('(a+)+$', 'a' * 60 + 'b')"


async def started() -> Executor:
    executor = Executor(env=executor_environment(), torch_device="cpu", limit_bytes=None, label="gpu-7")
    await executor.start()
    return executor


async def test_a_crash_fails_every_pending_call_and_is_told_once():
    async with running_executor() as executor:
        deaths: list[ExecutorDied] = []
        told = asyncio.Event()
        executor.on_death(lambda death: (deaths.append(death), told.set()))
        await executor.load(synthetic("m"))
        await executor.load(synthetic("slow", load_s=0.0, exec_s=0.0))
        loading = asyncio.create_task(executor.load(synthetic("other", load_s=60.0)))
        calls = [executor.run("m", [{"fail": "crash"}]), executor.run("m", [{}]), loading]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ExecutorDied] * 3
        assert all("exit status 70" in str(outcome) for outcome in outcomes)
        assert all(isinstance(outcome, Transient) for outcome in outcomes)
        await told.wait()
        assert [str(death) for death in deaths] == [str(outcomes[0])]


async def test_after_a_death_a_fresh_executor_can_be_started():
    async with running_executor() as executor:
        await executor.load(ECHO)
        first = executor.pid
        ended = asyncio.Event()
        executor.on_death(lambda death: ended.set())
        os.kill(first, signal.SIGKILL)
        await ended.wait()
        assert executor.pid is None
        with pytest.raises(ExecutorDied, match="not running"):
            await executor.run("echo", [1])
        await executor.start()
        assert executor.pid not in {None, first}
        with pytest.raises(InvariantBroken, match="not resident"):
            await executor.run("echo", [1])
        assert (await executor.load(ECHO)).total_bytes == ECHO.vram_bytes


async def test_a_signal_is_named_in_the_message():
    async with running_executor() as executor:
        await executor.load(synthetic("m"))
        hung = asyncio.create_task(executor.run("m", [{"fail": "hang"}]))
        await executor.load(ECHO)  # by now the run has been sent
        os.kill(executor.pid, signal.SIGSEGV)
        with pytest.raises(ExecutorDied, match="executor test was killed by SIGSEGV"):
            await hung


async def test_a_hung_job_is_ended_by_kill_and_the_process_is_gone_when_it_returns():
    executor = await started()
    deaths: list[ExecutorDied] = []
    executor.on_death(deaths.append)
    await executor.load(synthetic("m"))
    pid = executor.pid
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(executor.run("m", [{"fail": "hang"}]), timeout=0.05)
    waiting = asyncio.create_task(executor.run("m", [{}]))
    await asyncio.sleep(0)  # let it send
    await executor.kill()
    assert alive_in_group(pid) == []
    assert executor.pid is None
    with pytest.raises(ExecutorDied, match="killed by SIGKILL"):
        await waiting
    assert deaths == [], "whoever kills it knows already"
    await executor.kill()  # twice is fine


async def test_kill_takes_the_processes_a_model_has_started_with_it(tmp_path: Path):
    executor = await started()
    await executor.load(users_model(tmp_path, "return [__import__('subprocess').Popen(['sleep', '3600']).pid]"))
    await executor.run("users", [{}])
    pid = executor.pid
    assert len(alive_in_group(pid)) == 2
    await executor.kill()
    assert group_is_gone(pid)


async def test_stop_lets_what_runs_end_and_then_ends_the_process():
    executor = await started()
    await executor.load(synthetic("m", exec_s=0.3))
    pid = executor.pid
    running = asyncio.create_task(executor.run("m", [{}]))
    await asyncio.sleep(0)  # let it send
    await executor.stop(grace_s=30.0)
    assert (await running).results == ({"model": "m", "exec_s": 0.3},)
    assert alive_in_group(pid) == []


@pytest.mark.parametrize("holds_the_interpreter", [False, True])
async def test_stop_does_not_wait_longer_than_its_grace_for_a_model_that_hangs(
    tmp_path: Path, holds_the_interpreter: bool
):
    executor = await started()
    entry = users_model(tmp_path, HOLDS_THE_INTERPRETER) if holds_the_interpreter else synthetic("m")
    await executor.load(entry)
    pid = executor.pid
    running = asyncio.create_task(executor.run(entry.name, [{"path": str(tmp_path / "computing"), "fail": "hang"}]))
    await asyncio.sleep(0)  # let it send
    async with asyncio.timeout(10.0):
        await executor.stop(grace_s=0.0)
    assert alive_in_group(pid) == []
    with pytest.raises(ExecutorDied):
        await running


async def test_an_executor_that_cannot_start_says_why():
    executor = Executor(
        env={**executor_environment(), "CUDA_VISIBLE_DEVICES": "GPU-does-not-exist"},
        torch_device="cuda:0",
        limit_bytes=None,
        label="gpu-7",
    )
    with pytest.raises(ExecutorDied, match=r"executor gpu-7 cannot start: torch .* cannot use CUDA here"):
        await executor.start()
    assert executor.pid is None


async def test_a_child_that_ends_before_its_first_word_does_not_keep_start_waiting():
    executor = Executor(
        env={**executor_environment(), "PYTHONPATH": "", "PYTHONHOME": "/nowhere"},
        torch_device="cpu",
        limit_bytes=None,
        label="gpu-7",
    )
    with pytest.raises(ExecutorDied, match="exit status 1"):
        await executor.start()


async def test_starting_twice_is_a_bug():
    async with running_executor() as executor:
        with pytest.raises(InvariantBroken, match="runs already"):
            await executor.start()


async def test_bytes_that_are_no_frames_end_the_child_with_a_line_on_stderr(capfd: pytest.CaptureFixture[str]):
    async with running_executor() as executor:
        ended: asyncio.Future[ExecutorDied] = asyncio.get_running_loop().create_future()
        executor.on_death(ended.set_result)
        executor._link.send(b"\xff\xff\xff\xff")
        assert "exit status 2" in str(await ended)
    assert "executor test: a frame of 4294967295 bytes is over the limit" in capfd.readouterr().err


def test_a_worker_that_is_killed_leaves_no_executor_behind_even_one_that_computes(tmp_path: Path):
    with subprocess.Popen(
        [sys.executable, str(PARENT), str(tmp_path), HOLDS_THE_INTERPRETER],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": "."},
    ) as parent:
        executor_pid = int(parent.stdout.readline())
        assert len(alive_in_group(executor_pid)) == 1
        parent.kill()
    assert group_is_gone(executor_pid, within_s=5.0)
