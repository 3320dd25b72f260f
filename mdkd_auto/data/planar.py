"""PNG, JPEG, BMP and TIFF: pixels as stored (y down), without orientation or physical spacing.

A TIFF of several pages is a volume (page, y, x).
"""

import io
from pathlib import Path
from typing import Any

import numpy as np

from mdkd_auto.data.bounds import MOST_EXPANSION, check_promise
from mdkd_auto.data.endings import JPEG_ENDINGS, PILLOW_FORMATS, TIFF_ENDINGS
from mdkd_auto.data.orientation import Array, Header, Image, check_mask
from mdkd_auto.errors import ImageError

GREY_MODES = {"1": np.uint8, "L": np.uint8, "I;16": np.uint16, "I;16B": np.uint16, "I;16L": np.uint16,
              "I": np.int32, "F": np.float32}  # fmt: skip  # Pillow's mode -> voxels
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green, blue: ITU-R BT.601
COLOUR = "it is in colour; convert it to grey, or save one file a channel (case_0000, case_0001, ...)"


def read_planar(path: Path, ending: str, colour_to_grey: bool = False) -> Image:
    """Read a 2-D image or a TIFF volume. Raises ImageError without the file's name."""
    content = path.read_bytes()
    if ending in TIFF_ENDINGS:
        array = _read_tiff(content, colour_to_grey)
    else:
        array = _read_pillow(content, ending, colour_to_grey)
    z, y, x = array.shape
    header = Header(ending=ending, shape=(z, y, x), dimensions=2 if z == 1 else 3)
    return Image(np.array(array, order="C", copy=True), (1.0, 1.0, 1.0), False, header)


def write_planar(path: Path, ending: str, mask: Array, header: Header) -> None:
    """Write a mask (z, y, x) to PNG, BMP or TIFF."""
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
    stored = io.BytesIO()  # Pillow, writing a BMP to a full disk, keeps silent about the missing half
    Pillow.fromarray(labels[0]).save(stored, ending.removeprefix("."))
    path.write_bytes(stored.getvalue())


def _read_pillow(content: bytes, ending: str, colour_to_grey: bool) -> Array:
    """(1, y, x)."""
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    try:
        opened = Pillow.open(io.BytesIO(content), formats=PILLOW_FORMATS)
    except UnidentifiedImageError:
        raise ImageError("cannot be read (there is no picture in it); copy or export it anew") from None
    if ending == ".png":
        with Pillow.open(io.BytesIO(content), formats=PILLOW_FORMATS) as checked:
            checked.verify()  # the checksum of every chunk, which reading skips
    with opened:
        if getattr(opened, "n_frames", 1) > 1:
            raise ImageError("it holds several pictures; save one of them")
        return _grey(opened, colour_to_grey)[None]


def _grey(image: Any, colour_to_grey: bool) -> Array:
    """(y, x) of one Pillow image. Raises ImageError for true colour that is not to become grey."""
    if image.mode in {"P", "PA"}:
        image = image.convert("RGB")
    if image.mode in {"LA", "La"}:
        return np.asarray(image)[..., 0]
    if image.mode in {"RGB", "RGBA", "RGBX"}:
        return _grey_of_channels(np.asarray(image)[..., :3], colour_to_grey)
    if image.mode not in GREY_MODES:
        raise ImageError(f"its pixels are of the kind {image.mode}; convert it to 8 or 16-bit grey")
    return np.asarray(image).astype(GREY_MODES[image.mode])


def _grey_of_channels(pixels: Array, colour_to_grey: bool) -> Array:
    """(..., 3) -> (...): the one channel where the three are equal, else their luminance."""
    if (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all():
        return pixels[..., 0]
    if not colour_to_grey:
        raise ImageError(COLOUR)
    luminance = pixels @ np.array(LUMINANCE, dtype=np.float32)
    return np.rint(luminance).astype(pixels.dtype) if pixels.dtype.kind in "iu" else luminance


def _read_tiff(content: bytes, colour_to_grey: bool) -> Array:
    """(page, y, x)."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(content), is_ome=False, is_mmstack=False) as file:
        page = file.pages.first
        if any(end > len(content) for end in _strip_ends(file)):
            raise ImageError("it is truncated; copy or export it anew", "truncated")
        if page.compression not in {1, 8, 32946}:  # none, deflate: what tifffile reads by itself
            return _read_tiff_frames(content, colour_to_grey)
        check_promise(sum(page.aspage().nbytes for page in file.pages), MOST_EXPANSION * len(content))
        if len(file.series) != 1:
            raise ImageError(f"its pages are of {len(file.series)} different sizes; save one file an image")
        pixels = file.series[0].asarray()
        if page.samplesperpixel > 1:
            if page.samplesperpixel not in {3, 4} or page.planarconfig != 1:
                raise ImageError(f"it holds {page.samplesperpixel} values a pixel; save one file a channel")
            pixels = _grey_of_channels(pixels[..., :3], colour_to_grey)
    return _as_volume(pixels)


def _strip_ends(file: Any) -> list[int]:
    """Where each strip or tile ends, in bytes."""
    pages = (page.aspage() for page in file.pages)
    return [sum(part) for page in pages for part in zip(page.dataoffsets, page.databytecounts, strict=True)]


def _read_tiff_frames(content: bytes, colour_to_grey: bool) -> Array:
    """LZW, JPEG and the like, which Pillow decodes."""
    from PIL import Image as Pillow
    from PIL import ImageSequence

    with Pillow.open(io.BytesIO(content), formats=PILLOW_FORMATS) as opened:
        return _as_volume(np.stack([_grey(frame, colour_to_grey) for frame in ImageSequence.Iterator(opened)]))


def _as_volume(pixels: Array) -> Array:
    if pixels.dtype.kind == "b":
        pixels = pixels.astype(np.uint8)
    if pixels.dtype.kind not in "iuf":
        raise ImageError(f"it holds {pixels.dtype} pixels; convert it to 8 or 16-bit grey")
    if pixels.dtype.kind == "f":
        pixels = pixels.astype(np.float32)
    if pixels.size == 0:
        raise ImageError(f"it has no pixels: sizes {pixels.shape}; copy or export it anew")
    sizes = tuple(size for size in pixels.shape[:-2] if size > 1)
    if len(sizes) > 1:
        raise ImageError(f"it has the axes {pixels.shape}; save one volume (z, y, x) a file")
    return pixels.reshape((sizes or (1,)) + pixels.shape[-2:]).astype(pixels.dtype.newbyteorder("="))
