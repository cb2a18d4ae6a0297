"""Frames and messages between worker and executor: they survive any cut, any JSON value, and nothing else."""

import json
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affinity import errors
from affinity.errors import AffinityError, InvalidInput, Overloaded, PayloadTooLarge
from models.catalog import Catalog, ModelEntry, default_catalog_path
from worker.executor_messages import (
    ErrorRecord,
    Load,
    Run,
    RunDone,
    entry_fields,
    entry_of,
    error_of,
    read_reply,
    read_request,
    record_of,
)
from worker.frames import BrokenStream, FrameSplitter, pack

CLASSES = sorted(
    (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AffinityError)),
    key=lambda kind: kind.__name__,
)

any_text = st.text(st.characters(codec=None), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=10,
)


def body_of(frame: bytes) -> bytes:
    (body,) = FrameSplitter().feed(frame)
    return body


@given(st.lists(json_values, max_size=4))
def test_any_json_value_arrives_as_it_left(values: list[object]):
    request = read_request(body_of(pack(Run(7, values, "m"))))
    assert isinstance(request, Run)
    assert (request.id, request.model) == (7, "m")
    assert json.dumps(request.values) == json.dumps(values)  # tells 1 from 1.0 and -0.0 from 0.0


def test_one_odd_value_does_not_change_its_neighbours():
    reply = read_reply(body_of(pack(RunDone(1, [2**200, "\ud800", 1.5, None], {}, 0.1, 2, 3))))
    assert isinstance(reply, RunDone)
    assert reply.values == [2**200, "\ud800", 1.5, None]


@given(st.lists(st.binary(max_size=40), max_size=6), st.integers(1, 17))
def test_frames_come_out_whole_however_the_stream_is_cut(bodies: list[bytes], piece: int):
    stream = b"".join(struct.pack(">I", len(body)) + body for body in bodies)
    splitter = FrameSplitter()
    out = [body for start in range(0, len(stream), piece) for body in splitter.feed(stream[start : start + piece])]
    assert out == bodies


def test_a_batch_over_the_limit_is_refused_before_it_is_sent_with_what_to_do():
    with pytest.raises(PayloadTooLarge, match="over the executor's limit of 100: lower the model's max_batch"):
        pack(Run(1, ["x" * 100], "m"), limit_bytes=100)


def test_a_frame_over_the_limit_is_refused_before_it_is_read():
    with pytest.raises(BrokenStream, match="over the limit"):
        FrameSplitter(limit_bytes=100).feed(struct.pack(">I", 101))


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x90", b"nonsense", msgspec.msgpack.encode(["Load", "not an id", {}])]
)
def test_a_body_that_is_no_message_breaks_the_stream(body: bytes):
    for read in (read_request, read_reply):
        with pytest.raises(BrokenStream):
            read(body)


def test_values_that_are_not_json_are_the_senders_mistake():
    with pytest.raises(TypeError):
        pack(Run(1, [object()], "m"))


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_arrives_as_the_class_it_left_as(kind: type[AffinityError]):
    sent = kind("what is wrong \ud800")
    received = error_of(msgspec.msgpack.decode(msgspec.msgpack.encode(record_of(sent)), type=ErrorRecord))
    assert type(received) is kind
    assert (received.code, received.message) == (sent.code, "what is wrong \\ud800")


def test_an_invalid_inputs_field_arrives_once():
    received = error_of(record_of(InvalidInput("must be a string", "input.texts[1]")))
    assert isinstance(received, InvalidInput)
    assert (received.field, str(received)) == ("input.texts[1]", "input.texts[1]: must be a string")


def test_when_to_try_again_arrives():
    received = error_of(record_of(Overloaded("not now", retry_after_s=7.0)))
    assert isinstance(received, Overloaded)
    assert received.retry_after_s == 7.0


def test_a_subclass_from_elsewhere_arrives_as_its_class_of_the_tree():
    class TooLong(InvalidInput):
        """A user's own."""

    assert type(error_of(record_of(TooLong("is too long")))) is InvalidInput


def test_an_error_that_the_tree_does_not_have_breaks_the_stream():
    with pytest.raises(BrokenStream, match="no error 'StrEnum'"):
        error_of(ErrorRecord("StrEnum", "x"))


@pytest.mark.parametrize("entry", list(Catalog.load(default_catalog_path())), ids=lambda entry: entry.name)
def test_every_entry_of_the_catalogue_arrives_as_it_left(entry: ModelEntry):
    request = read_request(body_of(pack(Load(1, entry_fields(entry)))))
    assert isinstance(request, Load)
    assert entry_of(request.entry) == entry
