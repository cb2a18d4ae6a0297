"""The rights under ``deploy/docker`` are those the code needs: no fewer, and of Redis' commands no more."""

import re
from pathlib import Path

import pytest

from affinity.topology import Keys, Topology

ROOT = Path(__file__).parents[3]
IO = ROOT / "affinity" / "io"
RIGHTS = (ROOT / "deploy" / "docker" / "redis.rights").read_text().split()
BROKER = dict(
    line.split(" = ", 1)
    for line in (ROOT / "deploy" / "docker" / "rabbitmq.conf").read_text().splitlines()
    if line.startswith("default_permissions.")
)
OURS = Topology("affinity-2")
NAMES = [OURS.jobs_exchange, OURS.fallback, OURS.dead, OURS.retry(1.5), OURS.model_queue("org/model:1.5-b")]

# What the client sends by itself: to be told of, to look whether the server is there, and the database of the URL.
BY_THE_CLIENT = {"ping", "select", "unsubscribe"}


def granted() -> set[str]:
    return {right[1:] for right in RIGHTS if right.startswith("+")}


def used() -> set[str]:
    scripts = "\n".join(path.read_text() for path in (IO / "lua").glob("*.lua"))
    code = "\n".join(path.read_text() for path in IO.glob("*.py"))
    found = set(re.findall(r"redis\.p?call\('([A-Z]+)'", scripts))
    found |= set(re.findall(r"(?:\.call|\.send|execute_command)\(\s*\"([A-Z]+)\"", code))
    found |= set(re.findall(r"\bclient\.([a-z_]+)\(", code)) - {"aclose"}
    return {name.lower() for name in found}


def test_every_command_the_code_sends_is_granted_and_no_other():
    assert granted() == used() | BY_THE_CLIENT


def test_only_the_keys_and_channels_of_the_namespace_are_granted():
    assert [right for right in RIGHTS if not right.startswith("+")] == ["~NAMESPACE:*", "&NAMESPACE:*", "-@all"]
    assert Keys("mine").settled.startswith("mine:")


@pytest.mark.parametrize("name", NAMES)
def test_what_we_declare_may_be_declared_written_and_read(name: str):
    assert [bool(re.search(pattern, name)) for pattern in BROKER.values()] == [True] * 3


@pytest.mark.parametrize(
    "name", ["mine", "amq.topic", "affinity.jobs.x", "x.affinity.jobs", "affinity.model.", "affinity", ".jobs"]
)
def test_nothing_else_may_be(name: str):
    assert [bool(re.search(pattern, name)) for pattern in BROKER.values()] == [False] * 3


def test_parked_jobs_go_through_the_default_exchange_which_nobody_may_declare():
    assert re.search(BROKER["default_permissions.write"], "amq.default")
    assert not re.search(BROKER["default_permissions.configure"], "amq.default")
