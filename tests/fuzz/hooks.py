"""What Schemathesis checks beside its own: that a request the schema allows is refused only for what no schema says."""

import re
from typing import Any

import schemathesis

# A job's input is its model's affair, and ids are compared with the header's. A whole problem without a field is a
# model that fits no GPU, or a cursor.
_ALLOWED = re.compile(r"((jobs|messages)\[\d+\]\.)?(input|payload|processing_time|id|cursor)\b")


@schemathesis.check
def refused_for_no_other_field(
    _: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """A 422 to what the schema allows names a field that the schema cannot describe."""
    if response.status_code != 422 or case.meta is None or not case.meta.generation.mode.is_positive:
        return
    problem = response.json()
    faults = [fault["field"] for fault in problem.get("errors") or []]
    if problem["code"] != "never_fits" and not (faults and all(_ALLOWED.match(field) for field in faults)):
        raise AssertionError(f"the schema allows what is refused: {problem['detail']}")
