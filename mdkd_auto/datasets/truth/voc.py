"""Read Pascal VOC boxes: one XML file per image (Everingham et al., IJCV 2010)."""

from pathlib import Path
from xml.etree import ElementTree

from mdkd_auto.core.files import ReadError, read_bytes
from mdkd_auto.core.records import Box
from mdkd_auto.core.text import shown
from mdkd_auto.datasets.case_names import visible_files
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
from mdkd_auto.datasets.truth.box_layouts import CORNERS as LAYOUT

CORNERS = ("xmin", "ymin", "xmax", "ymax")  # first and last pixel in the box, counted from 1
EXPECTED = f"expected one of numbers {', '.join(CORNERS)}"
OTHER_SHAPES = ("robndbox", "polygon")  # rotated boxes and outlines, written by tools that extend Pascal VOC


class _Doctype(Exception):
    """The file declares a document type, and thereby possibly entities that expand or read other files."""


class _Plain(ElementTree.TreeBuilder):
    def doctype(self, *_: object) -> None:
        raise _Doctype


def read_voc(folder: Path) -> Annotations:
    """Read the image and boxes of every .xml file, classes in alphabetical order.

    Objects marked difficult, truncated or occluded are used; a warning counts the difficult ones.
    """
    images, findings = [], []
    difficult = 0
    for name in visible_files(folder):
        if name.lower().endswith(".xml"):
            image, marked = _read(folder / name)
            images.append(image)
            difficult += marked
        else:
            findings.append(Finding("file-unknown", str(folder / name), "is no .xml file"))
    for inner in sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")):
        findings.append(Finding("file-unknown", str(inner), "is a folder; files in it are not read"))
    boxes = [box for annotated in images for box in annotated.boxes]
    if difficult:
        message = f"objects marked difficult: {difficult} of {len(boxes)}; they are used like the others"
        findings.append(Finding("annotations-doubtful", str(folder), message))
    from_zero = sum(box.x == -1 or box.y == -1 for box in boxes)
    if from_zero:
        message = f"{from_zero} of {len(boxes)} boxes have xmin or ymin 0, which Pascal VOC counts from 1"
        findings.append(Finding("box-from-zero", str(folder), message))
    classes = {box.class_name for box in boxes}
    return Annotations(images, tuple(sorted(classes)), findings, layout=LAYOUT)


def _read(path: Path) -> tuple[Annotated, int]:
    """Return the image of one file, and the number of its objects marked difficult."""
    root = _root(path)
    if isinstance(root, Finding):  # reported for the image with the file's name
        return Annotated(path.stem, None, (), file=str(path), findings=(root,)), 0
    findings: list[Finding] = []
    boxes: list[Box] = []

    def find(kind: str, found: str) -> None:
        findings.append(Finding(kind, str(path), found))

    stated = root.find("size")
    sides = [] if stated is None else [_text(stated, "width"), _text(stated, "height")]
    size = whole_size(sides)
    if is_no_size(sides):
        find("annotations-no-size", "size: width and height are 0; the size of the image's own file is taken")
    elif size is None and stated is not None:
        find("annotations-field", f"size: width {shown(sides[0])}, height {shown(sides[1])}")
    objects = root.findall("object")
    elsewhere = sum(_is_object(element) for element in root.iter()) - len(objects)
    if elsewhere:
        find("annotations-field", f"objects that are not <object> of <annotation>, and so not read: {elsewhere}")
    for number, element in enumerate(objects, start=1):
        box = _box(element)
        if isinstance(box, Box):
            boxes.append(box)
        else:
            find(box[0], f"object {number}: {box[1]}")
    name = _text(root, "filename") or path.stem
    image = Annotated(
        base_name(name),
        size,
        tuple(boxes),
        file=str(path),
        findings=tuple(findings),
        other_names=url_names(name),
        stem=path.stem,
    )
    return image, sum(_text(element, "difficult").lower() not in ("", "0", "false") for element in objects)


def _root(path: Path) -> ElementTree.Element | Finding:
    """Return the root element, or the problem with the file."""
    kind = "annotations-syntax"
    try:
        content = read_bytes(path)
        root = ElementTree.fromstring(content, ElementTree.XMLParser(target=_Plain()))
        if root.tag == "annotation":
            return root
        message = f"its outermost element is {shown(root.tag)}; expected 'annotation'"
    except _Doctype:
        message = "declares a document type (DOCTYPE), which annotations do not need; remove it"
    except ElementTree.ParseError as error:
        encoding = "; it is no UTF-8, and says no other encoding" if _is_of_unknown_encoding(content) else ""
        message = f"is not valid XML: {error}{encoding}"
    except ReadError as error:
        kind, message = "refused", error.found
    except (ValueError, LookupError) as error:  # unknown encoding
        message = f"cannot be read ({error})"
    return Finding(kind, str(path), message)


def _is_of_unknown_encoding(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return b"encoding=" not in content[:200] and not content.startswith((b"\xff\xfe", b"\xfe\xff"))
    return False


def _is_object(element: ElementTree.Element) -> bool:
    """Whether the tag is "object", ignoring case and namespace."""
    tag: object = element.tag  # a function if the element is a comment
    return isinstance(tag, str) and tag.rpartition("}")[2].lower() == "object"


def _box(element: ElementTree.Element) -> Box | tuple[str, str]:
    """Return the box of one object, or kind and details of the problem."""
    name, boxes = _text(element, "name"), element.findall("bndbox")
    texts = [[_text(box, corner) for corner in CORNERS] for box in boxes]
    numbers = finite_numbers(texts[0], 4) if len(texts) == 1 else None
    if numbers is None:
        others = [inner.tag for inner in element if inner.tag in OTHER_SHAPES]
        beside = f", beside {' and '.join(others)}" if others else ""
        return "box-number", f"bndbox is {shown(texts[0] if len(texts) == 1 else texts)}{beside}; {EXPECTED}"
    if angle := _rotation(element):
        return "box-number", f"the box is rotated by {angle:g} degrees; expected an upright box around the object"
    if not name:
        return "class-unknown", "has no name"
    x_min, y_min, x_max, y_max = numbers
    return Box(class_name=name, x=x_min - 1, y=y_min - 1, width=x_max - x_min + 1, height=y_max - y_min + 1)


def _rotation(element: ElementTree.Element) -> float:
    """Return the rotation from CVAT's attributes of an object."""
    for attribute in element.iterfind("attributes/attribute"):
        if _text(attribute, "name") == "rotation":
            return rotation(_text(attribute, "value"))
    return 0.0


def _text(element: ElementTree.Element, name: str) -> str:
    return (element.findtext(name) or "").strip()
