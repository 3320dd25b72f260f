"""Read NRRD, MHA and MHD with SimpleITK, after checking that the file is complete.

SimpleITK reads a truncated compressed file without an error and fills the rest with wrong voxels.
"""

import bz2
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip, isal_zlib

from mdkd_auto.core.errors import ImageError
from mdkd_auto.formats.image import (
    Affine,
    Array,
    Header,
    Image,
    ItkGeometry,
    Orientation,
    canonical_spacing,
    check_mask,
    closest_orientation,
    from_canonical,
    shear_remarks,
    spatial_shape,
    to_canonical,
)
from mdkd_auto.formats.itk_header import ItkHeader, mm_per_unit, read_header, with_unit
from mdkd_auto.formats.size_guard import DAMAGED, MOST_EXPANSION, Rest, check_promise

READERS = {
    ".nrrd": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}  # otherwise ITK tries all twenty readers
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
GZIP, BZIP2 = ("gzip", "gz"), ("bzip2", "bz2")
NO_REASON = "Reason: Success"  # ITK's message for an unreadable MetaImage
PIECE_BYTES = 1 << 20
MOST_SCALE = 0.01  # tolerated deviation of a direction's length from 1


def read_itk(path: Path, ending: str) -> Image:
    """Read an NRRD, MHA or MHD file. Raises ImageError without the file's name."""
    import SimpleITK as sitk

    itk_header = read_header(path, ending)
    _check_whole(itk_header)
    try:
        image = sitk.ReadImage(str(path), imageIO=READERS[ending])
    except RuntimeError as error:
        if NO_REASON not in str(error):
            raise
        raise ImageError("its voxels are not as its header describes them; copy or export it anew") from error
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise ImageError(f"it holds {image.GetNumberOfComponentsPerPixel()} values a voxel; save one file a channel")
    shape = spatial_shape(image.GetSize())
    stored = sitk.GetArrayFromImage(image).T.reshape(shape)
    if stored.dtype.kind not in "iuf":
        raise ImageError(f"it holds {stored.dtype} voxels; export plain grey values")
    voxels = stored.astype(np.float32) if stored.dtype.kind == "f" else stored
    geometry = _geometry(image, len(shape), itk_header)
    mm = mm_per_unit(geometry.unit)
    affine, orientation = None, Orientation()
    if len(shape) == 2:
        array = to_canonical(voxels[:, :, None], orientation)
        spacing_mm = (1.0, mm * geometry.spacing[1], mm * geometry.spacing[0])
    else:
        affine = _affine_mm(geometry, mm)
        orientation = closest_orientation(affine)
        array = to_canonical(voxels, orientation)
        spacing_mm = canonical_spacing(affine, orientation)
    z, y, x = array.shape
    header = Header(ending, (z, y, x), len(shape), orientation, affine, itk=geometry, segments=itk_header.segments)
    known = itk_header.spacing_known
    return Image(array, spacing_mm if known else (1.0, 1.0, 1.0), known, header, shear_remarks(header))


def write_itk(path: Path, mask: Array, header: Header) -> None:
    """Write a mask (z, y, x, canonical), compressed, in the geometry of ``header``."""
    import SimpleITK as sitk

    if header.itk is None:
        raise ImageError("its image was not an NRRD, MHA or MHD file")
    labels = from_canonical(check_mask(mask, header.shape), header.orientation)  # (i, j, k)
    stored = labels.T if header.dimensions == 3 else labels[:, :, 0].T
    image = sitk.GetImageFromArray(np.ascontiguousarray(stored))
    image.SetSpacing(header.itk.spacing)
    image.SetOrigin(header.itk.origin)
    image.SetDirection(header.itk.direction)
    try:
        sitk.WriteImage(image, str(path), True)
    except RuntimeError as error:
        raise OSError(str(error).strip().splitlines()[-1]) from error
    if header.itk.unit:
        path.write_bytes(with_unit(path.read_bytes(), path.suffix.lower(), header.itk.unit, header.dimensions))


def _geometry(image: Any, dimensions: int, header: ItkHeader) -> ItkGeometry:
    """Return the geometry of the first ``dimensions`` axes, in the file's unit, or in mm if units differ."""
    direction = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)[:dimensions, :dimensions]
    spacing, origin = image.GetSpacing()[:dimensions], image.GetOrigin()[:dimensions]
    lengths = np.linalg.norm(direction, axis=0)
    if np.abs(lengths - 1).max() > MOST_SCALE:
        given, scales = (" x ".join(f"{value:.4g}" for value in values) for values in (spacing, lengths))
        message = f"its voxel sizes contradict each other: spacing {given}, but its directions are {scales} long"
        raise ImageError(f"{message}, not 1; correct its header", "spacing-contradicts")
    units = (*(header.axis_units or header.world_units), *[""] * dimensions)[
        :dimensions
    ]  # a header gives one of the two
    factors = np.array([mm_per_unit(unit) for unit in units])
    unit = units[0] if len(set(factors)) == 1 and factors[0] != 1 else ""
    if len(set(factors)) > 1:
        steps = direction * np.array(spacing)
        steps = steps * factors if header.axis_units else steps * factors[:, None]
        spacing, origin = tuple(np.linalg.norm(steps, axis=0)), tuple(np.array(origin) * factors)
        direction = steps / np.array(spacing)
    return ItkGeometry(tuple(spacing), tuple(origin), tuple(float(value) for value in direction.ravel()), unit)


def _affine_mm(geometry: ItkGeometry, mm_per_unit: float) -> Affine:
    affine = np.eye(4)
    affine[:3, :3] = np.array(geometry.direction).reshape(3, 3) * np.array(geometry.spacing)
    affine[:3, 3] = geometry.origin
    affine[:3] *= mm_per_unit
    return LPS_TO_RAS @ affine


def _check_whole(header: ItkHeader) -> None:
    """Raise ImageError unless the voxels decompress completely, checksum included, to the promised size."""
    promised = header.voxel_bytes
    most = len(header.content) * MOST_EXPANSION if header.content and header.encoding not in BZIP2 else None
    if promised is not None:
        check_promise(promised, most)
    rest = Rest(promised or 0, header.slice_bytes)
    try:
        received = 0
        for piece in _pieces(header):
            received += len(piece)
            if promised is not None and received > promised:
                rest.add(piece[-min(len(piece), received - promised) :])
    except EOFError:
        raise ImageError("its compressed voxels break off (truncated); copy or export it anew", "truncated") from None
    except (OSError, DAMAGED) as error:
        raise ImageError(f"its checksum is wrong: damaged voxels ({error}); copy it anew", "checksum") from None
    checked = header.encoding in ("raw", "zlib", *GZIP, *BZIP2)
    if checked and promised is not None and received < promised:
        message = f"it is truncated: {received} bytes of voxels where its header promises {promised}; copy it anew"
        raise ImageError(message, "truncated")


def _pieces(header: ItkHeader) -> Iterator[bytes]:
    """Yield the decompressed voxels in pieces. Raises EOFError if they are truncated."""
    if header.encoding in GZIP or header.encoding in BZIP2:
        content = io.BytesIO(header.content)
        unzip = igzip.IGzipFile(fileobj=content, mode="rb") if header.encoding in GZIP else bz2.BZ2File(content)
        with unzip as stream:
            while piece := stream.read(PIECE_BYTES):
                yield piece
    elif header.encoding == "zlib":
        inflate = isal_zlib.decompressobj()
        step = PIECE_BYTES // 16
        for start in range(0, len(header.content), step):
            yield inflate.decompress(header.content[start : start + step])
        if not inflate.eof:
            raise EOFError
    elif header.encoding == "raw":
        yield header.content
