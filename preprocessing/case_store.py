"""Preprocessed cases on disk: {case}.b2nd (image), {case}_seg.b2nd (label), {case}.json, in blosc2 chunks."""

from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.files import ReadError, raise_if_refused, read_record, write_bytes, write_json
from mdkd_auto.core.records import PreprocessedCase
from mdkd_auto.formats.blosc_frames import check_frame

# (chunk, block), voxels (z, y, x). Reading a voxel decompresses its block; a chunk holds several blocks.
FLAT = ((8, 256, 256), (1, 256, 256))  # for slices read one by one
VOLUME = ((64, 64, 64), (32, 32, 32))
COMPRESSION = {"codec": blosc2.Codec.ZSTD, "clevel": 1, "nthreads": 1}  # level 3: 1 % smaller, 2.4 times the work


def image_path(folder: Path, case_id: str) -> Path:
    return folder / f"{case_id}.b2nd"


def label_path(folder: Path, case_id: str) -> Path:
    return folder / f"{case_id}_seg.b2nd"


def record_path(folder: Path, case_id: str) -> Path:
    return folder / f"{case_id}.json"


def save_case(
    folder: Path, record: PreprocessedCase, image: NDArray[np.float32], label: NDArray[Any] | None, flat: bool
) -> None:
    """Write image (1, z, y, x) and label (z, y, x), then the record, which marks the case as complete.

    ``flat``: patches are slices, so a chunk is one slice deep.
    """
    case_id = record.case_id
    record_path(folder, case_id).unlink(missing_ok=True)  # a stale record would mark old arrays as valid
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
    try:
        return read_record(record_path(folder, case_id), PreprocessedCase)
    except ReadError:
        raise
    except MdkdError as error:
        raise MdkdError(f"{error}; delete it and run mdkd_plan_and_preprocess again") from None


def compact_label(label: NDArray[Any]) -> NDArray[Any]:
    """Convert to int8 if the values fit, else int16."""
    small = label.size == 0 or (label.min() >= -128 and label.max() <= 127)
    return label.astype(np.int8 if small else np.int16)


def _write(path: Path, array: NDArray[Any], flat: bool) -> None:
    leading = (1,) * (array.ndim - 3)
    chunks, blocks = (
        leading + tuple(min(size, edge) for size, edge in zip(array.shape[-3:], sides, strict=True))
        for sides in (FLAT if flat else VOLUME)
    )
    stored = blosc2.asarray(
        np.ascontiguousarray(array), chunks=chunks, blocks=blocks, cparams=COMPRESSION, contiguous=True
    )
    write_bytes(path, stored.to_cframe())  # blosc2's own file writing hides the reason of a failure


def _open(path: Path) -> blosc2.NDArray:
    if not path.is_file():
        raise MdkdError(f"{path}: the file does not exist; preprocess the data set first")
    try:
        check_frame(path)  # blosc2 evaluates the contents of some files when it opens them
        return blosc2.open(urlpath=str(path), mode="r", mmap_mode="r", dparams={"nthreads": 1})
    except (RuntimeError, OSError, ValueError) as error:
        raise_if_refused(path, error)
        raise MdkdError(f"{path}: damaged; delete it and run mdkd_plan_and_preprocess again") from None
