"""Text that comes from other people, as it may be shown: what would steer a terminal is written out instead.

Model names, ids, reasons and messages can hold escape sequences, newlines or marks that turn text around. Everything
that the command line prints for people goes through here; JSON escapes by itself.
"""

from collections.abc import Iterable

from rich.text import Text


def plain(value: object) -> str:
    """One line of printable characters: everything else as ``\\n``, ``\\x1b``, ``\\u202e``."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def shown(value: object, style: str = "") -> Text:
    """That line for ``rich``: what looks like markup in it is only shown."""
    return Text(plain(value), style)


def listed(values: Iterable[object], style: str = "") -> Text:
    """A line for each of them."""
    return Text("\n".join(plain(value) for value in values), style)
