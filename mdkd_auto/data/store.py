"""Preprocessed cases on disk: {case}.b2nd (image), {case}_seg.b2nd (label), {case}.json, in blosc2 chunks."""

from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from mdkd_auto.errors import MdkdError
from mdkd_auto.files import read_record, write_atomically, write_json
from mdkd_auto.records import PreprocessedCase

CHUNK_FLAT = 256  # voxels a side of a chunk of slices read one by one
CHUNK_VOLUME = 64  # voxels a side of a chunk of a volume: 1 MiB of float32
BLOCKS_A_SIDE = 2  # a chunk is compressed in 2 x 2 (x 2) blocks: a patch decompresses little it does not need
COMPRESSION = {"codec": blosc2.Codec.ZSTD, "clevel": 3, "nthreads": 1}


def image_path(folder: Path, case_id: str) -> Path:
    return folder / f"{case_id}.b2nd"


def label_path(folder: Path, case_id: str) -> Path:
    return folder / f"{case_id}_seg.b2nd"


def record_path(folder: Path, case_id: str) -> Path:
    return folder / f"{case_id}.json"


def save_case(
    folder: Path, record: PreprocessedCase, image: NDArray[np.float32], label: NDArray[Any] | None, flat: bool
) -> None:
    """Write image (1, z, y, x) and label (z, y, x), then the record: where it stands, the case is whole.

    ``flat``: patches are slices, so a chunk is one slice deep.
    """
    case_id = record.case_id
    record_path(folder, case_id).unlink(missing_ok=True)  # it must not vouch for arrays about to be replaced
    _write(image_path(folder, case_id), image, flat)
    if label is not None:
        _write(label_path(folder, case_id), label, flat)
    else:
        label_path(folder, case_id).unlink(missing_ok=True)
    write_json(record_path(folder, case_id), record)


def open_image(folder: Path, case_id: str) -> blosc2.NDArray:
    """The stored image (1, z, y, x); index it to read a patch. Raises MdkdError."""
    return _open(image_path(folder, case_id))


def open_label(folder: Path, case_id: str) -> blosc2.NDArray:
    """The stored label (z, y, x); index it to read a patch. Raises MdkdError."""
    return _open(label_path(folder, case_id))


def read_case_record(folder: Path, case_id: str) -> PreprocessedCase:
    """The record beside a stored case. Raises MdkdError."""
    return read_record(record_path(folder, case_id), PreprocessedCase)


def compact_label(label: NDArray[Any]) -> NDArray[Any]:
    """int8 where the values allow it, else int16."""
    small = label.size == 0 or (label.min() >= -128 and label.max() <= 127)
    return label.astype(np.int8 if small else np.int16)


def _write(path: Path, array: NDArray[Any], flat: bool) -> None:
    side = (1, CHUNK_FLAT, CHUNK_FLAT) if flat else (CHUNK_VOLUME,) * 3
    leading = (1,) * (array.ndim - 3)
    chunks = leading + tuple(min(size, edge) for size, edge in zip(array.shape[-3:], side, strict=True))
    blocks = leading + tuple(-(-edge // BLOCKS_A_SIDE) for edge in chunks[-3:])
    contiguous = np.ascontiguousarray(array)
    write_atomically(
        path,
        lambda temporary: blosc2.asarray(
            contiguous, urlpath=str(temporary), mode="w", chunks=chunks, blocks=blocks, cparams=COMPRESSION
        ),
    )


def _open(path: Path) -> blosc2.NDArray:
    if not path.is_file():
        raise MdkdError(f"{path}: the file does not exist; preprocess the data set first")
    return blosc2.open(urlpath=str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})
