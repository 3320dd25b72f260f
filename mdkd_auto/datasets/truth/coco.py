"""Read COCO boxes: one JSON file of images, annotations and categories (cocodataset.org, "Data format")."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mdkd_auto.core.errors import MdkdError
from mdkd_auto.core.files import ReadError, read_json
from mdkd_auto.core.records import Box
from mdkd_auto.core.text import shown
from mdkd_auto.datasets.problems import Finding
from mdkd_auto.datasets.truth.annotations import (
    Annotated,
    Annotations,
    base_name,
    finite_numbers,
    is_no_size,
    rotation,
    url_names,
    whole_size,
)
from mdkd_auto.datasets.truth.box_layouts import SIZES, Contents, Four, suspect_contents

LISTS = ("images", "annotations", "categories")
EXPECTED = "expected four numbers x, y, width, height"
Key = int | str


def read_coco(path: Path) -> Annotations:
    """Read images with their boxes; classes are ordered by category id. Crowd annotations are reported as errors.

    An annotation without ``bbox`` gets the bounding box of its polygons.
    """
    content = _content(path)
    return Annotations([], (), [content]) if isinstance(content, Finding) else _Reader(path, content).read()


def read_ids(path: Path) -> tuple[dict[Key, tuple[str, ...]], dict[Key, str]]:
    """Image id -> names of its file, and category id -> name; problems with annotations are ignored."""
    content = _content(path)
    if isinstance(content, Finding):
        return {}, {}
    reader = _Reader(path, content)
    names = {key: (base_name(name), *url_names(name)) for key, name, _ in reader.images()}
    return names, reader.categories()


def _content(path: Path) -> dict[str, list[Any]] | Finding:
    """Return the three lists, or the problem with the file."""
    try:
        content = read_json(path, any_number=True)  # each box is checked separately
    except ReadError as error:
        return Finding("refused", str(path), error.found)
    except MdkdError as error:
        return Finding("annotations-syntax", str(path), str(error).removeprefix(f"{path}: "))
    missing = [name for name in LISTS if not isinstance(content, dict) or not isinstance(content.get(name), list)]
    if missing:
        return Finding("annotations-field", str(path), f"has no list {' and no list '.join(missing)}")
    return {name: content[name] for name in LISTS}


class _Reader:
    """Boxes and findings by image id."""

    def __init__(self, path: Path, content: dict[str, list[Any]]) -> None:
        self.path, self.content = path, content
        self.findings: list[Finding] = []
        self.boxes: dict[Key, list[Box]] = {}
        self.of_image: dict[Key, list[Finding]] = {}
        self.meant: dict[str, Key] = {}  # ids as text and file names -> id
        self.patients: dict[Key, str] = {}  # image -> patient, if given
        self.used: set[str] = set()  # categories
        self.unplaced = 0
        self.crowds: Counter[Key] = Counter()  # per image
        self.contents: list[Contents] = []

    def read(self) -> Annotations:
        images = list(self.images())
        categories = self.categories()
        listed = len(self.content["annotations"])
        annotations = list(self._objects("annotations"))
        self.unplaced = listed - len(annotations)
        for where, record in annotations:
            self._add_box(where, record, categories)
        for image, count in self.crowds.items():
            message = "annotation is a crowd (iscrowd)" if count == 1 else "annotations are crowds (iscrowd)"
            self._find("annotations-crowd", f"{count} {message} or to be ignored (ignore)", image)
        annotated = [
            Annotated(
                base_name(name),
                size,
                tuple(self.boxes[key]),
                self.patients.get(key, ""),
                file=str(self.path),
                findings=tuple(self.of_image[key]),
                other_names=url_names(name),
            )
            for key, name, size in images
        ]
        names = dict.fromkeys(categories.values())
        return Annotations(
            annotated,
            tuple(name for name in names if name in self.used),
            self.findings,
            unused=tuple(name for name in names if name not in self.used),
            unplaced=self.unplaced,
            suspicion=suspect_contents(self.contents, SIZES),
        )

    def _find(self, kind: str, found: str, image: Key | None = None, part: str = "") -> None:
        findings = self.findings if image is None else self.of_image[image]
        findings.append(Finding(kind, str(self.path), found, part=part))

    def _objects(self, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the objects of a list, each with its name for messages."""
        for number, record in enumerate(self.content[name]):
            if isinstance(record, dict):
                yield f"{name}[{number}]", record
            else:
                where = f"{name}[{number}]"
                self._find("annotations-field", f"{where}: is {shown(record)}; expected an object", part=where)

    def images(self) -> Iterator[tuple[Key, str, tuple[int, int] | None]]:
        """Yield id, file name and size."""
        seen: dict[Key, str] = {}
        for where, record in self._objects("images"):
            key, name = _key(record.get("id")), record.get("file_name")
            if key is None or not isinstance(name, str) or not base_name(name):
                message = f"{where}: id {shown(record.get('id'))}, file_name {shown(name)}; expected both"
                self._find("annotations-field", message)
                continue
            if seen.setdefault(key, name) != name:
                self._find("annotations-field", f"{where}: id {key!r} is that of {seen[key]} too")
            self.boxes.setdefault(key, [])
            self.of_image.setdefault(key, [])
            self.meant |= dict.fromkeys((str(key), name, base_name(name)), key)
            if (patient := _key(record.get("patient_id"))) not in (None, ""):
                self.patients[key] = str(patient)
            stated = [record.get("width"), record.get("height")]
            size = whole_size(stated)
            if size is None and is_no_size(stated):
                message = f"{where}: width and height are 0; the size of the image's own file is taken"
                self._find("annotations-no-size", message, key)
            elif size is None and stated != [None, None]:
                self._find("annotations-field", f"{where}: width and height are {shown(stated)}", key)
            yield key, name, size

    def categories(self) -> dict[Key, str]:
        """Names by id, in order."""
        names: dict[Key, str] = {}
        for where, record in self._objects("categories"):
            key, name = _key(record.get("id")), record.get("name")
            if key is None or not isinstance(name, str) or not name:
                message = f"{where}: id {shown(record.get('id'))}, name {shown(name)}; expected both"
                self._find("annotations-field", message)
            elif names.setdefault(key, name) != name:
                self._find("annotations-field", f"{where}: id {key!r} is that of {names[key]} too")
        return dict(sorted(names.items(), key=lambda item: (isinstance(item[0], str), item[0])))

    def _add_box(self, where: str, record: dict[str, Any], categories: dict[Key, str]) -> None:
        """Add the box, or report its problem."""
        image, category = _key(record.get("image_id")), _key(record.get("category_id"))
        name = None if category is None else categories.get(category)
        if name is not None:
            self.used.add(name)
        if image is None or image not in self.boxes:
            message = f"{where}: image_id {shown(record.get('image_id'))} is not among the images"
            meant = self.meant.get(str(image).strip())
            if meant is not None:
                self._find("annotation-without-image", f"{message}; {meant!r} seems to be meant", meant)
            else:
                self._find("annotation-without-image", message, part=where)
                self.unplaced += 1
            return
        if _is_set(record.get("iscrowd")) or _is_set(record.get("ignore")):
            self.crowds[image] += 1
            return
        if name is None:
            message = f"category_id {shown(record.get('category_id'))} is not in categories"
            self._find("class-unknown", f"{where}: {message} ({', '.join(map(str, categories))})", image)
        numbers = self._numbers(record)
        if isinstance(numbers, str):
            self._find("box-number", f"{where}: {numbers}", image)
        elif name is not None:
            x, y, width, height = numbers
            self.boxes[image].append(Box(class_name=name, x=x, y=y, width=width, height=height))

    def _numbers(self, record: dict[str, Any]) -> Four | str:
        """Return x, y, width and height of an annotation, or the problem."""
        stated, segmentation = record.get("bbox"), record.get("segmentation")
        outline = _outline(segmentation)
        if stated is None or stated == []:
            if outline is not None:
                x1, y1, x2, y2 = outline
                return x1, y1, x2 - x1, y2 - y1
            mask = " and its segmentation a run-length mask" if isinstance(segmentation, dict) else ""
            return f"bbox is {shown(stated)}{mask}; {EXPECTED}"
        numbers = finite_numbers(stated, 4)
        if numbers is None:
            rotated = " (five are a rotated box; boxes here are upright)" if _is_five(stated) else ""
            return f"bbox is {shown(stated)}; {EXPECTED}{rotated}"
        attributes = record.get("attributes")
        angle = rotation(attributes.get("rotation")) if isinstance(attributes, dict) else 0.0
        if angle:
            return f"the box is rotated by {angle:g} degrees; expected an upright box around the object"
        area = finite_numbers([record.get("area")], 1)
        x, y, width, height = numbers
        self.contents.append(Contents((x, y, width, height), outline, area[0] if area else None))
        return x, y, width, height


def _outline(segmentation: Any) -> Four | None:
    """Bounding box x1, y1, x2, y2 of polygons, each x, y, x, y, ...; None for anything else."""
    if not isinstance(segmentation, list) or not segmentation:
        return None
    polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
    if not all(isinstance(polygon, list) and len(polygon) % 2 == 0 for polygon in polygons):
        return None
    flat = [number for polygon in polygons for number in polygon]
    numbers = finite_numbers(flat, len(flat))
    if numbers is None or len(numbers) < 6:
        return None
    return min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])


def _is_five(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 5


def _is_set(flag: Any) -> bool:
    """Accept 1 and true, also as text; not NaN, which tables write for empty cells."""
    if not flag:
        return False
    numbers = finite_numbers([flag], 1)
    return flag is True or (isinstance(flag, str) and flag.lower() == "true") or bool(numbers and numbers[0])


def _key(value: Any) -> Key | None:
    """Return an id: text or an integer, also if a table made it 1.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None
