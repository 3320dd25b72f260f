"""NIfTI-1 and NIfTI-2, plain or gzipped.

The gzip stream is read to its end, so that its CRC is checked: nibabel alone does not, and takes damaged voxels.
"""

from pathlib import Path
from typing import Any

import numpy as np
from isal import igzip

from mdkd_auto.data.orientation import (
    Affine,
    Array,
    Header,
    Image,
    canonical_spacing,
    check_mask,
    closest_orientation,
    from_canonical,
    spatial_shape,
    to_canonical,
)
from mdkd_auto.errors import ImageError

GZIP_MAGIC = b"\x1f\x8b"
GZIP_LEVEL = 2  # of isal: as small as zlib's default at a fraction of its time
HEADER_BYTES = {348: 1, 540: 2}  # size of a header -> NIfTI version
FIRST_VOXEL = {1: 352, 2: 544}  # after the header and four bytes that say "no extensions"
MM_PER_UNIT = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}


def read_nifti(path: Path, ending: str) -> Image:
    """Read a NIfTI file. Raises ImageError without the file's name; :func:`images.read_image` adds it."""
    content = path.read_bytes()
    if content.startswith(GZIP_MAGIC):
        content = igzip.decompress(content)  # raises on a truncated stream or a wrong CRC
    header = _parse_header(content)
    shape = spatial_shape(tuple(int(size) for size in header.get_data_shape()))
    voxels = _voxels(content, header, shape)
    if voxels.ndim == 2:
        voxels = voxels[:, :, None]
    affine = _affine_mm(header, voxels.shape)
    orientation = closest_orientation(affine)
    array = to_canonical(voxels, orientation)
    z, y, x = array.shape
    return Image(
        array=array,
        spacing_mm=canonical_spacing(affine, orientation),
        spacing_known=True,
        header=Header(
            ending=ending,
            shape=(z, y, x),
            dimensions=len(shape),
            orientation=orientation,
            affine=affine,
            nifti=header.binaryblock,
        ),
    )


def nifti_bytes(mask: Array, header: Header, compress: bool) -> bytes:
    """A mask (z, y, x, canonical) as a NIfTI file in the geometry of ``header``."""
    labels = from_canonical(check_mask(mask, header.shape), header.orientation)
    if header.dimensions == 2:
        labels = labels[:, :, 0]
    new = _header_from(header.nifti)
    version = HEADER_BYTES[len(header.nifti)]
    pixdim = new["pixdim"].copy()
    new.set_data_shape(labels.shape)
    new["pixdim"] = pixdim
    new.set_data_dtype(labels.dtype)
    new["vox_offset"] = FIRST_VOXEL[version]
    for field in ("scl_slope", "scl_inter", "cal_min", "cal_max", "intent_code", "intent_p1", "intent_p2", "intent_p3"):
        new[field] = 0
    new["scl_slope"] = 1
    new["intent_name"] = b""
    stored = labels.astype(labels.dtype.newbyteorder(new.endianness))
    content = bytes(new.binaryblock) + bytes(4) + stored.tobytes(order="F")
    return igzip.compress(content, compresslevel=GZIP_LEVEL) if compress else content


def _parse_header(content: bytes) -> Any:
    if len(content) < min(HEADER_BYTES):
        raise ImageError(f"it holds {len(content)} bytes, too few for a NIfTI header; copy or export it anew")
    size = next((n for n in HEADER_BYTES if n in {_integer(content, "little"), _integer(content, "big")}), None)
    if size is None:
        raise ImageError("it does not begin like a NIfTI file; is it another format with this ending?")
    header = _header_from(content[:size])
    if bytes(header["magic"].item())[:2] != b"n+":
        raise ImageError("its header is of the two-file form (.hdr and .img); convert it to one .nii.gz file")
    return header


def _integer(content: bytes, order: Any) -> int:
    return int.from_bytes(content[:4], order)


def _header_from(block: bytes) -> Any:
    """nibabel's header. Raises ImageError for voxel sizes of 0, which nibabel takes for 1 mm."""
    import nibabel

    kind = nibabel.Nifti1Header if HEADER_BYTES[len(block)] == 1 else nibabel.Nifti2Header
    as_stored = kind(block, check=False)
    sizes = zip(as_stored["dim"][1:4], as_stored["pixdim"][1:4], strict=True)
    if int(as_stored["sform_code"]) == 0 and any(size > 1 and pixdim == 0 for size, pixdim in sizes):
        raise ImageError("its voxel sizes (pixdim) are 0; export it anew with its spacing")
    return kind(block)


def _voxels(content: bytes, header: Any, shape: tuple[int, ...]) -> Array:
    """Voxels in file axes: the file's integers, or float32 for floats and for integers with a scale."""
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise ImageError(f"it holds {dtype} voxels (colour or complex); export plain grey values, one file a channel")
    first = int(header["vox_offset"]) or FIRST_VOXEL[HEADER_BYTES[len(header.binaryblock)]]
    count = int(np.prod(shape, dtype=object))
    needed = first + count * dtype.itemsize
    if len(content) < needed:
        raise ImageError(f"it is truncated: {len(content)} bytes where its header promises {needed}; copy it anew")
    stored = np.frombuffer(content, dtype, count, first).reshape(shape, order="F")
    slope, intercept = header.get_slope_inter()
    scaled = slope is not None and (slope, intercept or 0.0) != (1.0, 0.0)
    if scaled:
        return (stored.astype(np.float64) * slope + (intercept or 0.0)).astype(np.float32)
    return stored.astype(np.float32 if dtype.kind == "f" else dtype.newbyteorder("="))


def _affine_mm(header: Any, shape: tuple[int, ...]) -> Affine:
    """The header's affine in mm. A slice without thickness gets one of 1 mm."""
    affine: Affine = np.array(header.get_best_affine(), dtype=np.float64)
    affine[:3] *= MM_PER_UNIT.get(header.get_xyzt_units()[0], 1.0)
    if shape[2] == 1 and not affine[:3, 2].any():
        normal = np.cross(affine[:3, 0], affine[:3, 1])
        affine[:3, 2] = normal / max(float(np.linalg.norm(normal)), 1e-12)
    return affine
