"""PNG, JPEG and BMP: one image as displayed; for a mask, palette indices and raw samples.

Gamma, colour profiles, significant bits and transparency do not change values.
"""

import io
import math
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from mdkd_auto.core.errors import ImageError
from mdkd_auto.formats.colour import STEPS, class_indices, grey_of_channels
from mdkd_auto.formats.exif import Frame, orientation_of_exif
from mdkd_auto.formats.file_endings import PILLOW_FORMATS
from mdkd_auto.formats.image import Array, to_upright
from mdkd_auto.formats.size_guard import MOST_EXPANSION, check_promise

GREY_MODES = {
    "L": np.uint8,
    "I;16": np.uint16,
    "I;16B": np.uint16,
    "I;16L": np.uint16,
    "I": np.int32,
    "F": np.float32,
}  # Pillow's mode -> voxels
PNG_START, JPEG_START, BMP_START = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"BM"
PNG_GREY_ALPHA = 4  # colour type
PNG_SAMPLES = {2: 3, PNG_GREY_ALPHA: 2, 6: 4}  # colour types with several samples per pixel -> number of samples
JPEG_LOSSLESS, JPEG_SCAN, JPEG_END = 0xC3, 0xDA, b"\xff\xd9"
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers that hold size and precision
JPEG_APP1, EXIF_PREFIX = 0xE1, b"Exif\0\0"
BMP_CORE_HEADER = 12  # bytes, in OS/2 files
TRUNCATED = "it is truncated; copy or export it anew"
NOT_A_PICTURE = "cannot be read (it is no PNG, JPEG, BMP or TIFF); copy or export it anew"


class Stored(NamedTuple):
    """Header contents: size and orientation, bits per sample, the format's pixel kind, number of images."""

    frame: Frame
    bits: int
    kind: int  # PNG: colour type; JPEG: frame marker; BMP: compression
    pictures: int = 1


def read_picture(content: bytes, colour_to_grey: bool, as_mask: bool) -> tuple[Array, int]:
    """Return (1, y, x), upright, and the stored orientation. Raises ImageError without the file's name."""
    stored = read_header(io.BytesIO(content))
    if stored.pictures > 1:
        raise ImageError("it holds several pictures; save one of them")
    if content.startswith(PNG_START) and stored.bits == 16 and stored.kind in PNG_SAMPLES:
        pixels = _deep_png(content, stored, colour_to_grey, as_mask)
    elif content.startswith(JPEG_START) and (stored.bits != 8 or stored.kind == JPEG_LOSSLESS):
        pixels = _deep_jpeg(content, stored, colour_to_grey)
    else:
        pixels = _with_pillow(content, stored, colour_to_grey, as_mask)
    return to_upright(pixels, stored.frame.orientation)[None], stored.frame.orientation


# --- headers --------------------------------------------------------------------------------------------------------


def read_header(stream: BinaryIO) -> Stored:
    """Read only the header of a PNG, JPEG or BMP. Raises ImageError for anything else."""
    start = stream.read(len(PNG_START))
    stream.seek(0)
    try:
        if start.startswith(PNG_START):
            return _png_header(stream)
        if start.startswith(JPEG_START):
            return _jpeg_header(stream)
        if start.startswith(BMP_START):
            return _bmp_header(stream)
    except struct.error:
        raise ImageError(TRUNCATED, "truncated") from None
    raise ImageError(NOT_A_PICTURE)


def _png_header(stream: BinaryIO) -> Stored:
    """Read PNG chunks in any order after the first; eXIf may follow the pixels."""
    stream.seek(len(PNG_START))
    width = height = bits = kind = 0
    exif, pictures = b"", 1
    while len(start := stream.read(8)) == 8:
        length, name = struct.unpack(">I4s", start)
        after = stream.tell() + length + 4  # the checksum
        if name == b"IHDR":
            width, height, bits, kind = struct.unpack(">IIBB", stream.read(10))
        elif name == b"eXIf":
            exif = exif or stream.read(length)
        elif name == b"acTL":
            pictures = struct.unpack(">I", stream.read(4))[0]
        elif name == b"IEND":
            break
        stream.seek(after)
    if not width:
        raise ImageError(TRUNCATED, "truncated")
    return Stored(Frame((width, height), orientation_of_exif(exif)), bits, kind, pictures)


def _jpeg_header(stream: BinaryIO) -> Stored:
    """Read the segments up to the first scan."""
    width = height = bits = kind = 0
    exif = b""
    for marker, body in _jpeg_segments(stream):
        if marker in JPEG_FRAMES and not kind:
            bits, height, width = struct.unpack_from(">BHH", body)
            kind = marker
        elif marker == JPEG_APP1 and body.startswith(EXIF_PREFIX):
            exif = exif or body
    if not kind:
        raise ImageError(TRUNCATED, "truncated")
    return Stored(Frame((width, height), orientation_of_exif(exif)), bits, kind)


def _jpeg_segments(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    stream.seek(len(JPEG_START))
    while True:
        marker = stream.read(1)
        if marker != b"\xff":
            raise ImageError(TRUNCATED if not marker else "its JPEG segments are damaged; copy or export it anew")
        while marker == b"\xff":  # fill bytes may repeat
            marker = stream.read(1)
        if marker in {b"", bytes([JPEG_SCAN])}:
            return
        length = struct.unpack(">H", stream.read(2))[0]
        yield marker[0], stream.read(max(0, length - 2))


def _bmp_header(stream: BinaryIO) -> Stored:
    start = stream.read(34)
    if struct.unpack_from("<I", start, 14)[0] == BMP_CORE_HEADER:
        width, height, _, bits = struct.unpack_from("<4H", start, 18)
        return Stored(Frame((width, height)), bits, 0)
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", start, 18)
    return Stored(Frame((width, abs(height))), bits, compression)  # negative height: top row first


# --- pixels ---------------------------------------------------------------------------------------------------------


def _with_pillow(content: bytes, stored: Stored, colour_to_grey: bool, as_mask: bool) -> Array:
    """Decode (y, x) with up to 8 bits per sample, or 16-bit grey."""
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        opened = Pillow.open(io.BytesIO(content), formats=PILLOW_FORMATS)
    except UnidentifiedImageError:
        raise ImageError(NOT_A_PICTURE) from None
    if content.startswith(PNG_START):
        _check_png(content)
    with opened:
        if content.startswith(BMP_START) and opened.mode == "L" and stored.bits < 8 and not stored.kind:
            return _packed_bmp(content)
        few = opened.mode in {"1", "L"} and stored.bits in STEPS
        if few and as_mask:
            return np.asarray(opened) if opened.mode == "1" else np.asarray(opened) // np.uint8(STEPS[stored.bits])
        if opened.mode == "P":
            return _of_palette(opened, colour_to_grey, as_mask)
        return _grey(opened, colour_to_grey, as_mask)


def _of_palette(image: Any, colour_to_grey: bool, as_mask: bool) -> Array:
    """Return (y, x): indices for a mask, colours for an image. Palette transparency changes neither."""
    indices, palette = np.asarray(image), np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
    if as_mask:
        return class_indices(indices, palette)
    if indices.max(initial=0) >= len(palette):
        raise ImageError(f"it names colour {indices.max()} of a palette of {len(palette)}; copy or export it anew")
    return grey_of_channels(palette[indices], colour_to_grey)


def _check_png(content: bytes) -> None:
    """Verify every chunk's checksum, which decoding skips."""
    from PIL import Image as Pillow

    try:
        with Pillow.open(io.BytesIO(content), formats=PILLOW_FORMATS) as checked:
            checked.verify()
    except SyntaxError as error:
        kind = "checksum" if "checksum" in str(error) else "unreadable"
        raise ImageError(f"cannot be read ({error}); copy or export it anew", kind) from None


def _grey(image: Any, colour_to_grey: bool, as_mask: bool) -> Array:
    """Convert one Pillow image to (y, x). Raises ImageError for true colour if ``colour_to_grey`` is not set."""
    if image.mode == "1":
        image = image.convert("L")
    if image.mode == "PA":
        image = image.convert("RGB")
    if image.mode in {"LA", "La"}:
        return np.asarray(image)[..., 0]
    if image.mode in {"RGB", "RGBA", "RGBX"}:
        return grey_of_channels(np.asarray(image)[..., :3], colour_to_grey, as_mask)
    if image.mode == "CMYK":
        raise ImageError("it holds printing colours (CMYK), whose grey depends on the ink; convert it to 8-bit grey")
    if image.mode not in GREY_MODES:
        raise ImageError(f"its pixels are of the kind {image.mode}; convert it to 8 or 16-bit grey")
    return np.asarray(image).astype(GREY_MODES[image.mode])


def _packed_bmp(content: bytes) -> Array:
    """Decode a BMP of 1 or 4 bits with a palette of greys 0, 1, 2, ...: Pillow misreads its packed values."""
    import imagecodecs

    return imagecodecs.bmp_decode(content)


def _deep_png(content: bytes, stored: Stored, colour_to_grey: bool, as_mask: bool) -> Array:
    """Decode 16 bits per sample with several samples per pixel: Pillow keeps only the upper 8 bits."""
    import imagecodecs

    _check_png(content)
    width, height = stored.frame.stored
    check_promise(2 * width * height * PNG_SAMPLES[stored.kind], MOST_EXPANSION * len(content))
    pixels = imagecodecs.png_decode(content)  # (y, x, samples), transparency last
    if stored.kind == PNG_GREY_ALPHA:
        return pixels[..., 0]
    return grey_of_channels(pixels[..., :3], colour_to_grey, as_mask)


def _deep_jpeg(content: bytes, stored: Stored, colour_to_grey: bool) -> Array:
    """Decode a 12-bit or lossless JPEG. Raises ImageError for a kind the decoder does not support."""
    import imagecodecs

    if not content.rstrip(b"\0").endswith(JPEG_END):
        raise ImageError(TRUNCATED, "truncated")
    check_promise(2 * math.prod(stored.frame.stored))
    try:
        pixels = imagecodecs.jpeg8_decode(content)
    except Exception as error:  # the codec raises several types
        kind = "lossless " if stored.kind == JPEG_LOSSLESS else ""
        raise ImageError(f"it is a {kind}JPEG of {stored.bits} bits ({error}); save it as PNG or TIFF") from None
    return pixels if pixels.ndim == 2 else grey_of_channels(pixels[..., :3], colour_to_grey)
