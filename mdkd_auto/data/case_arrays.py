"""A case's files read and checked: channels on one grid, finite voxels, a label that dataset.json declares."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mdkd_auto.data.images import Image, read_image, same_geometry
from mdkd_auto.errors import ImageError
from mdkd_auto.files import content_hash, file_hash
from mdkd_auto.records import Case, Dataset, Triple

Array = NDArray[Any]
LABEL_TYPE = np.int16


class CaseArrays(NamedTuple):
    """Canonical (z, y, x) arrays of one case."""

    channels: tuple[Array, ...]
    spacing_mm: Triple | None  # of the file, else what dataset.json states, else None
    label: NDArray[np.int16] | None


def read_case_arrays(case: Case, dataset: Dataset, channels: Sequence[int] | None = None) -> CaseArrays:
    """Read the channels asked for (all by default) and the label. Raises ImageError naming the file."""
    files = [Path(case.images[index]) for index in (range(len(case.images)) if channels is None else channels)]
    images = [read_finite(file) for file in files]
    for file, image in zip(files[1:], images[1:], strict=True):
        _require_same_grid(images[0], image, files[0], file)
    label = None
    if case.label is not None and dataset.task == "segmentation":
        label_file = Path(case.label)
        mask = read_image(label_file)
        _require_same_grid(images[0], mask, files[0], label_file)
        label = checked_label(mask.array, label_file, dataset)
    spacing = images[0].spacing_mm if images[0].spacing_known else dataset.spacing_mm
    return CaseArrays(tuple(image.array for image in images), spacing, label)


def checked_label(array: Array, file: Path, dataset: Dataset) -> NDArray[np.int16]:
    """The label as int16. Raises ImageError for fractions and for values dataset.json does not declare."""
    values = np.unique(array)
    if not np.all(np.isfinite(values)) or np.any(values != np.rint(values)):
        fraction = next(value for value in values if value != np.rint(value))
        raise ImageError(f"{file}: label value {fraction:g} is not a whole number; a label holds class numbers only")
    declared = declared_values(dataset)
    unknown = [int(value) for value in values if int(value) not in declared]
    if unknown:
        shown = ", ".join(str(value) for value in unknown[:8])
        allowed = ", ".join(str(value) for value in sorted(declared))
        raise ImageError(f"{file}: label values {shown} are not declared in dataset.json (declared: {allowed})")
    return array.astype(LABEL_TYPE)


def declared_values(dataset: Dataset) -> frozenset[int]:
    """Every value a label of the data set may hold, background and ignore included."""
    values = {0, *(value for members in dataset.labels.values() for value in members)}
    return frozenset(values if dataset.ignore_label is None else values | {dataset.ignore_label})


def source_hash(case: Case, channels: Sequence[int] | None = None) -> str:
    """Hash of the contents of the case's files, whatever folder they lie in."""
    chosen = range(len(case.images)) if channels is None else channels
    images = [file_hash(_existing(Path(case.images[index]))) for index in chosen]
    label = None if case.label is None else file_hash(_existing(Path(case.label)))
    return content_hash({"images": images, "label": label})


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ImageError(f"{path}: the file does not exist")
    return path


def read_finite(file: Path) -> Image:
    """Read one image. Raises ImageError where a voxel is NaN or infinite: a network would answer with an empty mask."""
    image = read_image(file)
    if not np.issubdtype(image.array.dtype, np.integer):
        bad = image.array.size - int(np.count_nonzero(np.isfinite(image.array)))
        if bad:
            raise ImageError(f"{file}: {bad} voxels are NaN or infinite; replace them before use")
    return image


def _require_same_grid(first: Image, second: Image, first_file: Path, second_file: Path) -> None:
    difference = same_geometry(first, second)
    if difference is not None:
        raise ImageError(f"{second_file}: does not lie on the grid of {first_file.name}: {difference}")
