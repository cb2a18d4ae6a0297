"""What a check is, and how a list of them is run: each by itself, so that one failure hides no other."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from bench.api import Api, Unreachable

Check = Callable[[Api], None]
"""Raises ``AssertionError`` with what is wrong, or ``NotHere``. Its name is the sentence it checks."""


class NotHere(Exception):
    """The system is not set up for this check; the message says what it would take."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a check ended. ``remark`` says what is wrong or why it was left out; empty where it holds."""

    sentence: str
    outcome: Literal["ok", "failed", "left out"]
    remark: str = ""


def sentence_of(check: Check) -> str:
    """A function's name as the sentence it is."""
    return getattr(check, "__name__", "a check").replace("_", " ")


def run_checks(api: Api, checks: Iterable[Check]) -> Iterator[Verdict]:
    """A verdict for each, in order. Only what the system does is a failure; a bug of a check is raised."""
    for check in checks:
        try:
            check(api)
        except NotHere as reason:
            yield Verdict(sentence_of(check), "left out", str(reason))
        except (AssertionError, Unreachable) as fault:
            yield Verdict(sentence_of(check), "failed", str(fault))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as fault:
            # An answer of another shape than the contract's.
            yield Verdict(sentence_of(check), "failed", f"an answer has another shape: {type(fault).__name__}: {fault}")
        else:
            yield Verdict(sentence_of(check), "ok")
