"""JSON out: fast where it can be, always valid."""

import msgspec
from fastapi import Response

from affinity.wire import dumps


def encode(value: object) -> bytes:
    """A JSON value as bytes. A lone surrogate, which UTF-8 cannot carry, is written as an escape."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return dumps(value).encode()


class JsonResponse(Response):
    """``application/json`` by ``encode``."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        """The body."""
        return encode(content)
