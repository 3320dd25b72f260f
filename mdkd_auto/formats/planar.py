"""PNG, JPEG, BMP and TIFF: pixels as displayed, upright (y down), without physical spacing.

A multi-page TIFF is a volume (page, y, x). The content decides how a file is read, not its ending.
"""

import io
from pathlib import Path

import numpy as np

from mdkd_auto.core.errors import ImageError
from mdkd_auto.core.files import refusal_of
from mdkd_auto.formats.exif import Frame
from mdkd_auto.formats.file_endings import JPEG_ENDINGS, TIFF_ENDINGS
from mdkd_auto.formats.image import Array, Header, Image, check_mask
from mdkd_auto.formats.pictures import BMP_START, JPEG_START, PNG_START, read_header, read_picture
from mdkd_auto.formats.tiff import read_tiff, tiff_frame

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PICTURE_STARTS = (PNG_START, JPEG_START, BMP_START)


def read_planar(path: Path, ending: str, colour_to_grey: bool = False, as_mask: bool = False) -> Image:
    """Read a 2-D image or a TIFF volume; a mask with a palette yields its indices.

    Raises ImageError without the file's name.
    """
    content = path.read_bytes()
    is_tiff = content.startswith(TIFF_STARTS) or (ending in TIFF_ENDINGS and not content.startswith(PICTURE_STARTS))
    read = read_tiff if is_tiff else read_picture
    pixels, exif = read(content, colour_to_grey, as_mask)
    array = _plain(pixels)
    z, y, x = array.shape
    header = Header(ending=ending, shape=(z, y, x), dimensions=2 if z == 1 else 3, exif=exif)
    return Image(array, (1.0, 1.0, 1.0), False, header)


def planar_frame(path: Path) -> Frame:
    """Read only the header of a PNG, JPEG, BMP or TIFF: size and orientation.

    Raises ImageError, without the file's name, if it is damaged or holds several images.
    """
    try:
        with open(path, "rb") as stream:
            start = stream.read(len(TIFF_STARTS[0]))
            stream.seek(0)
            if start in TIFF_STARTS:
                frame, pictures = tiff_frame(stream)
            else:
                stored = read_header(stream)
                frame, pictures = stored.frame, stored.pictures
    except ImageError:
        raise
    except Exception as error:  # the libraries raise many types on damaged files
        if (why := refusal_of(path, error)) is not None:
            raise ImageError(why, "refused") from error
        raise ImageError(f"cannot be read ({error})") from None
    if pictures > 1:
        raise ImageError(f"holds {pictures} pictures", "not-2d")
    return frame


def write_planar(path: Path, ending: str, mask: Array, header: Header) -> None:
    """Write a mask (z, y, x), upright as the image was read, to PNG, BMP or TIFF."""
    from PIL import Image as Pillow

    labels = check_mask(mask, header.shape)
    if ending in TIFF_ENDINGS:
        import tifffile

        pages = labels if len(labels) > 1 else labels[0]
        tifffile.imwrite(path, pages, photometric="minisblack", compression="zlib")
        return
    if ending in JPEG_ENDINGS:
        raise ImageError("JPEG would change the labels; write a .png file")
    if len(labels) > 1:
        raise ImageError(f"{len(labels)} slices do not fit into a {ending} file; write a .tif file")
    if ending == ".bmp" and labels.dtype != np.uint8:
        raise ImageError("a BMP holds labels up to 255; write a .png file")
    stored = io.BytesIO()  # Pillow ignores a full disk when it writes a BMP
    Pillow.fromarray(labels[0]).save(stored, ending.removeprefix("."))
    path.write_bytes(stored.getvalue())


def _plain(pixels: Array) -> Array:
    """Copy (z, y, x) as integers or float32 in native byte order."""
    if pixels.dtype.kind == "b":
        pixels = pixels.astype(np.uint8)
    if pixels.dtype.kind not in "iuf":
        raise ImageError(f"it holds {pixels.dtype} pixels; convert it to 8 or 16-bit grey")
    if pixels.size == 0:
        raise ImageError(f"it has no pixels: sizes {pixels.shape}; copy or export it anew")
    wanted = np.dtype(np.float32) if pixels.dtype.kind == "f" else pixels.dtype.newbyteorder("=")
    return np.array(pixels, dtype=wanted, order="C", copy=True)
