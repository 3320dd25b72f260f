"""Check the fields of NRRD and MetaImage headers before a library guesses their meaning.

In MetaImage files, SimpleITK takes missing numbers from the next field, reads text as 0, and drops minus signs.
"""

import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from mdkd_auto.core.errors import ImageError

META_BYTES = {
    "CHAR": 1,
    "UCHAR": 1,
    "SHORT": 2,
    "USHORT": 2,
    "INT": 4,
    "UINT": 4,
    "LONG": 4,
    "ULONG": 4,
    "LONG_LONG": 8,
    "ULONG_LONG": 8,
    "FLOAT": 4,
    "DOUBLE": 8,
}
NRRD_BYTES = {
    "char": 1,
    "uchar": 1,
    "int8": 1,
    "uint8": 1,
    "short": 2,
    "ushort": 2,
    "int16": 2,
    "uint16": 2,
    "int": 4,
    "uint": 4,
    "int32": 4,
    "uint32": 4,
    "float": 4,
    "double": 8,
    "longlong": 8,
    "ulonglong": 8,
    "int64": 8,
    "uint64": 8,
}
META_DIMENSIONS = ("2", "3", "4")  # SimpleITK crashes on others
META_YES, META_NO = ("true", "t", "1"), ("false", "f", "0")
MOST_NRRD_DIMENSIONS = 16
NRRD_ENCODINGS = ("raw", "txt", "text", "ascii", "hex", "gz", "gzip", "bz2", "bzip2")
NRRD_SPACES = {  # name -> coordinates
    **dict.fromkeys(
        (
            "ras",
            "las",
            "lps",
            "right-anterior-superior",
            "left-anterior-superior",
            "left-posterior-superior",
            "scanner-xyz",
            "3d-right-handed",
            "3d-left-handed",
        ),
        3,
    ),
    **dict.fromkeys(
        (
            "rast",
            "last",
            "lpst",
            "right-anterior-superior-time",
            "left-anterior-superior-time",
            "left-posterior-superior-time",
            "scanner-xyz-time",
            "3d-right-handed-time",
            "3d-left-handed-time",
        ),
        4,
    ),
}
SPATIAL_KINDS = ("domain", "space", "???", "none")
VECTOR = re.compile(r"\(([^)]*)\)|(none)", re.IGNORECASE)
SHOWN = 60  # most characters of a field in a message
CORRECT = "correct its header, or export it anew"


def check_meta_fields(fields: Mapping[str, str]) -> None:
    """Raise ImageError, naming the field, for a missing or invalid field of a MetaImage header."""
    if fields.get("NDims") not in META_DIMENSIONS:
        raise _refused("NDims", fields.get("NDims"), f"the number of dimensions, {', '.join(META_DIMENSIONS)}")
    axes = int(fields["NDims"])
    each = f"one for each dimension (NDims {axes})"
    _check_sizes("DimSize", fields.get("DimSize"), axes, each)
    item = fields.get("ElementType")
    if item is None or (item.removeprefix("MET_") not in META_BYTES and not item.endswith("_ARRAY")):
        raise _refused("ElementType", item, f"one of {', '.join(f'MET_{name}' for name in META_BYTES)}")
    if not item.startswith("MET_"):
        raise _refused("ElementType", item, f"MET_{item}")
    for name in ("ElementSpacing", "ElementSize"):
        if name in fields:
            _check_numbers(name, fields[name], axes, f"{axes} numbers above 0, {each}", above_0=True)
    for name in ("Offset", "Position", "Origin", "CenterOfRotation"):
        if name in fields:
            _check_numbers(name, fields[name], axes, f"{axes} numbers, {each}")
    for name in ("TransformMatrix", "Rotation", "Orientation"):
        if name in fields:
            wanted = f"{axes**2} numbers, {axes} for each dimension (NDims {axes})"
            _check_numbers(name, fields[name], axes**2, wanted)
            if np.linalg.det(np.array(fields[name].split(), dtype=np.float64).reshape(axes, axes)) == 0:
                raise _refused(name, fields[name], f"{wanted}, of axes that point in different directions")
    for name in ("BinaryData", "CompressedData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB"):
        if fields.get(name, "True").lower() not in META_YES + META_NO:
            raise _refused(name, fields[name], "True or False")
    for name, least in (("ElementNumberOfChannels", 1), ("HeaderSize", -1)):
        if not _is_whole(fields.get(name, "1"), least):
            raise _refused(name, fields[name], f"a whole number from {least} on")
    if not fields.get("ElementDataFile"):
        raise _refused("ElementDataFile", fields.get("ElementDataFile"), "LOCAL, or the name of the voxels' file")


def is_meta_true(text: str) -> bool:
    """Parse a truth value as MetaIO does."""
    return text.lower() in META_YES


def check_nrrd_fields(fields: Mapping[str, str]) -> None:
    """Raise ImageError, naming the field, for a missing or invalid field of an NRRD header."""
    dimension = fields.get("dimension", "")
    if not _is_whole(dimension, 1) or int(dimension) > MOST_NRRD_DIMENSIONS:
        raise _refused("dimension", fields.get("dimension"), f"a whole number from 1 to {MOST_NRRD_DIMENSIONS}")
    axes = int(dimension)
    each = f"one for each axis (dimension {axes})"
    _check_sizes("sizes", fields.get("sizes"), axes, each)
    item = short_type(fields.get("type", ""))
    if item not in NRRD_BYTES:
        raise _refused("type", fields.get("type"), f"one of {', '.join(NRRD_BYTES)}")
    encoding = fields.get("encoding", "").lower()
    if encoding not in NRRD_ENCODINGS:
        raise _refused("encoding", fields.get("encoding"), f"one of {', '.join(NRRD_ENCODINGS)}")
    endian = fields.get("endian", "").lower()
    if endian not in ("little", "big") and (endian or (NRRD_BYTES[item] > 1 and encoding not in NRRD_ENCODINGS[1:4])):
        raise _refused("endian", fields.get("endian"), "little or big")
    if "spacings" in fields:
        spacings = _floats(fields["spacings"])
        if spacings is None or len(spacings) != axes or any(not (value > 0 or math.isnan(value)) for value in spacings):
            raise _refused("spacings", fields["spacings"], f"{axes} numbers above 0 or NaN, {each}")
    if "kinds" in fields and len(fields["kinds"].split()) != axes:
        raise _refused("kinds", fields["kinds"], f"{axes} words, {each}")
    if "space directions" in fields or "space origin" in fields:
        _check_directions(fields, axes, each)


def _check_directions(fields: Mapping[str, str], axes: int, each: str) -> None:
    stated = fields.get("space dimension", "")
    coordinates = NRRD_SPACES.get(fields.get("space", "").lower()) or (int(stated) if _is_whole(stated, 1) else None)
    if coordinates is None:
        raise _refused("space", fields.get("space"), "a space such as left-posterior-superior, which directions need")
    vector = f"({', '.join('xyzt'[:coordinates])})"
    if "space directions" in fields:
        text = fields["space directions"]
        vectors = _vectors(text)
        wanted = f"{axes} vectors {vector} or none, {each}"
        if vectors is None or len(vectors) != axes:
            raise _refused("space directions", text, wanted)
        kinds = fields.get("kinds", "???").lower().split() * axes
        for kind, direction in zip(kinds, vectors, strict=False):
            if direction is None and axes <= coordinates and kind in SPATIAL_KINDS:
                raise _refused("space directions", text, f"{wanted}; an axis in space has a vector")
            if direction is not None and (
                len(direction) != coordinates or not math.isfinite(math.hypot(*direction)) or not any(direction)
            ):
                raise _refused("space directions", text, f"{wanted}, of finite numbers that are not all 0")
    if "space origin" in fields:
        origin = _vectors(fields["space origin"]) or []
        numbers = origin[0] if len(origin) == 1 else None
        if numbers is None or len(numbers) != coordinates or not all(map(math.isfinite, numbers)):
            raise _refused("space origin", fields["space origin"], f"one vector {vector} of finite numbers")


def short_type(name: str) -> str:
    """Return the shortest NRRD spelling: ``unsigned short int`` and ``uint16_t`` -> ``ushort``, ``uint16``."""
    short = name.lower().replace("unsigned ", "u").replace("signed ", "").removesuffix("_t")
    if short not in {"int", "uint"}:
        short = short.removesuffix(" int")
    return short.replace(" ", "")


def _refused(field: str, found: str | None, expected: str) -> ImageError:
    statement = f"has no {field}" if found is None else f"says {field} {found[:SHOWN]!r}"
    return ImageError(f"its header {statement}: expected {expected}; {CORRECT}", "header-contradicts")


def _check_sizes(field: str, text: str | None, axes: int, each: str) -> None:
    sizes = _floats(text or "")
    if sizes is None or len(sizes) != axes or not all(size >= 1 and size == int(size) for size in sizes):
        raise _refused(field, text, f"{axes} whole numbers above 0, {each}")


def _check_numbers(field: str, text: str, count: int, expected: str, above_0: bool = False) -> None:
    numbers = _floats(text)
    if numbers is None or len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise _refused(field, text, expected)
    if above_0 and min(numbers) <= 0:
        raise _refused(field, text, expected)


def _floats(text: str) -> Sequence[float] | None:
    """Parse space-separated numbers; None if the text holds anything else."""
    try:
        return [float(word) for word in text.split()]
    except ValueError:
        return None


def _vectors(text: str) -> list[Sequence[float] | None] | None:
    """``(1,0,0) none`` -> [[1, 0, 0], None]; None if the text holds anything else."""
    vectors: list[Sequence[float] | None] = []
    if VECTOR.sub("", text).strip():
        return None
    for numbers, without in VECTOR.findall(text):
        vector = None if without else _floats(numbers.replace(",", " "))
        if vector is None and not without:
            return None
        vectors.append(vector)
    return vectors


def _is_whole(text: str, least: int) -> bool:
    return text.removeprefix("-").isdecimal() and text.isascii() and len(text) < 10 and int(text) >= least
