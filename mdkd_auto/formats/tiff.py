"""TIFF: the pages of an image or volume as displayed, for any compression, type and photometric interpretation.

Samples of 8 bits and more keep their values; 1, 2 and 4 bits are scaled to 0..255, except in masks.
"""

import io
import itertools
import math
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np

from mdkd_auto.core.errors import ImageError
from mdkd_auto.core.strict_json import parse_json
from mdkd_auto.formats.colour import class_indices, grey_of_channels, widened
from mdkd_auto.formats.exif import ORIENTATION_TAG, Frame, valid_orientation
from mdkd_auto.formats.image import Array, to_upright
from mdkd_auto.formats.size_guard import MOST_EXPANSION, check_promise

MOST_PAGES = 20_000
SHADES, INVERTED, COLOURS, PALETTE, YCBCR = 1, 0, 2, 3, 6  # photometric interpretation
PHOTOMETRY = {
    4: "a transparency mask",
    5: "printing colours (CMYK)",
    YCBCR: "YCbCr colours",
    8: "CIE L*a*b* colours",
    9: "ICC L*a*b* colours",
    10: "ITU L*a*b* colours",
    32803: "a camera's raw colours",
    32844: "logarithmic luminance",
    32845: "logarithmic colours",
    34892: "a camera's raw colours",
}
JPEG = 7
MOST_INVERTED_BITS = 16  # beyond this, inversion exceeds float32 precision
# Compression -> most bytes it makes of one: none, LZW (strings of 12-bit codes), deflate, PackBits.
EXPANSION = {1: 1, 5: 1400, 8: MOST_EXPANSION, 32946: MOST_EXPANSION, 32773: 64}
OTHER_EXPANSION = 1 << 16
# also CCITT, JPEG, JPEG 2000, LZMA, Zstandard
COMPRESSIONS = frozenset({*EXPANSION, 2, 3, 4, JPEG, 33003, 33005, 34712, 34925, 50000})
ASSOCIATED_ALPHA, ALPHA = 1, 2  # types of extra samples
REDUCED_PAGE, MASK_PAGE, OLD_REDUCED_PAGE = 1, 4, 2  # new subfile type (bits), old subfile type
OLD_SUBFILE_TAG = 255


def read_tiff(content: bytes, colour_to_grey: bool, as_mask: bool) -> tuple[Array, int]:
    """Return (page, y, x), upright, and the stored orientation. Raises ImageError without the file's name."""
    import tifffile

    check_chain(io.BytesIO(content))
    with tifffile.TiffFile(io.BytesIO(content), is_ome=False, is_mmstack=False) as file:
        pages = full_pages(file)
        _check_axes(file)
        _check_promises(pages, len(content))
        _check_alike(pages)
        decoded = (page.asarray().reshape(page.shaped) for page in pages)
        samples = decoded if len(pages) > 1 else [_single(file, pages[0], content)]
        grey = [
            _grey(page_samples, page, colour_to_grey, as_mask)
            for page_samples, page in zip(samples, pages, strict=True)
        ]
        pixels = np.concatenate(grey)
        orientation = _orientation(pages[0])
        return to_upright(pixels if as_mask else _calibrated(pixels, file), orientation), orientation


def tiff_frame(stream: BinaryIO) -> tuple[Frame, int]:
    """Read only the headers: size and orientation of the first page, and the number of pages."""
    import tifffile

    check_chain(stream)
    stream.seek(0)
    with tifffile.TiffFile(stream, is_ome=False, is_mmstack=False) as file:
        pages = full_pages(file)
        frame = Frame((pages[0].imagewidth, pages[0].imagelength), _orientation(pages[0]))
        return frame, max(len(pages), pages[0].imagedepth, _unlisted(file) if len(pages) == 1 else 1)


def full_pages(file: Any) -> list[Any]:
    """Return the pages without thumbnails, previews and transparency masks."""
    pages = [page.aspage() for page in file.pages]
    kept = []
    for page in pages:
        old = page.tags.get(OLD_SUBFILE_TAG)
        reduced = page.subfiletype & (REDUCED_PAGE | MASK_PAGE) or (old is not None and old.value == OLD_REDUCED_PAGE)
        if not reduced:
            kept.append(page)
    if not kept:
        raise ImageError("it holds no picture but thumbnails or masks; export the picture itself")
    return kept


def check_chain(stream: BinaryIO) -> None:
    """Raise ImageError if the page chain is a cycle or too long: readers would not terminate."""
    seen: set[int] = set()
    left = length = stream.seek(0, io.SEEK_END)
    for offset, size in _directories(stream):
        if offset + size > length:
            raise ImageError("it is truncated; copy or export it anew", "truncated")
        if offset in seen:
            raise ImageError("its pages form a ring: one names an earlier page as the next; export it anew")
        seen.add(offset)
        left -= size
        if left < 0:
            raise ImageError("the directories of its pages lie on the same bytes; export it anew")
        if len(seen) > MOST_PAGES:
            raise ImageError(f"it has more than {MOST_PAGES} pages; save it as several volumes")


def _directories(stream: BinaryIO) -> Iterator[tuple[int, int]]:
    """Yield each page directory's offset and bytes in chain order; ends at a truncation."""
    stream.seek(0)
    start = stream.read(16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    if order is None or len(start) < 8:
        return
    big = struct.unpack_from(f"{order}H", start, 2)[0] == 43
    count_format, offset_format, entry = (f"{order}Q", f"{order}Q", 20) if big else (f"{order}H", f"{order}I", 12)
    try:
        offset = struct.unpack_from(offset_format, start, 8 if big else 4)[0]
        while offset:
            stream.seek(offset)
            count = struct.unpack(count_format, stream.read(struct.calcsize(count_format)))[0]
            size = struct.calcsize(count_format) + count * entry
            yield offset, size
            stream.seek(offset + size)
            offset = struct.unpack(offset_format, stream.read(struct.calcsize(offset_format)))[0]
    except (struct.error, OverflowError, ValueError):
        return


def _check_promises(pages: Sequence[Any], size: int) -> None:
    """Check that the bytes each page names exist, are not shared, and can hold the promised samples."""
    parts: list[tuple[int, int]] = []
    for page in pages:
        if page.compression not in COMPRESSIONS:
            name = getattr(page.compression, "name", page.compression)
            raise ImageError(f"its compression {name} is not read; save it without compression, or with deflate")
        if page.dtype is None or not isinstance(page.bitspersample, int):
            raise ImageError(f"it has {page.bitspersample} bits a sample; save it with 8 or 16")
        parts += zip(page.dataoffsets, page.databytecounts, strict=True)
    if any(start + count > size for start, count in parts) or not all(count > 0 for _, count in parts):
        raise ImageError("it is truncated; copy or export it anew", "truncated")
    parts.sort()
    if any(start + count > later for (start, count), (later, _) in itertools.pairwise(parts)):
        raise ImageError("several of its pages or strips lie on the same bytes; export it anew")
    check_promise(sum(_samples(page) * page.dtype.itemsize for page in pages))
    most = max(EXPANSION.get(page.compression, OTHER_EXPANSION) for page in pages)
    check_promise(sum(_samples(page) * page.bitspersample // 8 for page in pages), most * sum(n for _, n in parts))


def _samples(page: Any) -> int:
    """Count the samples decoded for a page: tiles may exceed it."""
    return max(page.size, len(page.dataoffsets) * math.prod(page.chunks)) if page.is_tiled else page.size


def _check_alike(pages: Sequence[Any]) -> None:
    """Raise ImageError unless the pages are slices of one volume."""
    if len({(page.shaped, page.dtype, _orientation(page)) for page in pages}) > 1:
        named = (
            ("sizes", {page.shaped for page in pages}),
            ("types", {page.dtype for page in pages}),
            ("orientations", {_orientation(page) for page in pages}),
        )
        message = " and ".join(f"{len(values)} different {name}" for name, values in named if len(values) > 1)
        raise ImageError(f"its pages are of {message}; save one file an image")
    if len(pages) > 1 and pages[0].shaped[1] > 1:
        raise ImageError(f"it holds {len(pages)} volumes; save one volume (z, y, x) a file")


def _check_axes(file: Any) -> None:
    """Raise ImageError if the header declares pages as channels, or has both slices and times."""
    sizes: dict[str, int] = {}
    if file.is_imagej:
        stated = file.imagej_metadata or {}
        sizes = {"C": stated.get("channels", 1), "Z": stated.get("slices", 1), "T": stated.get("frames", 1)}
    elif file.is_shaped:
        shape, axes = _shape_and_axes(file.pages.first)
        sizes = dict(zip(axes, shape, strict=False))
        leading = [size for size in shape[:-2] if size > 1]
        if not axes and len(leading) > 1 + (file.pages.first.samplesperpixel > 1):
            raise ImageError(f"it has the axes {shape}; save one volume (z, y, x) a file")
    elif "<OME" in (description := file.pages.first.description)[:2000]:
        matches = {axis: re.search(rf'\bSize{axis}="(\d+)"', description) for axis in "CZT"}
        sizes = {axis: int(match[1]) for axis, match in matches.items() if match}
    several = {axis: size for axis, size in sizes.items() if axis not in "YXS" and size > 1}
    if several.get("C", 1) > file.pages.first.samplesperpixel:
        raise ImageError(f"its pages are {several['C']} channels; save one file a channel (case_0000, case_0001, ...)")
    several.pop("C", None)
    if len(several) > 1:
        text = ", ".join(f"{axis} {size}" for axis, size in several.items())
        raise ImageError(f"it has the axes {text}; save one volume (z, y, x) a file")


def _shape_and_axes(page: Any) -> tuple[tuple[int, ...], str]:
    """Return tifffile's JSON from the first page's description: shape and axes; () and "" if absent."""
    stated = parse_json(page.shaped_description.encode(), "its description")
    shape, axes = (stated.get("shape"), stated.get("axes")) if isinstance(stated, dict) else (None, None)
    sizes = tuple(shape) if isinstance(shape, list) else ()
    known = all(isinstance(size, int) and size > 0 for size in sizes)
    return sizes if known else (), axes if isinstance(axes, str) else ""


def _unlisted(file: Any) -> int:
    """Count the pages in the metadata of a single page: some programs list one and append the others."""
    page = file.pages.first
    count: Any = 1
    if file.is_imagej:
        count = (file.imagej_metadata or {}).get("images", 1)
    elif file.is_shaped:
        count = math.prod(_shape_and_axes(page)[0]) // page.size
    elif file.is_stk:
        count = (file.stk_metadata or {}).get("NumberPlanes", 1)
    return count if isinstance(count, int) and count > 1 else 1


def _single(file: Any, page: Any, content: bytes) -> Array:
    """Read (planes, z, y, x, samples) of the only listed page and any unlisted ones after it."""
    count = _unlisted(file)
    if count == 1:
        return page.asarray().reshape(page.shaped)
    if page.samplesperpixel > 1 or not page.is_contiguous or page.bitspersample != 8 * page.dtype.itemsize:
        raise ImageError("its further pages are not listed; export it anew")
    start = page.dataoffsets[0]
    check_promise(count * page.nbytes, len(content) - start)
    samples = np.frombuffer(content, page.dtype.newbyteorder(file.byteorder), count * page.size, start)
    return samples.reshape(1, count, *page.shaped[2:])


def _grey(samples: Array, page: Any, colour_to_grey: bool, as_mask: bool) -> Array:
    """(planes, z, y, x, samples) -> (z, y, x): grey values from any photometric interpretation."""
    pixels = np.moveaxis(samples, 0, -1).reshape(*samples.shape[1:4], -1)  # (z, y, x, samples)
    photometric = int(page.photometric)
    bits = page.bitspersample
    if photometric in {SHADES, INVERTED}:
        shades = _without_extra(pixels, page, 1)
        if photometric == INVERTED:
            shades = _inverted(shades, bits, as_mask)
        return shades if as_mask else widened(shades, bits)
    if photometric == PALETTE and pixels.shape[-1] == 1:
        stated = np.moveaxis(np.asarray(page.colormap), 0, -1)  # (entries, 3) in 16 bits; some programs write 8
        colours = (stated >> 8 if stated.max() > 255 else stated).astype(np.uint8)
        if as_mask:
            return class_indices(pixels[..., 0], colours)
        return grey_of_channels(colours[pixels[..., 0]], colour_to_grey)
    if photometric == COLOURS or (photometric == YCBCR and page.compression == JPEG):  # decoded to RGB
        return grey_of_channels(_without_extra(pixels, page, 3), colour_to_grey, as_mask)
    name = PHOTOMETRY.get(photometric, f"photometric interpretation {photometric}")
    raise ImageError(f"it holds {name}; convert it to 8 or 16-bit grey")


def _calibrated(pixels: Array, file: Any) -> Array:
    """Apply ImageJ's linear calibration (cf 0), which it uses for signed 16-bit images such as CT."""
    stated = (file.imagej_metadata or {}) if file.is_imagej else {}
    line = [
        coefficient
        for coefficient in (stated.get("c0"), stated.get("c1"))
        if isinstance(coefficient, (int, float)) and math.isfinite(coefficient)
    ]
    if stated.get("cf") != 0 or len(line) < 2 or pixels.dtype.kind not in "ui":
        return pixels
    offset, slope = line
    if offset == int(offset) and slope == int(slope) and max(abs(offset), abs(slope)) <= 1 << 15:
        return pixels.astype(np.int64 if pixels.itemsize > 2 or abs(slope) > 1 else np.int32) * int(slope) + int(offset)
    return pixels.astype(np.float32) * np.float32(slope) + np.float32(offset)


def _without_extra(pixels: Array, page: Any, colours: int) -> Array:
    """(z, y, x, samples) -> without alpha: (z, y, x), or (z, y, x, 3) for three colours."""
    extra = pixels.shape[-1] - colours
    kinds = [int(kind) for kind in page.extrasamples] if extra > 0 else []
    alike = extra > 0 and not kinds and (pixels[..., 1:] == pixels[..., :1]).all()
    if extra < 0 or (extra > 0 and not alike and (extra > 1 or kinds not in ([ASSOCIATED_ALPHA], [ALPHA]))):
        raise ImageError(f"it holds {pixels.shape[-1]} values a pixel; save one file a channel")
    if kinds == [ASSOCIATED_ALPHA] and (pixels[..., -1] != _top(page.bitspersample)).any():
        raise ImageError("its values are multiplied by its transparency; save it without transparency")
    return pixels[..., 0] if colours == 1 else pixels[..., :colours]


def _inverted(shades: Array, bits: int, as_mask: bool) -> Array:
    """Convert min-is-white to min-is-black, (z, y, x)."""
    if shades.dtype.kind not in "bu" or bits > MOST_INVERTED_BITS:
        message = "which have no largest" if shades.dtype.kind not in "bu" else "whose largest no image reaches"
        raise ImageError(f"it is min-is-white with {shades.dtype} values, {message}; save it min-is-black")
    if as_mask and bits == 1:
        message = "it is a mask of 1 bit that is min-is-white: whether 0 or 1 is the class cannot be told"
        raise ImageError(f"{message}; save it min-is-black, with 8 bits")
    return (_top(bits) - shades).astype(shades.dtype)


def _top(bits: int) -> int:
    """Return the largest value of an unsigned sample."""
    return (1 << bits) - 1


def _orientation(page: Any) -> int:
    tag = page.tags.get(ORIENTATION_TAG)
    return valid_orientation(None if tag is None else int(tag.value))
