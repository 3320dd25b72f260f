"""The content of annotation files: boxes per image, and the problems with them."""

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from mdkd_auto.core.records import Box, Triple
from mdkd_auto.datasets.problems import Finding
from mdkd_auto.datasets.truth.box_layouts import SIZES, Layout, Suspicion
from mdkd_auto.formats.file_endings import is_image

ROTATION_TOLERANCE = 1.0  # degrees of box rotation that count as a slip of the hand

Split = Literal["train", "val", "test", ""]


class Annotated(NamedTuple):
    """One listed image. ``file`` is the annotation file; ``findings`` concern this image only."""

    file_name: str  # without folders
    size: tuple[int, int] | None  # width, height; None if not stated
    boxes: tuple[Box, ...]
    patient_id: str = ""
    split: Split = ""
    spacing_mm: Triple | None = None
    file: str = ""
    findings: tuple[Finding, ...] = ()
    other_names: tuple[str, ...] = ()  # tried if no file has the first name
    stem: str = ""  # name of a single-image annotation file, usually that of the image
    left_out: str = ""  # why some annotations were excluded, which makes the image unlabelled


class Annotations(NamedTuple):
    """Every listed image, the classes in order, and problems with the annotations as a whole."""

    images: list[Annotated]
    classes: tuple[str, ...]  # classes with annotations, valid or not
    findings: list[Finding]
    unused: tuple[str, ...] = ()  # declared classes without annotations
    unplaced: int = 0  # annotations of unknown images: they may belong to any image
    layout: Layout = SIZES  # the file format's layout
    suspicion: Suspicion | None = None  # evidence for another layout from sources other than the boxes


def base_name(path: str) -> str:
    """Return the file name without folders, for paths of any operating system."""
    return path.replace("\\", "/").rsplit("/", 1)[-1].strip()


def url_names(path: str) -> tuple[str, ...]:
    """Return file names a web address may stand for: %20 decoded, from the query, without a signature."""
    return tuple(dict.fromkeys(name for name in map(base_name, _decoded(path)) if name not in ("", base_name(path))))


def _decoded(path: str) -> Iterator[str]:
    yield unquote(path)
    try:
        parts = urlsplit(path.replace("\\", "/"))
    except ValueError:  # brackets that are not an address
        return
    if parts.query:
        yield unquote(parts.path)
        values = (value for _, value in parse_qsl(parts.query.replace("+", "%2B")))
        yield from filter(is_image, values)


def finite_numbers(values: Any, count: int) -> tuple[float, ...] | None:
    """Convert ``count`` numbers or texts to floats; None if that fails, or for NaN or infinity."""
    if (
        not isinstance(values, (list, tuple))
        or len(values) != count
        or any(isinstance(value, bool) for value in values)
    ):
        return None
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if all(math.isfinite(value) for value in numbers) else None


def whole_size(values: Any) -> tuple[int, int] | None:
    """Return width and height as positive integers, or None."""
    numbers = finite_numbers(values, 2)
    if numbers is None or not all(number > 0 and number == int(number) for number in numbers):
        return None
    return int(numbers[0]), int(numbers[1])


def rotation(value: Any) -> float:
    """Return a box's rotation in degrees as written by annotation tools; 0 if upright or absent."""
    angle = finite_numbers([value], 1)
    upright = angle is None or abs((angle[0] + 90) % 180 - 90) <= ROTATION_TOLERANCE
    return 0.0 if angle is None or upright else angle[0]


def is_no_size(values: Any) -> bool:
    """Whether width and height are 0 or -1, which annotation tools write if they could not open the image."""
    return finite_numbers(values, 2) in {(0, 0), (-1, -1)}
