"""``Prefer: wait=N`` (RFC 7240): how long a client would like to wait for the end of its job."""

from collections.abc import Iterable

from affinity.job import MAX_WAIT_S


def wait_preference(headers: Iterable[str]) -> int:
    """Seconds to wait, from the values of all ``Prefer`` headers: at most ``MAX_WAIT_S``, 0 where nothing asks for it.

    As the RFC wants it, the first ``wait`` counts and one that cannot be understood is ignored.
    """
    for header in headers:
        for preference in header.split(","):
            name, _, value = preference.partition(";")[0].partition("=")
            if name.strip().lower() == "wait":
                digits = value.strip().strip('"')
                # int() takes more than digits: signs, underscores, blanks.
                return min(int(digits[:9]), int(MAX_WAIT_S)) if digits.isascii() and digits.isdigit() else 0
    return 0
