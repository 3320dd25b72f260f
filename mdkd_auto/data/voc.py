"""Boxes as Pascal VOC writes them: one XML an image (Everingham et al., IJCV 2010)."""

from pathlib import Path
from xml.etree import ElementTree

from mdkd_auto.data.annotated import Annotated, Annotations, base_name, finite_numbers, whole_size
from mdkd_auto.data.cases import visible_files
from mdkd_auto.data.problems import Finding
from mdkd_auto.records import Box
from mdkd_auto.strict_json import shown

CORNERS = ("xmin", "ymin", "xmax", "ymax")  # of the first and the last pixel in the box, counted from 1


class _Doctype(Exception):
    """The file declares a document type, and with it maybe entities that grow or read other files."""


class _Plain(ElementTree.TreeBuilder):
    def doctype(self, *_: object) -> None:
        raise _Doctype


def read_voc(folder: Path) -> Annotations:
    """The image and boxes of every .xml file, classes in alphabetical order."""
    images, findings = [], []
    for name in visible_files(folder):
        if name.lower().endswith(".xml"):
            images.append(_read(folder / name))
        else:
            findings.append(Finding("file-unknown", str(folder / name), "is no .xml file"))
    classes = {box.class_name for one in images for box in one.boxes}
    return Annotations(images, tuple(sorted(classes)), findings)


def _read(path: Path) -> Annotated:
    """A file that is not XML stands for the image of its own name, which is then known to be wrong."""
    try:
        root = ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_Plain()))
    except _Doctype:
        return _broken(path, "declares a document type (DOCTYPE), which annotations do not need; remove it")
    except ElementTree.ParseError as error:
        return _broken(path, f"is not valid XML: {error}")
    except (OSError, ValueError, LookupError) as error:  # an encoding that is not known
        return _broken(path, f"cannot be read ({error})")
    if root.tag != "annotation":
        return _broken(path, f"its outermost element is {shown(root.tag)}; expected 'annotation'")
    findings: list[Finding] = []
    stated = root.find("size")
    size = None if stated is None else whole_size([_text(stated, "width"), _text(stated, "height")])
    if stated is not None and size is None:
        found = f"size: width {shown(_text(stated, 'width'))}, height {shown(_text(stated, 'height'))}"
        findings.append(Finding("annotations-field", str(path), found))
    boxes = []
    for number, element in enumerate(root.findall("object"), start=1):
        box = _box(element)
        if isinstance(box, Box):
            boxes.append(box)
        else:
            findings.append(Finding(box[0], str(path), f"object {number}: {box[1]}"))
    name = base_name(_text(root, "filename")) or path.stem
    return Annotated(name, size, tuple(boxes), file=str(path), findings=tuple(findings))


def _broken(path: Path, found: str) -> Annotated:
    return Annotated(path.stem, None, (), file=str(path), findings=(Finding("annotations-syntax", str(path), found),))


def _box(element: ElementTree.Element) -> Box | tuple[str, str]:
    """The box of one object, or kind and words of what is wrong with it."""
    name, corners = _text(element, "name"), element.find("bndbox")
    texts = [] if corners is None else [_text(corners, corner) for corner in CORNERS]
    numbers = finite_numbers(texts, 4)
    if numbers is None:
        return "box-number", f"bndbox is {shown(texts)}; expected numbers {', '.join(CORNERS)}"
    if not name:
        return "class-unknown", "has no name"
    x_min, y_min, x_max, y_max = numbers
    return Box(class_name=name, x=x_min - 1, y=y_min - 1, width=x_max - x_min + 1, height=y_max - y_min + 1)


def _text(element: ElementTree.Element, name: str) -> str:
    return (element.findtext(name) or "").strip()
