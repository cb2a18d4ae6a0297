"""Background tasks, log lines and JSON out."""

import asyncio
import io
import json
import logging

import pytest
import structlog

from affinity.errors import InvariantBroken, StoreUnavailable
from affinity.io.log import configure_logging
from dispatcher.background import Background
from dispatcher.render import encode


async def test_a_step_is_repeated_and_goes_on_when_a_server_is_away():
    background, runs, done = Background(on_crash=pytest.fail), 0, asyncio.Event()

    async def step() -> None:
        nonlocal runs
        runs += 1
        if runs == 3:
            done.set()
        raise StoreUnavailable("away")

    background.every(0.0, step, "step")
    await done.wait()
    await background.stop()

    assert runs == 3


async def test_a_bug_in_the_background_is_not_tried_again_but_told():
    crashed = asyncio.Event()
    background, runs = Background(on_crash=crashed.set), 0

    async def step() -> None:
        nonlocal runs
        runs += 1
        raise InvariantBroken("a bug")

    background.every(0.0, step, "step")
    await crashed.wait()
    await background.stop()

    assert runs == 1


async def test_stopping_is_no_crash():
    background = Background(on_crash=lambda: pytest.fail("it did not crash"))
    started = asyncio.Event()

    async def for_ever() -> None:
        started.set()
        await asyncio.get_running_loop().create_future()

    background.start(for_ever(), "for ever")
    await started.wait()
    await background.stop()


@pytest.fixture
def restored_logging():
    """Leaves logging as it was found."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield
    root.handlers[:], _ = before
    root.setLevel(before[1])
    structlog.reset_defaults()


@pytest.mark.usefixtures("restored_logging")
def test_our_lines_and_those_of_libraries_are_json_of_one_form():
    out = io.StringIO()
    configure_logging("info", "dispatcher", out)

    structlog.get_logger("ours").info("job.published", job="j1")
    structlog.get_logger("ours").debug("too.quiet")
    logging.getLogger("theirs").warning("slow %s", "disk")
    logging.getLogger("aio_pika").info("chatter")

    ours, theirs = [json.loads(line) for line in out.getvalue().splitlines()]
    assert (ours["event"], ours["job"], ours["level"], ours["service"]) == ("job.published", "j1", "info", "dispatcher")
    assert (theirs["event"], theirs["level"], theirs["service"]) == ("slow disk", "warning", "dispatcher")
    assert ours["timestamp"].endswith("Z")


@pytest.mark.usefixtures("restored_logging")
@pytest.mark.parametrize("pretty", [True, False])
def test_a_traceback_shows_no_local_variables(pretty: bool):
    out = io.StringIO()
    configure_logging("info", "dispatcher", out, pretty)

    def fail(user_input: str) -> None:
        raise ValueError(len(user_input))

    try:
        fail("sekrit")
    except ValueError:
        structlog.get_logger("ours").exception("failed")

    assert "ValueError: 6" in out.getvalue()
    assert "'sekrit'" not in out.getvalue()


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None, True, "ä"]}, {"a": "\ud800"}, 2**80, [], "", {"\ud800": 1}])
def test_json_out_is_read_back_as_it_was(value: object):
    assert json.loads(encode(value)) == value
