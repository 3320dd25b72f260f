"""Text from elsewhere: names of files that are no UTF-8, and values as a message shows them."""

import re

_SHOWN = 80  # characters of a value in a message
_HALF = re.compile("[\ud800-\udfff]")  # what Python makes of a byte of a name that is no UTF-8


def is_utf8(text: str) -> bool:
    """Whether the text can be written: names of files may hold bytes that are no UTF-8."""
    return text.isascii() or _HALF.search(text) is None


def escaped(text: str, backslash: str = "\\") -> str:
    r"""The text with each byte that is no UTF-8 written out: ``M\xfcller``."""
    return _HALF.sub(lambda half: f"{backslash}x{ord(half[0]) & 0xFF:02x}", text)


def shown(value: object) -> str:
    """A value as a message shows it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
