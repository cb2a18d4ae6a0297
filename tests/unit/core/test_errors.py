"""The error tree: what its docstring draws is what there is."""

import inspect
import re

import pytest

from affinity import errors
from affinity.errors import (
    AffinityError,
    BrokerUnavailable,
    CallerError,
    Disposition,
    InvalidInput,
    Overloaded,
    QueueFull,
    Transient,
)

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, AffinityError)]
BRANCH = re.compile(r"\+- (?P<name>\w+) +(?P<disposition>[A-Z_]+) ")
LEAVES = re.compile(r"\|  \+- (?P<names>\w+(?:, \w+)*)$")


def drawn() -> dict[str, tuple[str, Disposition]]:
    """Parent and disposition of each class in the module's docstring; the root is left out."""
    tree: dict[str, tuple[str, Disposition]] = {}
    branch, disposition = "", Disposition.STOP
    for line in (errors.__doc__ or "").splitlines():
        if found := BRANCH.match(line):
            branch, disposition = found["name"], Disposition[found["disposition"]]
            assert branch not in tree, f"{branch} is drawn twice"
            tree[branch] = ("AffinityError", disposition)
        elif found := LEAVES.match(line):
            for name in found["names"].split(", "):
                assert name not in tree, f"{name} is drawn twice"
                tree[name] = (branch, disposition)
    return tree


def test_the_docstring_draws_every_class_once_and_no_other() -> None:
    assert set(drawn()) == {c.__name__ for c in CLASSES} - {"AffinityError"}


@pytest.mark.parametrize("kind", [c for c in CLASSES if c is not AffinityError])
def test_a_class_hangs_where_it_is_drawn_and_has_its_branchs_disposition(kind: type[AffinityError]) -> None:
    parent, disposition = drawn()[kind.__name__]
    assert [base.__name__ for base in kind.__bases__] == [parent]
    assert kind.disposition is disposition


def test_a_code_belongs_to_one_error() -> None:
    # QueueFull is what "overloaded" means to a caller; the branch itself is never raised.
    codes = {c.__name__: c.code for c in CLASSES if c is not Overloaded}
    assert len(set(codes.values())) == len(codes)
    assert all(re.fullmatch(r"[a-z_]+", code) for code in codes.values())


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("unknown_model", 404),
        ("invalid_input", 422),
        ("payload_too_large", 413),
        ("never_fits", 422),
        ("id_conflict", 409),
        ("overloaded", 429),
        ("broker_unavailable", 503),
        ("store_unavailable", 503),
        ("unknown_job", 404),
        ("unauthorized", 401),
        ("not_cancellable", 409),
    ],
)
def test_a_status_is_what_the_public_contract_says(code: str, status: int) -> None:
    assert [c.status for c in CLASSES if c.code == code and c is not Overloaded] == [status]


@pytest.mark.parametrize("kind", [c for c in CLASSES if issubclass(c, CallerError)])
def test_what_a_caller_can_mend_is_a_client_error(kind: type[CallerError]) -> None:
    assert 400 <= kind.status < 500
    assert str(kind("say so")) == kind("say so").message == "say so"


@pytest.mark.parametrize("kind", [Overloaded, QueueFull, BrokerUnavailable])
def test_an_overload_says_when_to_come_back(kind: type[Overloaded]) -> None:
    assert kind("full").retry_after_s > 0
    assert kind("full", retry_after_s=7.0).retry_after_s == 7.0


def test_only_losses_that_are_not_the_jobs_fault_are_free() -> None:
    free = {c.__name__ for c in CLASSES if issubclass(c, Transient) and not c.uses_attempt}
    assert free == {"OutOfVram", "WorkerLost", "StoppedWithBatch", "DiedWithBatch"}


def test_a_wrong_field_is_named_in_the_message_and_beside_it() -> None:
    error = InvalidInput("must be a string", "input.texts")
    assert (error.message, error.field) == ("input.texts: must be a string", "input.texts")
    assert InvalidInput("must be a JSON object").message == "must be a JSON object"
