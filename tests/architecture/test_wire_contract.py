"""Dispatchers and workers of two minor versions that follow each other understand each other: docs/upgrading.md."""

import copy
import json
from itertools import pairwise

import pytest

from tests.support.wire_contract import FOLDER, Contract, contract, decoders, file_of, problems, text, version


def minor(name: str) -> tuple[int, int]:
    major, _, minor = name.partition(".")
    return int(major), int(minor)


VERSIONS = sorted((path.stem for path in FOLDER.glob("*.json")), key=minor)
NEIGHBOURS = [(old, new) for old, new in pairwise(VERSIONS) if minor(old)[0] == minor(new)[0]]


def read(name: str) -> Contract:
    found: Contract = json.loads(file_of(name).read_text(encoding="utf-8"))
    return found


def test_the_contract_of_this_version_is_what_the_code_does():
    assert file_of(version()).read_text(encoding="utf-8") == text(), "run: python -m tests.support.wire_contract"
    assert VERSIONS[-1] == version()


@pytest.mark.parametrize(("old", "new"), [(name, name) for name in VERSIONS] + NEIGHBOURS)
def test_neighbouring_versions_understand_each_other(old: str, new: str):
    assert problems(read(old), read(new)) == []
    assert problems(read(new), read(old)) == []


@pytest.mark.parametrize("name", VERSIONS[-2:])
def test_what_the_version_before_wrote_is_read_here(name: str):
    for kind, written in read(name)["writes"].items():
        decoders()[kind](json.dumps(written).encode())


def next_version() -> Contract:
    return copy.deepcopy(contract())


def test_a_field_is_read_one_version_before_it_is_written():
    reads_it, writes_it = next_version(), next_version()
    for ahead in (reads_it, writes_it):
        ahead["reads"]["report.gpu"]["fields"]["power_w"] = ["integer", "number"]
    writes_it["writes"]["report"]["gpu"]["power_w"] = 300.5
    assert problems(reads_it, contract()) == problems(contract(), reads_it) == []
    assert problems(writes_it, reads_it) == problems(reads_it, writes_it) == []
    assert problems(writes_it, contract()) == ["report.gpu.power_w is not known"]


def test_a_field_that_is_still_needed_may_not_be_left_out():
    ahead = next_version()
    del ahead["writes"]["report"]["cached"]
    assert problems(ahead, contract()) == ["report.cached is missing"]


def test_a_field_may_not_change_its_kind():
    ahead = next_version()
    ahead["writes"]["measurement"]["load_s"] = "1.5 s"
    ahead["writes"]["message"]["ttl_s"] = True
    assert problems(ahead, contract()) == [
        "message.ttl_s as boolean is not understood",
        "measurement.load_s as string is not understood",
    ]


def test_a_queue_may_not_be_declared_in_another_way():
    ahead = next_version()
    ahead["broker"]["ns.model.m"][1]["x-message-ttl"] = 1
    ahead["broker"]["ns.new"] = ["queue", {}]
    assert problems(ahead, contract()) == ["ns.model.m is declared differently"]


def test_another_wire_format_is_another_major_version():
    assert problems({**next_version(), "wire": 2}, contract()) == ["wire format 2 against 1"]
