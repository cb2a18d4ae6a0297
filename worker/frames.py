"""Frames on the socket between a worker and its executor: four bytes of length, then that many bytes of msgpack.

Values are JSON values. Whole numbers beyond 64 bits and halves of surrogate pairs, which JSON can hold and msgpack
cannot, travel as JSON text inside.
"""

import struct

import msgspec

from affinity import wire
from affinity.errors import PayloadTooLarge

MAX_FRAME_BYTES = 256 * 1024 * 1024
"""Largest frame either side sends or accepts: a whole batch, or all its results, must stay under it."""

_LENGTH = struct.Struct(">I")
_JSON_TEXT = 1  # msgpack extension type of a value that is sent as JSON


class BrokenStream(Exception):
    """The bytes cannot be frames of ours; nothing that follows can be trusted either."""


class Message(msgspec.Struct, array_like=True, tag=True, frozen=True):
    """What a frame holds. ``id`` pairs a reply with its request."""

    id: int


class WithValues(Message, frozen=True):
    """A message that carries values of callers or models, in order."""

    values: list[object]


def pack(message: Message, limit_bytes: int = MAX_FRAME_BYTES) -> bytes:
    """The message as a frame. Raises ``PayloadTooLarge``; ``TypeError`` for a value that is not JSON."""
    try:
        body = _ENCODER.encode(message)
    except (OverflowError, UnicodeEncodeError):
        if not isinstance(message, WithValues):
            raise
        texts: list[object] = [msgspec.msgpack.Ext(_JSON_TEXT, wire.dumps(value).encode()) for value in message.values]
        body = _ENCODER.encode(msgspec.structs.replace(message, values=texts))
    if len(body) > limit_bytes:
        raise PayloadTooLarge(
            f"a batch of {len(body)} bytes is over the executor's limit of {limit_bytes}: "
            "lower the model's max_batch, or send and return less"
        )
    return _LENGTH.pack(len(body)) + body


class FrameSplitter:
    """Cuts a stream of bytes, fed in pieces of any size, into the bodies of its frames."""

    def __init__(self, limit_bytes: int = MAX_FRAME_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._rest = bytearray()

    def feed(self, piece: bytes) -> list[bytes]:
        """Bodies that are complete now. Raises ``BrokenStream`` for a frame over the limit, before it is read."""
        self._rest += piece
        bodies: list[bytes] = []
        start = 0
        while len(self._rest) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._rest, start)
            if length > self._limit_bytes:
                raise BrokenStream(f"a frame of {length} bytes is over the limit of {self._limit_bytes}")
            end = start + _LENGTH.size + length
            if len(self._rest) < end:
                break
            bodies.append(bytes(self._rest[start + _LENGTH.size : end]))
            start = end
        del self._rest[:start]
        return bodies


def value_of_extension(code: int, payload: memoryview) -> object:
    """The ``ext_hook`` of every decoder of ours: the value that ``pack`` sent as JSON text."""
    if code != _JSON_TEXT:
        raise BrokenStream(f"msgpack extension {code} is not ours")
    return wire.loads(bytes(payload))


_ENCODER = msgspec.msgpack.Encoder()
