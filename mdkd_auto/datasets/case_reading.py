"""Read and check a case's files: channels on one grid, finite voxels, declared label values."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdkd_auto.core.errors import ImageError
from mdkd_auto.core.file_hashes import HashOf
from mdkd_auto.core.files import content_hash, file_hash
from mdkd_auto.core.records import Case, Dataset, SpacingFrom, Triple
from mdkd_auto.datasets.dataset_json import likeness_of_name
from mdkd_auto.datasets.problems import Finding
from mdkd_auto.datasets.task_data import TASK_DATA
from mdkd_auto.formats.companion_files import hash_image, voxel_files
from mdkd_auto.formats.image import rectangularity
from mdkd_auto.formats.read_write import Image, axis_codes, compare_geometry, read_image, read_mask

Array = NDArray[Any]
LABEL_TYPE = np.int16
LABEL = -1  # in place of a channel index
COUNTING_RANGE = 1 << 16  # integers within this range are counted, not sorted
COPIES_WHILE_READING = 6  # file, decompressed, canonical, float32 (twice an int16), masks
USUAL_COMPRESSION = 4  # for formats that do not state their uncompressed size


class CaseArrays(NamedTuple):
    """Canonical (z, y, x) arrays of one case."""

    channels: tuple[Array, ...]
    spacing_mm: Triple | None  # from the file, else cases.csv or dataset.json, else None
    label: NDArray[np.int16] | None
    orientation: str  # directions of the file's axes, such as LPS; "" if unknown
    rectangularity: float = 1.0  # see orientation.rectangularity
    remarks: tuple[tuple[str, str, int], ...] = ()  # warnings: kind, details, channel (LABEL: the label)
    exif: tuple[int, ...] = ()  # orientation from which each channel's image was rotated upright


def read_case_arrays(case: Case, dataset: Dataset, channels: Sequence[int] | None = None) -> CaseArrays:
    """Read the given channels (all by default) and the label. Raises ImageError naming the file."""
    arrays, findings = inspect_case(case, dataset, channels)
    if arrays is None:
        first = findings[0]
        raise ImageError(f"{first.file}: {first.found}", first.kind)
    return arrays


def inspect_case(
    case: Case, dataset: Dataset, channels: Sequence[int] | None = None
) -> tuple[CaseArrays | None, list[Finding]]:
    """Read as :func:`read_case_arrays` does, but return all problems instead of raising; None if there is an error."""
    files = [Path(case.images[index]) for index in (range(len(case.images)) if channels is None else channels)]
    label_file = None if case.label is None else Path(case.label)
    findings: list[Finding] = []
    to_grey = not TASK_DATA[dataset.task].masks
    reader = partial(read_finite, colour_to_grey=to_grey, spacing_from=case.spacing_from)
    read = [(file, image) for file in files if (image := _read(reader, file, findings)) is not None]
    for file, image in read[1:]:
        findings += _off_grid(image, file, *read[0])
    label = None
    reader = partial(read_mask, spacing_from=case.spacing_from)
    mask = _read(reader, label_file, findings) if label_file is not None else None
    if mask is not None and label_file is not None:
        if read:
            findings += _off_grid(mask, label_file, *read[0])
        label, wrong = checked_label(mask.array, label_file, dataset)
        findings += [*wrong, *misnamed_segments(mask.header.segments, label_file, dataset)]
    if findings:
        return None, findings
    first = read[0][1]
    stated = case.spacing_mm if case.spacing_mm is not None else dataset.spacing_mm
    spacing = first.spacing_mm if first.spacing_known else stated
    of_files = [(remark, files.index(file)) for file, image in read for remark in image.remarks]
    of_files += [(remark, LABEL) for remark in mask.remarks] if mask is not None else []
    return CaseArrays(
        channels=tuple(image.array for _, image in read),
        spacing_mm=spacing,
        label=label,
        orientation=axis_codes(first.header),
        rectangularity=rectangularity(first.header),
        remarks=tuple((remark.kind, remark.found, channel) for remark, channel in of_files),
        exif=tuple(image.header.exif for _, image in read),
    ), []


def _read(reader: Callable[[Path], Image], file: Path, findings: list[Finding]) -> Image | None:
    try:
        return reader(file)
    except ImageError as error:
        findings.append(Finding(error.kind, str(file), str(error).removeprefix(f"{file}: ")))
        return None


def _off_grid(image: Image, file: Path, first_file: Path, first: Image) -> list[Finding]:
    difference = compare_geometry(first, image)
    if difference is None:
        return []
    message = f"does not lie on the grid of {first_file.name}: {difference.text}"
    if first.header.exif == image.header.exif:
        return [Finding(difference.kind, str(file), message)]
    turns = f"EXIF orientation {first.header.exif} turns {first_file.name} upright, {image.header.exif} this file"
    remedy = "save both files upright, without EXIF orientation" if difference.kind == "shape" else ""
    return [Finding(difference.kind, str(file), f"{message}; {turns}", remedy)]


def misnamed_segments(segments: Sequence[tuple[str, int]], file: Path, dataset: Dataset) -> list[Finding]:
    """Report classes of dataset.json that the mask file assigns to other values."""
    values = {likeness_of_name(name): members for name, members in dataset.labels.items()}
    wrong = [
        f"{name} = {value}" for name, value in segments if value not in values.get(likeness_of_name(name), {value})
    ]
    if not wrong:
        return []
    declared = ", ".join(f"{name} = {' or '.join(map(str, members))}" for name, members in dataset.labels.items())
    message = f"its segments are named {', '.join(wrong)}, the classes of dataset.json are {declared}"
    return [Finding("label-names", str(file), message)]


def checked_label(array: Array, file: Path, dataset: Dataset) -> tuple[NDArray[np.int16] | None, list[Finding]]:
    """Return the label as int16, or None and the problems: fractions or undeclared values."""
    if array.dtype.kind == "f":
        wrong = array[~(np.isfinite(array) & (array == np.rint(array)))]
        if wrong.size:
            message = f"label value {wrong[0]:g} is not a whole number ({wrong.size} voxels hold such)"
            return None, [Finding("label-fractional", str(file), message)]
    values = whole_values(array)
    declared = declared_values(dataset)
    unknown = [value for value in values if value not in declared]
    if unknown:
        kind = "label-0-255" if set(values) <= {0, 255} else "label-undeclared"
        shown = ", ".join(str(value) for value in unknown[:8])
        allowed = ", ".join(str(value) for value in sorted(declared))
        message = f"label values {shown} are not declared in dataset.json (declared: {allowed})"
        return None, [Finding(kind, str(file), message)]
    return array.astype(LABEL_TYPE), []


def whole_values(array: Array) -> list[int]:
    """Sorted distinct values; a small range is counted slice by slice, much faster than sorting."""
    low, high = int(array.min()), int(array.max())
    if high - low >= COUNTING_RANGE:
        return [int(value) for value in np.unique(array)]
    counts = np.zeros(high - low + 1, dtype=np.intp)
    for plane in array:
        counts += np.bincount(plane.ravel().astype(np.intp) - low, minlength=counts.size)
    return [int(value) + low for value in np.flatnonzero(counts)]


def declared_values(dataset: Dataset) -> frozenset[int]:
    """Return every valid label value of the data set, including background and ignore."""
    values = {0, *(value for members in dataset.labels.values() for value in members)}
    return frozenset(values if dataset.ignore_label is None else values | {dataset.ignore_label})


def source_hash(case: Case, channels: Sequence[int] | None = None, hash_of: HashOf = file_hash) -> str:
    """Hash the contents of the case's files, independent of their folder, and its class or boxes.

    ``hash_of`` returns a file's SHA-256.
    """
    chosen = range(len(case.images)) if channels is None else channels
    images = [hash_image(_existing(Path(case.images[index])), hash_of) for index in chosen]
    label = None if case.label is None else hash_image(_existing(Path(case.label)), hash_of)
    return content_hash({"images": images, "label": label, **_stated_truth(case)})


def truth_hash(case: Case, hash_of: HashOf = file_hash) -> str:
    """SHA-256 of the label file, or a hash of the class or boxes. Raises ImageError if the file is missing."""
    return content_hash(_stated_truth(case)) if case.label is None else hash_image(_existing(Path(case.label)), hash_of)


def _stated_truth(case: Case) -> dict[str, Any]:
    """Truth from tables and annotations."""
    own: dict[str, Any] = {} if case.class_name is None else {"class": case.class_name}
    if case.boxes is not None:
        own |= {"boxes": case.boxes, "spacing_mm": case.spacing_mm}
    return own


def bytes_to_read(case: Case) -> int:
    """Estimate the memory for reading and checking a case: several copies of its largest channel."""
    files = [Path(file) for file in (*case.images, *([case.label] if case.label else []))]
    sizes = []
    for file in files:
        with suppress(OSError):  # unreadable files are reported when they are read
            sizes.append(_voxel_bytes(file))
    return sum(sizes) + COPIES_WHILE_READING * max(sizes, default=0)


def _voxel_bytes(path: Path) -> int:
    """Uncompressed size of the voxels in bytes. A gzip stream ends with its size (modulo 4 GiB)."""
    stored = sum(file.stat().st_size for file in (path, *voxel_files(path)))
    if path.name.lower().endswith(".gz") and stored > 4:
        with open(path, "rb") as file:
            file.seek(-4, os.SEEK_END)
            return max(stored, int.from_bytes(file.read(4), "little"))
    return stored if path.name.lower().endswith(".nii") else stored * USUAL_COMPRESSION


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ImageError(f"{path}: the file does not exist")
    return path


def read_finite(file: Path, colour_to_grey: bool = False, spacing_from: SpacingFrom | None = None) -> Image:
    """Read one image. Raises ImageError for NaN or infinite voxels: a network would return an empty mask."""
    image = read_image(file, colour_to_grey, spacing_from)
    if not np.issubdtype(image.array.dtype, np.integer):
        bad = image.array.size - int(np.count_nonzero(np.isfinite(image.array)))
        if bad:
            raise ImageError(f"{file}: {bad} voxels are NaN or infinite; replace them before use", "not-finite")
    return image
