"""What a file of annotations says of each image: the boxes on it, and what is wrong with them."""

import math
from typing import Any, Literal, NamedTuple

from mdkd_auto.data.problems import Finding
from mdkd_auto.records import Box, Triple

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


class Annotations(NamedTuple):
    """Every image listed, the classes in order, and what is wrong with the annotations as a whole."""

    images: list[Annotated]
    classes: tuple[str, ...]
    findings: list[Finding]


def base_name(path: str) -> str:
    """The file's name without folders, whichever system wrote the path."""
    return path.replace("\\", "/").rsplit("/", 1)[-1].strip()


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
