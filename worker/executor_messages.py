"""What a worker and its executor say to one another, and how errors and catalogue entries travel between them.

Every request gets exactly one reply under its id, unless the executor dies first. Errors arrive as the class of
``affinity.errors`` they left as.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec

from affinity import errors
from affinity.errors import AffinityError, InvalidInput, Overloaded
from models.entry import OPTIONS, ModelEntry
from worker.frames import BrokenStream, Message, WithValues, value_of_extension
from worker.host_cache import Cached, Tier

HELLO_ID = 0
"""Id under which the executor says, unasked, that it is ready or why it cannot be."""


class ErrorRecord(msgspec.Struct, array_like=True, frozen=True):
    """An error of the tree: its class's name and what its constructor takes."""

    kind: str
    message: str
    field: str | None = None
    retry_after_s: float = 1.0


class Load(Message, frozen=True):
    """Make a model resident; ``entry`` as ``entry_fields`` gives it. -> ``LoadDone``."""

    entry: dict[str, object]


class Unload(Message, frozen=True):
    """Free a model; one that is not there is fine. The host keeps its weights if it has room. -> ``UnloadDone``.

    ``room_for`` is the model that is to be loaded next, if any: its weights stay in the host's memory.
    """

    model: str
    room_for: str = ""


class Run(WithValues, frozen=True):
    """Run one batch, ``values`` being the inputs. -> ``RunDone``."""

    model: str


class Ready(Message, frozen=True):
    """The executor has its device and takes requests."""


class LoadDone(Message, frozen=True):
    """As ``worker.executor.Loaded``. ``cached``: as ``worker.executor.Executor.cached`` from now on."""

    reserved_bytes: int
    total_bytes: int
    load_s: float
    tier: Tier
    cached: Cached


class UnloadDone(Message, frozen=True):
    """What the whole executor still holds; ``cached`` as in ``LoadDone``."""

    total_bytes: int
    cached: Cached


class RunDone(WithValues, frozen=True):
    """As ``worker.executor.BatchReply``: a result per input; where ``errors`` has its position, that error instead."""

    errors: dict[int, ErrorRecord]
    exec_s: float
    reserved_bytes: int
    total_bytes: int


class Failed(Message, frozen=True):
    """The request as a whole failed."""

    error: ErrorRecord


Request = Load | Unload | Run
Reply = Ready | LoadDone | UnloadDone | RunDone | Failed

_REQUESTS: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request, ext_hook=value_of_extension)
_REPLIES: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply, ext_hook=value_of_extension)


def read_request(body: bytes) -> Request:
    """The request in a frame's body. Raises ``BrokenStream``."""
    try:
        return _REQUESTS.decode(body)
    except (msgspec.MsgspecError, ValueError) as error:
        raise BrokenStream(f"a frame of {len(body)} bytes is no request: {error}") from error


def read_reply(body: bytes) -> Reply:
    """The reply in a frame's body. Raises ``BrokenStream``."""
    try:
        return _REPLIES.decode(body)
    except (msgspec.MsgspecError, ValueError) as error:
        raise BrokenStream(f"a frame of {len(body)} bytes is no reply: {error}") from error


def record_of(error: AffinityError) -> ErrorRecord:
    """The error, ready to travel. A subclass from outside the tree becomes the class of the tree it derives from."""
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    # A message may quote text that UTF-8 cannot hold.
    message = error.message.encode("utf-8", "backslashreplace").decode()
    field = error.field if isinstance(error, InvalidInput) else None
    if field is not None:
        field = field.encode("utf-8", "backslashreplace").decode()
        message = message.removeprefix(f"{field}: ")  # its constructor puts it there again
    return ErrorRecord(kind.__name__, message, field, error.retry_after_s if isinstance(error, Overloaded) else 1.0)


def error_of(record: ErrorRecord) -> AffinityError:
    """The error that was recorded. Raises ``BrokenStream`` for a class the tree does not have."""
    kind = getattr(errors, record.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, AffinityError)):
        raise BrokenStream(f"there is no error {record.kind!r}")
    if issubclass(kind, InvalidInput):
        return kind(record.message, record.field)
    if issubclass(kind, Overloaded):
        return kind(record.message, record.retry_after_s)
    return kind(record.message)


def entry_fields(entry: ModelEntry) -> dict[str, object]:
    """The entry as plain values."""
    return {**asdict(entry), "folder": str(entry.folder)}


def entry_of(fields: dict[str, Any]) -> ModelEntry:
    """The entry that ``entry_fields`` took apart."""
    options = OPTIONS[fields["runtime"]](**fields["options"])
    return ModelEntry(**{**fields, "folder": Path(fields["folder"]), "options": options})
