"""What a file of annotations says of each image: the boxes on it, and what is wrong with them."""

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from mdkd_auto.core.records import Box, Triple
from mdkd_auto.datasets.problems import Finding
from mdkd_auto.datasets.truth.box_layouts import SIZES, Layout, Suspicion
from mdkd_auto.formats.file_endings import is_image

ROTATION_TOLERANCE = 1.0  # degrees that a box may be rotated by: a slip of the hand

Split = Literal["train", "val", "test", ""]


class Annotated(NamedTuple):
    """One image as it is listed. ``file`` is the annotations' own; ``findings`` concern this image alone."""

    file_name: str  # without folders
    size: tuple[int, int] | None  # width, height; None where not stated
    boxes: tuple[Box, ...]
    patient_id: str = ""
    split: Split = ""
    spacing_mm: Triple | None = None
    file: str = ""
    findings: tuple[Finding, ...] = ()
    other_names: tuple[str, ...] = ()  # the file may have one of these where none has the first
    stem: str = ""  # of an annotation file of one image, which is mostly named as the image is
    left_out: str = ""  # why some of its annotations are left out, which makes it unlabelled


class Annotations(NamedTuple):
    """Every image listed, the classes in order, and what is wrong with the annotations as a whole."""

    images: list[Annotated]
    classes: tuple[str, ...]  # that have annotations, sound or not
    findings: list[Finding]
    unused: tuple[str, ...] = ()  # classes that are named, and that no annotation has
    unplaced: int = 0  # annotations whose image is not known: any image may be theirs
    layout: Layout = SIZES  # of the format
    suspicion: Suspicion | None = None  # of another layout, from what the format says besides boxes


def base_name(path: str) -> str:
    """The file's name without folders, whichever system wrote the path."""
    return path.replace("\\", "/").rsplit("/", 1)[-1].strip()


def url_names(path: str) -> tuple[str, ...]:
    """Names of the file where ``path`` is a web address: %20 for a space, the file in a query, a signature after it."""
    return tuple(dict.fromkeys(name for name in map(base_name, _decoded(path)) if name not in ("", base_name(path))))


def _decoded(path: str) -> Iterator[str]:
    yield unquote(path)
    try:
        parts = urlsplit(path.replace("\\", "/"))
    except ValueError:  # brackets that are no address
        return
    if parts.query:
        yield unquote(parts.path)
        values = (value for _, value in parse_qsl(parts.query.replace("+", "%2B")))
        yield from filter(is_image, values)


def finite_numbers(values: Any, count: int) -> tuple[float, ...] | None:
    """``values``, numbers or text, as ``count`` floats; None where they are not that, NaN or infinite."""
    if not isinstance(values, (list, tuple)) or len(values) != count or any(isinstance(one, bool) for one in values):
        return None
    try:
        numbers = tuple(float(one) for one in values)
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if all(math.isfinite(one) for one in numbers) else None


def whole_size(values: Any) -> tuple[int, int] | None:
    """Width and height as positive whole numbers, or None where they are not."""
    numbers = finite_numbers(values, 2)
    if numbers is None or not all(one > 0 and one == int(one) for one in numbers):
        return None
    return int(numbers[0]), int(numbers[1])


def rotation(value: Any) -> float:
    """The degrees by which annotation tools say that a box is rotated; 0 where it is upright, or nothing is said."""
    angle = finite_numbers([value], 1)
    upright = angle is None or abs((angle[0] + 90) % 180 - 90) <= ROTATION_TOLERANCE
    return 0.0 if angle is None or upright else angle[0]


def is_no_size(values: Any) -> bool:
    """Width and height of 0, as annotation tools write them that could not open the image; also -1."""
    return finite_numbers(values, 2) in {(0, 0), (-1, -1)}
