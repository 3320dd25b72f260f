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


def duration(seconds: float) -> str:
    """Rounded to what matters: ``45 s``, ``12 min``, ``3.5 h``, ``2.1 days``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 129_600 else f"{seconds / 86_400:.1f} days"
