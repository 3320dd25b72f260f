"""Read NRRD, MHA and MHD headers before SimpleITK does: voxel layout, units, contradictory fields.

SimpleITK ignores units, and silently picks one value if a field is given twice.
"""

import math
import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdkd_auto.core.errors import ImageError
from mdkd_auto.formats.itk_fields import (
    META_BYTES,
    NRRD_BYTES,
    check_meta_fields,
    check_nrrd_fields,
    is_meta_true,
    short_type,
)

UNCHECKED = "unchecked"
LONGEST_FIELD = 900  # characters
MOST_DIFFERENCE = 0.01  # relative difference of numbers that should agree
MM_PER_UNIT = {
    **dict.fromkeys(("mm", "millimeter", "millimetre", "", "?", "??", "???", "unknown", "none"), 1.0),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 10.0),
    **dict.fromkeys(("m", "meter", "metre"), 1000.0),
    **dict.fromkeys(("um", "micron", "micrometer", "micrometre"), 1e-3),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-6),
    **dict.fromkeys(("in", "inch", "inche"), 25.4),
}
NO_LENGTHS = ("pixel", "voxel", "px")
META_SYNONYMS = (
    ("Offset", "Position", "Origin"),
    ("TransformMatrix", "Rotation", "Orientation"),
    ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"),
)
META_SCALE = (("ElementToIntensityFunctionSlope", "1"), ("ElementToIntensityFunctionOffset", "0"))
Floats = NDArray[np.float64]
WORD = re.compile(r'"([^"]*)"|(\S+)')
SEGMENT = re.compile(r"Segment(\d+)_(Name|LabelValue)")


class ItkHeader(NamedTuple):
    """The voxel layout in the file, and the fields SimpleITK does not report."""

    content: bytes
    encoding: str  # raw, gzip, zlib, bzip2, or another that is not checked
    voxel_bytes: int | None  # expected, decompressed; None if unknown
    slice_bytes: int  # bytes per index of the last axis; 0 if unknown
    spacing_known: bool
    axis_units: tuple[str, ...] = ()  # unit of the spacing, one per axis
    world_units: tuple[str, ...] = ()  # unit of directions and origin, one per coordinate
    segments: tuple[tuple[str, int], ...] = ()  # names that 3-D Slicer gave to mask values


def read_header(path: Path, ending: str) -> ItkHeader:
    """Read the header of an NRRD, MHA or MHD file. Raises ImageError without the file's name."""
    return _read_nrrd(path) if ending == ".nrrd" else _read_meta(path)


def mm_per_unit(unit: str) -> float:
    """Raise ImageError if the unit is not a length."""
    word = unit.strip().lower()
    if not word.isascii() and word.endswith("m"):
        word = "um"  # a Greek letter in either encoding
    factor = MM_PER_UNIT.get(word, MM_PER_UNIT.get(word[:-1]) if len(word) > 2 and word.endswith("s") else None)
    if factor is None:
        raise ImageError(f"the unit of its voxel sizes is {unit[:40]!r}; expected mm, cm, m, um, nm or inch")
    return factor


def with_unit(content: bytes, ending: str, unit: str, dimensions: int) -> bytes:
    """Insert the unit of length into the header of a file written by SimpleITK."""
    unit = unit if unit.isascii() else "um"
    line, before = f"DistanceUnits = {unit}\n", b"ElementType ="
    if ending == ".nrrd":
        line, before = "space units:" + f' "{unit}"' * dimensions + "\n", b"space origin:"
    place = content.index(before)
    return content[:place] + line.encode("utf-8") + content[place:]


def _read_meta(path: Path) -> ItkHeader:
    """Read MetaImage: ``Key = value`` lines up to ElementDataFile."""
    content = path.read_bytes()
    fields: dict[str, str] = {}
    position = 0
    while "ElementDataFile" not in fields:
        end = content.find(b"\n", position)
        if end < 0:
            message = "its MetaImage header breaks off: it has no line ElementDataFile, the last one"
            raise ImageError(f"{message}; copy or export it anew")
        key, _, value = content[position:end].decode("latin-1").partition("=")
        _set_once(fields, key.strip(), value.strip())
        position = end + 1
    check_meta_fields(fields)
    _check_meta(fields)
    data_file = fields["ElementDataFile"]
    skipped = _skipped_bytes(fields)
    if data_file.upper() == "LOCAL":
        if skipped not in {0, position}:
            details = f"its header says HeaderSize {skipped}, but its voxels begin at byte {position}"
            raise ImageError(f"{details}; remove HeaderSize", "header-contradicts")
        voxels = content[position:]
    elif data_file.upper().startswith("LIST") or "%" in data_file:
        _check_beside([data_file, *content[position:].decode("latin-1").splitlines()])
        voxels = b""
    else:
        voxels = _read_beside(path, data_file)[skipped:]
    checked = voxels and is_meta_true(fields.get("BinaryData", "True"))
    compressed = is_meta_true(fields.get("CompressedData", "False"))
    encoding = UNCHECKED if not checked else ("zlib" if compressed else "raw")
    item = META_BYTES.get(fields.get("ElementType", "").removeprefix("MET_"))
    expected, of_slice = _count(fields["DimSize"], item, int(fields.get("ElementNumberOfChannels", "1")))
    if data_file.upper() == "LOCAL" and not voxels:
        raise ImageError("it ends after its header; copy or export it anew")
    known = "ElementSpacing" in fields or "ElementSize" in fields
    units = (fields.get("DistanceUnits", ""),) * 3
    return ItkHeader(voxels, encoding, expected, of_slice, known, world_units=units)


def _read_nrrd(path: Path) -> ItkHeader:
    """Read NRRD: ``field: value`` and ``key:=value`` lines up to an empty one."""
    content = path.read_bytes()
    if not content.startswith(b"NRRD"):
        raise ImageError("it does not begin like an NRRD file; is it another format with this ending?")
    ends = [(content.find(mark), len(mark)) for mark in (b"\n\n", b"\r\n\r\n")]
    found = sorted(end for end in ends if end[0] >= 0)
    head = content[: found[0][0]] if found else content
    lines = [line for line in head.decode("utf-8", "replace").splitlines()[1:] if not line.startswith("#")]
    if any(len(line) > LONGEST_FIELD and ":=" not in line for line in lines):  # SimpleITK crashes on longer fields
        raise ImageError("a line of its NRRD header is absurdly long; copy or export it anew")
    fields, keys = _nrrd_fields(lines)
    check_nrrd_fields(fields)
    _check_nrrd(fields)
    data_file = fields.get("data file", fields.get("datafile", ""))
    if not found and not data_file:
        raise ImageError("its NRRD header breaks off; copy or export it anew")
    if not data_file:
        voxels = content[sum(found[0]) :]
    elif data_file.startswith("LIST") or "%" in data_file:
        first = next(number for number, line in enumerate(lines) if line.lower().startswith(("data file", "datafile")))
        _check_beside([data_file, *lines[first + 1 :]])
        voxels = b""
    else:
        voxels = _read_beside(path, data_file)
    skips = any(fields.get(name, "0") != "0" for name in ("line skip", "lineskip", "byte skip", "byteskip"))
    encoding = UNCHECKED if skips or (data_file and not voxels) else fields.get("encoding", "raw").lower()
    item = NRRD_BYTES.get(short_type(fields.get("type", "")))
    axis_units, world_units = _words(fields.get("units", "")), _words(fields.get("space units", ""))
    known = "space directions" in fields or ("spacings" in fields and "nan" not in fields["spacings"].lower())
    known = known and not set(NO_LENGTHS) & {unit.strip().lower().removesuffix("s") for unit in axis_units}
    return ItkHeader(
        voxels,
        encoding,
        *_count(fields["sizes"], item, 1),
        known,
        axis_units if known else (),
        world_units,
        _segments(keys),
    )


def _nrrd_fields(lines: list[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return fields by lower-case name, and the custom keys."""
    fields: dict[str, str] = {}
    keys: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if value.startswith("="):
            keys[name] = value[1:]
        else:
            fields[name.strip().lower()] = value.strip()
    return fields, keys


def _words(text: str) -> tuple[str, ...]:
    """Split into words, quoted or not."""
    return tuple(quoted or plain for quoted, plain in WORD.findall(text))


def _segments(keys: dict[str, str]) -> tuple[tuple[str, int], ...]:
    segments: dict[str, dict[str, str]] = {}
    for key, value in keys.items():
        if (match := SEGMENT.fullmatch(key)) is not None:
            segments.setdefault(match[1], {})[match[2]] = value.strip()
    return tuple(
        (segment["Name"], int(segment["LabelValue"]))
        for segment in segments.values()
        if segment.get("Name") and segment.get("LabelValue", "").isdecimal()
    )


def _set_once(fields: dict[str, str], key: str, value: str) -> None:
    if fields.setdefault(key, value) != value:
        raise ImageError(f"its header says {key} twice: {fields[key][:40]} and {value[:40]}", "header-contradicts")


def _check_meta(fields: dict[str, str]) -> None:
    """Raise ImageError for fields that should agree and differ.

    ElementSize may differ from ElementSpacing along the slice axis: slices may be thinner or thicker than that.
    """
    for names in META_SYNONYMS:
        given = [name for name in names if name in fields]
        for name in given[1:]:
            if not _alike(fields[given[0]], fields[name]):
                details = f"its header says {given[0]} {fields[given[0]][:60]}, but {name} {fields[name][:60]}"
                raise ImageError(details, "header-contradicts")
    for name, nothing in META_SCALE:
        if not _alike(fields.get(name, nothing), nothing):
            message = f"its header says {name} {fields[name][:40]}, which readers do not apply"
            raise ImageError(f"{message}; save the values themselves", "header-contradicts")
    size, spacing = fields.get("ElementSize", ""), fields.get("ElementSpacing", "")
    if size and spacing and not _alike(" ".join(size.split()[:2]), " ".join(spacing.split()[:2])):
        details = f"its voxel sizes contradict each other: ElementSpacing {spacing[:60]}, ElementSize {size[:60]}"
        raise ImageError(f"{details}; keep the one that is right", "spacing-contradicts")


def _skipped_bytes(fields: dict[str, str]) -> int:
    """Return the bytes before the voxels in their file; 0 for HeaderSize -1, where the voxels come last."""
    stated = _numbers(fields.get("HeaderSize", "0"))
    return max(0, int(stated[0])) if stated.size == 1 and np.isfinite(stated[0]) else 0


def _check_nrrd(fields: dict[str, str]) -> None:
    """Raise ImageError if voxel sizes are given twice and differ."""
    spacings = _numbers(fields.get("spacings", ""))
    if spacings.size and np.isfinite(spacings).any() and "space directions" in fields:
        details = f"spacings {fields['spacings'][:60]}, space directions {fields['space directions'][:80]}"
        raise ImageError(
            f"its voxel sizes are given twice: {details}; keep those that are right", "spacing-contradicts"
        )
    lows, highs, sizes = (_numbers(fields.get(name, "")) for name in ("axis mins", "axis maxs", "sizes"))
    if not spacings.size or not spacings.shape == lows.shape == highs.shape == sizes.shape:
        return
    by_cell, by_node = (highs - lows) / np.maximum(sizes, 1), (highs - lows) / np.maximum(sizes - 1, 1)
    stated = np.isfinite(spacings) & np.isfinite(by_cell)
    alike = [np.isclose(size, spacings, MOST_DIFFERENCE, 0) for size in (by_cell, by_node)]
    if not (alike[0] | alike[1] | ~stated).all():
        details = ", ".join(f"{name} {fields[name][:60]}" for name in ("spacings", "axis mins", "axis maxs"))
        raise ImageError(f"its voxel sizes contradict each other: {details}; correct its header", "spacing-contradicts")


def _numbers(text: str) -> Floats:
    """Parse numbers; () if the text holds anything else."""
    try:
        return np.array(text.split(), dtype=np.float64)
    except ValueError:
        return np.array([])


def _alike(first: str, second: str) -> bool:
    try:
        a, b = (np.array(text.split(), dtype=np.float64) for text in (first, second))
    except ValueError:
        return first.lower() == second.lower()
    return a.shape == b.shape and bool(np.allclose(a, b, MOST_DIFFERENCE, 1e-6))


def _check_beside(names: list[str]) -> None:
    """Raise ImageError for a voxel file name that leaves the header's folder."""
    for name in names:
        path = PurePosixPath(name.strip().replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in name:
            message = f"its header takes voxels from {name.strip()[:80]}; move them beside it and correct the name"
            raise ImageError(message)


def _read_beside(path: Path, name: str) -> bytes:
    _check_beside([name])
    voxels = path.parent / name
    if not voxels.is_file():
        raise ImageError(f"its voxel file {name} is not beside it; copy both files together")
    return voxels.read_bytes()


def _count(sizes: str, item_bytes: int | None, channels: int) -> tuple[int | None, int]:
    """Return the bytes of all voxels and of one slice."""
    if item_bytes is None:
        return None, 0
    numbers = [int(float(number)) for number in sizes.split()]
    of_slice = math.prod(numbers[:-1]) * item_bytes * channels
    return of_slice * numbers[-1], of_slice
