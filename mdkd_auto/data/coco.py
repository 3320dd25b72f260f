"""Boxes as COCO writes them: one JSON of images, annotations and categories (cocodataset.org, "Data format")."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from mdkd_auto.data.annotated import Annotated, Annotations, base_name, finite_numbers, whole_size
from mdkd_auto.data.problems import Finding
from mdkd_auto.errors import MdkdError
from mdkd_auto.files import read_json
from mdkd_auto.records import Box
from mdkd_auto.strict_json import shown

LISTS = ("images", "annotations", "categories")
Key = int | str


def read_coco(path: Path) -> Annotations:
    """Images with their boxes, classes by the id of their category. Crowds are left out, with a warning."""
    try:
        content = read_json(path, any_number=True)  # each box is judged by itself
    except MdkdError as error:
        found = str(error).removeprefix(f"{path}: ")
        return Annotations([], (), [Finding("annotations-syntax", str(path), found)])
    missing = [name for name in LISTS if not isinstance(content, dict) or not isinstance(content.get(name), list)]
    if missing:
        found = f"has no list {' and no list '.join(missing)}"
        return Annotations([], (), [Finding("annotations-field", str(path), found)])
    return _Reader(path, content).read()


class _Reader:
    """Boxes and findings by the id of their image."""

    def __init__(self, path: Path, content: dict[str, list[Any]]) -> None:
        self.path, self.content = path, content
        self.findings: list[Finding] = []
        self.boxes: dict[Key, list[Box]] = {}
        self.of_image: dict[Key, list[Finding]] = {}

    def read(self) -> Annotations:
        images = list(self._images())
        categories = self._categories()
        crowds = sum(self._add_box(where, one, categories) for where, one in self._objects("annotations"))
        if crowds:
            self._find("annotations-crowd", f"{crowds} annotations are crowds (iscrowd) and left out")
        annotated = [
            Annotated(base_name(name), size, tuple(self.boxes[key]), file=str(self.path),
                      findings=tuple(self.of_image[key]))
            for key, name, size in images
        ]  # fmt: skip
        return Annotations(annotated, tuple(dict.fromkeys(categories.values())), self.findings)

    def _find(self, kind: str, found: str, image: Key | None = None, part: str = "") -> None:
        findings = self.findings if image is None else self.of_image[image]
        findings.append(Finding(kind, str(self.path), found, part=part))

    def _objects(self, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The objects of a list, and how a message calls them."""
        for number, one in enumerate(self.content[name]):
            if isinstance(one, dict):
                yield f"{name}[{number}]", one
            else:
                where = f"{name}[{number}]"
                self._find("annotations-field", f"{where}: is {shown(one)}; expected an object", part=where)

    def _images(self) -> Iterator[tuple[Key, str, tuple[int, int] | None]]:
        """Id, file name and size."""
        seen: dict[Key, str] = {}
        for where, one in self._objects("images"):
            key, name = one.get("id"), one.get("file_name")
            if not _is_key(key) or not isinstance(name, str) or not base_name(name):
                self._find("annotations-field", f"{where}: id {shown(key)}, file_name {shown(name)}; expected both")
                continue
            if seen.setdefault(key, name) != name:
                self._find("annotations-field", f"{where}: id {key!r} is that of {seen[key]} too")
            self.boxes.setdefault(key, [])
            self.of_image.setdefault(key, [])
            stated = [one.get("width"), one.get("height")]
            size = whole_size(stated)
            if size is None and stated != [None, None]:
                self._find("annotations-field", f"{where}: width and height are {shown(stated)}", key)
            yield key, name, size

    def _categories(self) -> dict[Key, str]:
        """Names by id, in order."""
        names: dict[Key, str] = {}
        for where, one in self._objects("categories"):
            key, name = one.get("id"), one.get("name")
            if not _is_key(key) or not isinstance(name, str) or not name:
                self._find("annotations-field", f"{where}: id {shown(key)}, name {shown(name)}; expected both")
            elif names.setdefault(key, name) != name:
                self._find("annotations-field", f"{where}: id {key!r} is that of {names[key]} too")
        return dict(sorted(names.items(), key=lambda item: (isinstance(item[0], str), item[0])))

    def _add_box(self, where: str, one: dict[str, Any], categories: dict[Key, str]) -> bool:
        """Adds the box, or what is wrong with it; True for a crowd, which is not added."""
        image, category = one.get("image_id"), one.get("category_id")
        if not _is_key(image) or image not in self.boxes:
            found = f"{where}: image_id {shown(image)} is not among the images"
            self._find("annotation-without-image", found, part=where)
            return False
        if one.get("iscrowd"):
            return True
        name = categories.get(category) if _is_key(category) else None
        if name is None:
            ids = ", ".join(map(str, categories))
            self._find("class-unknown", f"{where}: category_id {shown(category)} is not in categories ({ids})", image)
        numbers = finite_numbers(one.get("bbox"), 4)
        if numbers is None:
            found = f"{where}: bbox is {shown(one.get('bbox'))}; expected four numbers x, y, width, height"
            self._find("box-number", found, image)
        elif name is not None:
            x, y, width, height = numbers
            self.boxes[image].append(Box(class_name=name, x=x, y=y, width=width, height=height))
        return False


def _is_key(value: Any) -> TypeGuard[Key]:
    return isinstance(value, (int, str)) and not isinstance(value, bool)
