"""Check a .b2nd file before blosc2 opens it: is it a plain array, or something blosc2 would evaluate?

blosc2 can store expressions, Python functions, server references, and plugin codecs that it finds by running Python.
The frame's header, a msgpack array (C-Blosc2, README_CFRAME_FORMAT.rst), tells which of these it holds.
"""

from pathlib import Path
from typing import Any

import msgspec

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.files import ReadError, unread_because

MAGIC = "b2frame\0"
HEADER_FIELDS = 14
LENGTH_AT = slice(11, 15)  # bytes of the header length, big-endian
MOST_HEADER_BYTES = 4096
ARRAY = "b2nd"  # the only metalayer of a plain array
ZSTD = 5
BUILT_IN_FILTERS = range(32)  # plugins have higher numbers
FILTERS, CODEC = slice(0, 6), 6  # header bytes that hold the codes
TYPES = ("f4", "i1", "i2")  # types of the stored arrays


def check_frame(path: Path) -> None:
    """Raise MdkdError unless the file is a plain array as this program stores it."""
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_HEADER_BYTES)
    except OSError as error:
        raise ReadError(str(path), unread_because(error)) from error
    try:
        unexpected = _unexpected(content)
    except (msgspec.MsgspecError, ValueError, TypeError, IndexError, RecursionError):
        unexpected = "its header cannot be read"
    if unexpected:
        message = f"damaged, or not written by this program ({unexpected})"
        raise MdkdError(f"{path}: {message}; delete it and run mdkd_plan_and_preprocess again")


def _unexpected(content: bytes) -> str:
    """Return the header content that a plain array never has, or ""."""
    length = int.from_bytes(content[LENGTH_AT], "big")
    fields = msgspec.msgpack.decode(content[:length])
    if not isinstance(fields, list) or len(fields) != HEADER_FIELDS or fields[0] != MAGIC:
        return "it does not begin like a blosc2 file"
    *_, has_more_metadata, codes, (_, layers, contents) = fields
    others = sorted(set(layers) - {ARRAY})
    if others:
        return f"its metadata holds {', '.join(map(repr, others))[:80]}, which blosc2 may evaluate"
    if has_more_metadata is not False:
        return "it holds metadata of variable length, which blosc2 may evaluate"
    if codes.data[CODEC] != ZSTD or not all(code in BUILT_IN_FILTERS for code in codes.data[FILTERS]):
        return "its codec or a filter belongs to a plugin"
    return _unexpected_array(msgspec.msgpack.decode(contents[0]))


def _unexpected_array(metadata: Any) -> str:
    """Check (version, axes, shape, chunks, blocks, dtype format, dtype)."""
    dtype = metadata[6]
    return "" if isinstance(dtype, str) and dtype[1:] in TYPES else f"it holds {dtype!r:.80} values"
