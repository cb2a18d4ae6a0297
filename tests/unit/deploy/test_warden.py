"""Which process groups the warden would kill."""

from deploy.local.warden import survivors


def test_what_was_named_and_not_released_is_left() -> None:
    assert survivors(["+11\n", "+12\n", "-11\n", "+13\n"]) == {12, 13}


def test_after_a_clean_end_nothing_is_left() -> None:
    assert survivors(["+11\n", "-11\n", "-11\n"]) == set()
    assert survivors([]) == set()
