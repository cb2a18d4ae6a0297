"""Background tasks are kept alive until they end, and heard when they fail."""

import asyncio
import gc

import pytest

from worker.tasks import Tasks


@pytest.fixture
def failures() -> list[BaseException]:
    return []


@pytest.fixture
def tasks(failures: list[BaseException]) -> Tasks:
    return Tasks(failures.append)


async def fails(error: BaseException) -> None:
    raise error


async def test_a_task_that_raises_is_heard_once(tasks: Tasks, failures: list[BaseException]):
    error = RuntimeError("a bug")
    tasks.spawn(fails(error), "bug")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert failures == [error]


async def test_a_task_that_ends_or_is_cancelled_is_no_failure(tasks: Tasks, failures: list[BaseException]):
    waiting = asyncio.Event()
    cancelled, ended = tasks.spawn(_until(waiting), "a"), tasks.spawn(asyncio.sleep(0), "b")
    assert (cancelled.get_name(), ended.get_name()) == ("a", "b")
    await ended
    await tasks.cancel()
    assert cancelled.cancelled()
    assert not ended.cancelled()
    assert failures == []


async def test_a_running_task_outlives_everybody_who_knew_of_it(tasks: Tasks):
    go, went = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await go.wait()
        went.set()

    tasks.spawn(work(), "work")
    gc.collect()
    go.set()
    assert await tasks.wait(5.0)
    assert went.is_set()


async def test_waiting_says_whether_all_were_in_time(tasks: Tasks):
    assert await tasks.wait(0.0), "nothing runs"
    go = asyncio.Event()
    tasks.spawn(_until(go), "late")
    assert not await tasks.wait(0.0)
    go.set()
    assert await tasks.wait(5.0)


async def test_cancelling_waits_until_all_have_cleaned_up(tasks: Tasks):
    cleaned = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    tasks.spawn(work(), "a")
    tasks.spawn(work(), "b")
    await asyncio.sleep(0)
    await tasks.cancel()
    assert cleaned == [True, True]


async def test_one_that_fails_while_it_is_cancelled_is_heard(tasks: Tasks, failures: list[BaseException]):
    error = RuntimeError("while cleaning up")

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise error

    tasks.spawn(work(), "a")
    await asyncio.sleep(0)
    await tasks.cancel()
    await asyncio.sleep(0)
    assert failures == [error]


async def test_a_group_is_waited_for_and_cancelled_by_itself_and_heard_in_the_same_place(
    tasks: Tasks, failures: list[BaseException]
):
    error = RuntimeError("a bug")
    group = tasks.group()
    ours = tasks.spawn(_until(asyncio.Event()), "ours")
    theirs = group.spawn(_until(asyncio.Event()), "theirs")
    group.spawn(fails(error), "bug")
    await asyncio.sleep(0)
    await group.cancel()
    assert theirs.cancelled()
    assert not ours.done()
    assert await group.wait(0.0)
    await asyncio.sleep(0)
    assert failures == [error]
    await tasks.cancel()


async def _until(event: asyncio.Event) -> None:
    await event.wait()
