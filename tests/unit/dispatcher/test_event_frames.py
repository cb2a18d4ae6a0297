"""Events as text: one event is one frame, whatever its fields say."""

from affinity.io.event_port import Event
from dispatcher.event_frames import told
from tests.support.sse import seen_in

NASTY = 'a"b\n\ndata: {"kind": "forged"}\r\n<script>\u2028\x00é'


def test_nothing_in_a_name_ends_its_line():
    one = told(Event(f"model.{NASTY}", 1_700_000_000.5, {"model": NASTY, NASTY: "x"}, "5-1"))

    (event,) = seen_in(one.frame.decode())
    assert (event.kind, event.id) == ("unknown", "5-1")
    assert event.said == {
        "kind": f"model.{NASTY}",
        "model": NASTY,
        NASTY: "x",
        "at": "2023-11-14T22:13:20.500000Z",
        "id": "5-1",
    }
    assert one.frame.count(b"\n") == 4, "id, event, data and the blank line"


def test_numbers_are_numbers_and_an_instant_that_is_none_is_null():
    one = told(Event("job.started", 1e300, {"attempt": "2", "life": "x", "jobs": "9" * 400, "load_s": "nan"}, "5-1"))

    (event,) = seen_in(one.frame.decode())
    assert (event.said["attempt"], event.said["life"], event.said["load_s"]) == (2, "x", "nan")
    assert (event.said["jobs"], event.said["at"]) == ("9" * 400, None)
