"""Words for what pydantic finds wrong: a path such as ``texts[1]`` and a sentence that says what the value must be."""

from collections.abc import Iterable

from pydantic_core import ErrorDetails

_SENTENCES = {
    "missing": "is missing",
    "model_type": "must be a JSON object",
    "dict_type": "must be a table of names and values",
    "dataclass_type": "must be a table of names and values",
    "string_unicode": "must be valid Unicode (it holds half of a surrogate pair)",
}


def path_of(location: Iterable[int | str]) -> str:
    """``("texts", 1)`` as ``texts[1]``."""
    path = ""
    for step in location:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path


def sentence(problem: ErrorDetails, allowed: Iterable[str]) -> str:
    """What is wrong with the value at ``path_of(problem["loc"])``. It never quotes the value: inputs are not logged."""
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"is not a field here; {'there are: ' + ', '.join(sorted(allowed)) if allowed else 'there are none'}"
    return _SENTENCES.get(problem["type"]) or problem["msg"].replace("Input should", "must").replace("should", "must")
