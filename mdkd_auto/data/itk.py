"""NRRD, MHA and MHD through SimpleITK, after a check that the file is whole.

SimpleITK reads a truncated compressed file without a word and fills the rest with wrong voxels.
"""

import bz2
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from isal import igzip, isal_zlib

from mdkd_auto.data.bounds import DAMAGED, MOST_EXPANSION, check_promise, check_rest
from mdkd_auto.data.orientation import (
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
    spatial_shape,
    to_canonical,
)
from mdkd_auto.errors import ImageError

READERS = {".nrrd": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}  # else any of ITK's twenty
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
META_BYTES = {"CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "LONG": 4, "ULONG": 4,
              "LONG_LONG": 8, "ULONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}  # fmt: skip
NRRD_BYTES = {"char": 1, "uchar": 1, "int8": 1, "uint8": 1, "short": 2, "ushort": 2, "int16": 2, "uint16": 2,
              "int": 4, "uint": 4, "int32": 4, "uint32": 4, "float": 4, "double": 8, "longlong": 8,
              "ulonglong": 8, "int64": 8, "uint64": 8}  # fmt: skip
GZIP, BZIP2, UNCHECKED = ("gzip", "gz"), ("bzip2", "bz2"), "unchecked"
PIECE_BYTES = 1 << 20
META_DIMENSIONS = ("2", "3", "4")
LONGEST_FIELD = 900  # characters


class _Payload(NamedTuple):
    """The voxels as they lie in the file."""

    content: bytes
    encoding: str  # raw, gzip, zlib, bzip2, or one that is not checked
    voxel_bytes: int | None  # expected, decompressed; None where it cannot be told
    spacing_known: bool


def read_itk(path: Path, ending: str) -> Image:
    """Read an NRRD, MHA or MHD file. Raises ImageError without the file's name."""
    import SimpleITK as sitk

    payload = _nrrd_payload(path) if ending == ".nrrd" else _meta_payload(path)
    _check_whole(payload)
    image = sitk.ReadImage(str(path), imageIO=READERS[ending])
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise ImageError(f"it holds {image.GetNumberOfComponentsPerPixel()} values a voxel; save one file a channel")
    shape = spatial_shape(image.GetSize())
    stored = sitk.GetArrayFromImage(image).T.reshape(shape)
    if stored.dtype.kind not in "iuf":
        raise ImageError(f"it holds {stored.dtype} voxels; export plain grey values")
    voxels = stored.astype(np.float32) if stored.dtype.kind == "f" else stored
    geometry = _geometry(image, len(shape))
    affine, orientation = None, Orientation()
    if len(shape) == 2:
        array = to_canonical(voxels[:, :, None], orientation)
        spacing_mm = (1.0, geometry.spacing_mm[1], geometry.spacing_mm[0])
    else:
        affine = _affine(geometry)
        orientation = closest_orientation(affine)
        array = to_canonical(voxels, orientation)
        spacing_mm = canonical_spacing(affine, orientation)
    z, y, x = array.shape
    header = Header(ending, (z, y, x), len(shape), orientation, affine, itk=geometry)
    return Image(array, spacing_mm if payload.spacing_known else (1.0, 1.0, 1.0), payload.spacing_known, header)


def write_itk(path: Path, mask: Array, header: Header) -> None:
    """Write a mask (z, y, x, canonical), compressed, in the geometry of ``header``."""
    import SimpleITK as sitk

    if header.itk is None:
        raise ImageError("its image was not an NRRD, MHA or MHD file")
    labels = from_canonical(check_mask(mask, header.shape), header.orientation)  # (i, j, k)
    stored = labels.T if header.dimensions == 3 else labels[:, :, 0].T
    image = sitk.GetImageFromArray(np.ascontiguousarray(stored))
    image.SetSpacing(header.itk.spacing_mm)
    image.SetOrigin(header.itk.origin_mm)
    image.SetDirection(header.itk.direction)
    try:
        sitk.WriteImage(image, str(path), True)
    except RuntimeError as error:
        raise OSError(str(error).strip().splitlines()[-1]) from error


def _geometry(image: Any, dimensions: int) -> ItkGeometry:
    """The geometry of the first ``dimensions`` axes."""
    direction = np.array(image.GetDirection()).reshape(image.GetDimension(), -1)[:dimensions, :dimensions]
    spacing, origin = image.GetSpacing()[:dimensions], image.GetOrigin()[:dimensions]
    return ItkGeometry(tuple(spacing), tuple(origin), tuple(float(value) for value in direction.ravel()))


def _affine(geometry: ItkGeometry) -> Affine:
    affine = np.eye(4)
    affine[:3, :3] = np.array(geometry.direction).reshape(3, 3) * np.array(geometry.spacing_mm)
    affine[:3, 3] = geometry.origin_mm
    return LPS_TO_RAS @ affine


def _check_whole(payload: _Payload) -> None:
    """Raise ImageError unless the voxels decompress to their end, checksum included, and are as many as promised."""
    promised = payload.voxel_bytes
    most = len(payload.content) * MOST_EXPANSION if payload.content and payload.encoding not in BZIP2 else None
    if promised is not None:
        check_promise(promised, most)
    try:
        found = 0
        for piece in _pieces(payload):
            found += len(piece)
            if promised is not None:
                check_rest(found - promised, promised)
    except EOFError:
        raise ImageError("its compressed voxels break off (truncated); copy or export it anew", "truncated") from None
    except (OSError, DAMAGED) as error:
        raise ImageError(f"its checksum is wrong: damaged voxels ({error}); copy it anew", "checksum") from None
    checked = payload.encoding in ("raw", "zlib", *GZIP, *BZIP2)
    if checked and promised is not None and found < promised:
        words = f"it is truncated: {found} bytes of voxels where its header promises {promised}; copy it anew"
        raise ImageError(words, "truncated")


def _pieces(payload: _Payload) -> Iterator[bytes]:
    """The decompressed voxels, never all at once. Raises EOFError where they break off."""
    if payload.encoding in GZIP or payload.encoding in BZIP2:
        content = io.BytesIO(payload.content)
        unzip = igzip.IGzipFile(fileobj=content, mode="rb") if payload.encoding in GZIP else bz2.BZ2File(content)
        with unzip as stream:
            while piece := stream.read(PIECE_BYTES):
                yield piece
    elif payload.encoding == "zlib":
        inflate = isal_zlib.decompressobj()
        step = PIECE_BYTES // 16
        for start in range(0, len(payload.content), step):
            yield inflate.decompress(payload.content[start : start + step])
        if not inflate.eof:
            raise EOFError
    elif payload.encoding == "raw":
        yield payload.content


def _meta_payload(path: Path) -> _Payload:
    """Parse a MetaImage header (``Key = value`` lines, the last of which is ElementDataFile)."""
    content = path.read_bytes()
    fields: dict[str, str] = {}
    position = 0
    while "ElementDataFile" not in fields:
        end = content.find(b"\n", position)
        if end < 0:
            raise ImageError("its MetaImage header breaks off; copy or export it anew")
        key, _, value = content[position:end].decode("latin-1").partition("=")
        fields[key.strip()] = value.strip()
        position = end + 1
    if fields.get("NDims") not in META_DIMENSIONS:  # of others SimpleITK dies
        raise ImageError(f"its header has {fields.get('NDims', 'no')[:20]!r} dimensions (NDims); export it anew")
    data_file = fields["ElementDataFile"]
    if data_file.upper() == "LOCAL":
        voxels = content[position:]
    elif data_file.upper().startswith("LIST") or "%" in data_file:
        voxels = b""
    else:
        voxels = _read_beside(path, data_file)
    checked = voxels and fields.get("BinaryData", "True").lower() == "true"
    compressed = fields.get("CompressedData", "False").lower() == "true"
    encoding = UNCHECKED if not checked else ("zlib" if compressed else "raw")
    item = META_BYTES.get(fields.get("ElementType", "").removeprefix("MET_"))
    expected = _count(fields.get("DimSize", ""), item, int(fields.get("ElementNumberOfChannels", "1")))
    if data_file.upper() == "LOCAL" and not voxels:
        raise ImageError("it ends after its header; copy or export it anew")
    known = "ElementSpacing" in fields or "ElementSize" in fields
    return _Payload(voxels, encoding, expected, known)


def _nrrd_payload(path: Path) -> _Payload:
    """Parse an NRRD header (``field: value`` lines up to an empty one)."""
    content = path.read_bytes()
    if not content.startswith(b"NRRD"):
        raise ImageError("it does not begin like an NRRD file; is it another format with this ending?")
    ends = [(content.find(mark), len(mark)) for mark in (b"\n\n", b"\r\n\r\n")]
    found = sorted(end for end in ends if end[0] >= 0)
    head = content[: found[0][0]] if found else content
    lines = [line for line in head.decode("latin-1").splitlines()[1:] if not line.startswith("#")]
    if any(len(line) > LONGEST_FIELD and ":=" not in line for line in lines):  # of which SimpleITK dies
        raise ImageError("a line of its NRRD header is absurdly long; copy or export it anew")
    pairs = (line.partition(":") for line in lines)
    fields = {key.strip().lower(): value.strip() for key, _, value in pairs}
    data_file = fields.get("data file", fields.get("datafile", ""))
    if not found and not data_file:
        raise ImageError("its NRRD header breaks off; copy or export it anew")
    if not data_file:
        voxels = content[sum(found[0]) :]
    else:
        voxels = b"" if data_file.startswith("LIST") or "%" in data_file else _read_beside(path, data_file)
    skips = any(fields.get(name, "0") != "0" for name in ("line skip", "lineskip", "byte skip", "byteskip"))
    encoding = UNCHECKED if skips or (data_file and not voxels) else fields.get("encoding", "raw").lower()
    item = NRRD_BYTES.get(_short_type(fields.get("type", "")))
    known = "space directions" in fields or "spacings" in fields
    return _Payload(voxels, encoding, _count(fields.get("sizes", ""), item, 1), known)


def _short_type(name: str) -> str:
    """The shortest of NRRD's spellings: ``unsigned short int`` and ``uint16_t`` -> ``ushort``, ``uint16``."""
    words = name.lower().replace("unsigned ", "u").replace("signed ", "").removesuffix("_t")
    if words not in {"int", "uint"}:
        words = words.removesuffix(" int")
    return words.replace(" ", "")


def _read_beside(path: Path, name: str) -> bytes:
    voxels = path.parent / name
    if not voxels.is_file():
        raise ImageError(f"its voxel file {name} is not beside it; copy both files together")
    return voxels.read_bytes()


def _count(sizes: str, item_bytes: int | None, channels: int) -> int | None:
    numbers = sizes.split()
    if item_bytes is None or not numbers or not all(number.isdigit() for number in numbers):
        return None
    return int(np.prod([int(number) for number in numbers], dtype=object)) * item_bytes * channels
