"""NIfTI-1 and NIfTI-2, plain or gzipped.

The gzip stream is read to its end to verify its CRC: nibabel does not, and accepts damaged voxels.
Nothing is allocated beyond what the file can fill: neither header nor stream is trusted.
"""

import math
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from isal import igzip

from mdkd_auto.core.errors import ImageError
from mdkd_auto.core.records import SpacingFrom
from mdkd_auto.formats.image import (
    Array,
    Header,
    Image,
    canonical_spacing,
    check_mask,
    closest_orientation,
    from_canonical,
    shear_remarks,
    spatial_shape,
    to_canonical,
)
from mdkd_auto.formats.nifti_space import affine_mm, form_remarks, repair_pixdim
from mdkd_auto.formats.size_guard import DAMAGED, MOST_EXPANSION, Rest, check_promise

GZIP_MAGIC = b"\x1f\x8b"
GZIP_LEVEL = 2  # isal level: as small as zlib's default in a fraction of the time
MOST_READ_ON = 1 << 30  # most bytes read from a gzip stream after the voxels
PIECE_BYTES = 1 << 20
HEADER_BYTES = {348: 1, 540: 2}  # header size -> NIfTI version
DIM_0 = {1: (40, 2), 2: (16, 8)}  # first byte and size of dim[0]
MOST_AXES = 7
FIRST_VOXEL = {1: 352, 2: 544}  # after the header and four bytes for "no extensions"
PLACE_CODES = ("sform_code", "qform_code")

Stream = BinaryIO | igzip.IGzipFile


class _Stored(NamedTuple):
    """The contents of a file."""

    header: Any  # nibabel's
    voxels: Array  # in file axes, as stored
    bytes_used: int  # bytes of the file up to the last voxel

    @property
    def rest(self) -> Rest:
        """Limits for the bytes after the voxels."""
        return Rest(self.bytes_used, self.voxels.nbytes // self.voxels.shape[-1])


def read_nifti(path: Path, ending: str, spacing_from: SpacingFrom | None = None) -> Image:
    """Read a NIfTI file; ``spacing_from`` selects the source if its voxel sizes contradict each other.

    Raises ImageError without the file's name; :func:`images.read_image` adds it.
    """
    stored = _read(path)
    nifti_header, dimensions = stored.header, stored.voxels.ndim
    voxels = _grey_values(stored.voxels, nifti_header)
    if dimensions == 2:
        voxels = voxels[:, :, None]
    affine = affine_mm(nifti_header, voxels.shape, spacing_from)
    orientation = closest_orientation(affine)
    array = to_canonical(voxels, orientation)
    z, y, x = array.shape
    header = Header(
        ending=ending,
        shape=(z, y, x),
        dimensions=dimensions,
        orientation=orientation,
        affine=affine,
        nifti=nifti_header.binaryblock,
    )
    return Image(
        array=array,
        spacing_mm=canonical_spacing(affine, orientation),
        spacing_known=True,
        header=header,
        remarks=(*form_remarks(nifti_header, spacing_from), *shear_remarks(header)),
    )


def nifti_bytes(mask: Array, header: Header, compress: bool) -> bytes:
    """Encode a mask (z, y, x, canonical) as a NIfTI file in the geometry of ``header``."""
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
    if not compress:
        return content
    return igzip.compress(content, compresslevel=GZIP_LEVEL, mtime=0)  # no timestamp: equal masks give equal files


def _read(path: Path) -> _Stored:
    size = path.stat().st_size
    with open(path, "rb") as file:
        zipped = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        if zipped:
            return _read_zipped(file, size)
        stored = _parse(file, size)
        _read_on(file, stored.rest)
        return stored


def _read_zipped(file: BinaryIO, size: int) -> _Stored:
    damage = (EOFError, igzip.BadGzipFile, DAMAGED)
    try:
        with igzip.IGzipFile(fileobj=file, mode="rb") as stream:
            try:
                stored = _parse(stream, size * MOST_EXPANSION)
            except damage:
                raise
            except Exception:
                _read_on(stream)  # a damaged stream explains an invalid header
                raise
            _read_on(stream, stored.rest)
            return stored
    except EOFError:
        raise ImageError("cannot be read (truncated: its gzip stream breaks off); copy it anew", "truncated") from None
    except damage as error:
        message = f"cannot be read (its checksum is wrong: damaged gzip stream, {error}); copy it anew"
        raise ImageError(message, "checksum") from None


def _read_on(stream: Stream, rest: Rest | None = None) -> None:
    """Read the rest, at most ``MOST_READ_ON`` bytes: the end of a gzip stream verifies its checksum.

    Raises ImageError afterwards if ``rest`` is too long.
    """
    wrong: ImageError | None = None
    count = 0
    while count < MOST_READ_ON and (piece := stream.read(PIECE_BYTES)):
        count += len(piece)
        if rest is not None:
            try:
                rest.add(piece)
            except ImageError as error:
                wrong = error
    if wrong is not None:
        raise wrong


def _parse(stream: Stream, most: int) -> _Stored:
    """Read the header and the promised voxels from a stream of at most ``most`` bytes."""
    header = _parse_header(stream)
    shape = spatial_shape(tuple(int(size) for size in header.get_data_shape()))
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise ImageError(f"it holds {dtype} voxels (colour or complex); export plain grey values, one file a channel")
    offset = float(header["vox_offset"])
    if not math.isfinite(offset):
        raise ImageError(f"its header says that the voxels begin at byte {offset}; copy or export it anew")
    begin = int(offset) or FIRST_VOXEL[HEADER_BYTES[len(header.binaryblock)]]
    count = math.prod(shape)
    end = begin + count * dtype.itemsize
    check_promise(end, most)
    stream.read(begin - len(header.binaryblock))
    content = stream.read(count * dtype.itemsize)
    if len(content) < count * dtype.itemsize:
        available = len(content) + begin
        raise ImageError(
            f"it is truncated: {available} bytes where its header promises {end}; copy it anew", "truncated"
        )
    return _Stored(header, np.frombuffer(content, dtype).reshape(shape, order="F"), end)


def _parse_header(stream: Stream) -> Any:
    content = stream.read(min(HEADER_BYTES))
    if len(content) < min(HEADER_BYTES):
        raise _no_header(content)
    size = next((n for n in HEADER_BYTES if n in {_integer(content, "little"), _integer(content, "big")}), None)
    if size is None:
        raise ImageError("it does not begin like a NIfTI file; is it another format with this ending?")
    content += stream.read(size - len(content))
    if len(content) < size:
        raise _no_header(content)
    header = _header_from(content)
    if bytes(header["magic"].item())[:2] != b"n+":
        raise ImageError("its header is of the two-file form (.hdr and .img); convert it to one .nii.gz file")
    return header


def _no_header(content: bytes) -> ImageError:
    message = f"it is truncated: it holds {len(content)} bytes, too few for a NIfTI header; copy or export it anew"
    return ImageError(message, "truncated")


def _integer(content: bytes, order: Any) -> int:
    return int.from_bytes(content[:4], order)


def _header_from(block: bytes) -> Any:
    """Return nibabel's header. Raises ImageError if nibabel would substitute a position or size."""
    import nibabel

    axes = _axes(block)
    if not 1 <= axes <= MOST_AXES:
        raise ImageError(f"its header says that it has {axes} axes (dim[0]); expected 2 or 3. Export it anew")
    kind = nibabel.Nifti1Header if HEADER_BYTES[len(block)] == 1 else nibabel.Nifti2Header
    as_stored = kind(block, check=False)
    sizes = zip(as_stored["dim"][1:4], as_stored["pixdim"][1:4], strict=True)
    if int(as_stored["sform_code"]) == 0 and any(size > 1 and pixdim == 0 for size, pixdim in sizes):
        raise ImageError("its voxel sizes (pixdim) are 0; export it anew with its spacing")
    header = kind(block)
    for field in PLACE_CODES:
        if as_stored[field] != header[field]:
            raise ImageError(f"the {field} of its header is {as_stored[field]}, which means nothing; export it anew")
    repair_pixdim(header, as_stored)
    return header


def _axes(block: bytes) -> int:
    """Return dim[0] in the byte order of the header size: nibabel switches order if dim[0] is invalid."""
    order: Any = "little" if _integer(block, "little") in HEADER_BYTES else "big"
    first, size = DIM_0[HEADER_BYTES[len(block)]]
    return int.from_bytes(block[first : first + size], order, signed=True)


def _grey_values(stored: Array, header: Any) -> Array:
    """Return the file's integers, or float32 for floats and for scaled integers."""
    slope, intercept = header.get_slope_inter()
    with np.errstate(over="ignore", invalid="ignore"):  # callers reject infinite voxels
        if slope is not None and (slope, intercept or 0.0) != (1.0, 0.0):
            return (stored.astype(np.float64) * slope + (intercept or 0.0)).astype(np.float32)
        kind = np.float32 if stored.dtype.kind == "f" else stored.dtype.newbyteorder("=")
        return stored.astype(kind, copy=False)
