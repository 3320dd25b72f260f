"""The cases of a detection data set: images of imagesTr, boxes from COCO, Pascal VOC or DeepLesion annotations."""

from pathlib import Path
from typing import Any

import msgspec

from mdkd_auto.data.annotated import Annotated, Annotations
from mdkd_auto.data.case_table import name_problems, read_case_table
from mdkd_auto.data.coco import read_coco
from mdkd_auto.data.deep_lesion import read_deep_lesion
from mdkd_auto.data.description import SAFE_NAMES, Description, Labels, is_name
from mdkd_auto.data.endings import PLANAR_ENDINGS, image_ending
from mdkd_auto.data.image_files import ImageFiles, planar_size
from mdkd_auto.data.problems import Problem, errors_of
from mdkd_auto.data.voc import read_voc
from mdkd_auto.errors import ImageError
from mdkd_auto.records import Box, Case
from mdkd_auto.strict_json import shown

COCO, VOC, DEEP_LESION = "annotations.json", "Annotations", "DL_info.csv"
TOLERANCE = 1.0  # pixels that a box may stand out of its image without a word: rounding, counting from 0 or 1

Size = tuple[int, int]  # width, height


def read_boxed(folder: Path, description: Description) -> tuple[tuple[Case, ...], Labels, list[Problem]]:
    """The cases whose files and boxes are as they should be, the classes, and what is wrong with the others.

    Classes are those of dataset.json; where it names none, the annotations', numbered from 1.
    An image that is listed without boxes shows nothing: its case has boxes ().
    """
    found = ImageFiles(folder, description)
    images = folder / "imagesTr"
    if images.is_dir():
        found.add_folder(images)
        found.check_channels()
        found.check_number()
    else:
        found.report("folder-missing", "has no folder imagesTr", folder, remedy="images go to imagesTr")
    _check_planar(found)
    rows, findings = read_case_table(folder / "cases.csv", set(found.files))
    names = _names(found)
    annotations = _read_annotations(found, names)
    for finding in [*findings, *(annotations.findings if annotations else [])]:
        found.report_finding(finding, names.get(finding.part, ""))
    if annotations is None:
        return (), description.labels, found.problems + name_problems(folder.name, sorted(found.files))
    labels = description.labels or {name: (value,) for value, name in enumerate(annotations.classes, start=1)}
    listed = _match(found, annotations.images, names)
    sizes = {case_id: _size(found, case_id, listed.get(case_id)) for case_id in sorted(found.files)}
    boxes = {case_id: _sound_boxes(found, case_id, one, sizes[case_id], labels) for case_id, one in listed.items()}
    _check_classes(found, annotations.images, labels)
    return _cases(found, listed, boxes, rows), labels, found.problems + name_problems(folder.name, sorted(found.files))


def _check_planar(found: ImageFiles) -> None:
    for case_id, files in sorted(found.files.items()):
        for path in files.values():
            if image_ending(path.name) not in PLANAR_ENDINGS:
                found.report("not-2d", "is a volume, or may be one", path, case_id)


def _names(found: ImageFiles) -> dict[str, str]:
    """Names by which annotations may call a case -> the case: its files, with and without channel and ending."""
    names = {case_id: case_id for case_id in found.files}
    stems, files = {}, {}
    for case_id, channels in found.files.items():
        for path in channels.values():
            stem = path.name[: len(path.name) - len(image_ending(path.name))]
            names[case_id + path.name[len(stem) :]] = case_id
            stems[stem], files[path.name] = case_id, case_id
    return stems | names | files


def _read_annotations(found: ImageFiles, names: dict[str, str]) -> Annotations | None:
    """Those of the one format that is there; None where there is not exactly one."""
    folder = found.folder
    present = [name for name in (COCO, VOC, DEEP_LESION) if (folder / name).exists()]
    if not present:
        words = f"has no annotations: none of {COCO}, {VOC} and {DEEP_LESION}"
        found.report("annotations-missing", words, folder)
        return None
    if len(present) > 1:
        found.report("annotations-several", f"has annotations more than once: {', '.join(present)}", folder)
        return None
    path = folder / present[0]
    if path.is_dir() != (present[0] == VOC):
        words = "is a folder; expected a file" if path.is_dir() else "is a file; expected a folder of .xml files"
        found.report("annotations-syntax", words, path)
        return None
    if present[0] == COCO:
        return read_coco(path)
    if present[0] == VOC:
        return read_voc(path)
    return read_deep_lesion(path, names, found.description.labels)


def _match(found: ImageFiles, images: list[Annotated], names: dict[str, str]) -> dict[str, Annotated]:
    """Case -> what the annotations say of it, every image once."""
    listed: dict[str, Annotated] = {}
    for one in images:
        case_id = names.get(one.file_name)
        for finding in one.findings:
            found.report_finding(finding, case_id or one.file_name)
        if case_id is None:
            found.report("image-absent", f"lists {one.file_name}, which is not there", Path(one.file), one.file_name)
        elif case_id in listed:
            found.report("image-listed-twice", f"lists {one.file_name} more than once", Path(one.file), case_id)
        else:
            listed[case_id] = one
    for case_id, files in sorted(found.files.items()):
        if case_id not in listed:
            found.report("image-unlisted", "is not listed in the annotations", next(iter(files.values())), case_id)
    return listed


def _size(found: ImageFiles, case_id: str, one: Annotated | None) -> Size | None:
    """Width and height of the case's images, which are alike and as its annotations say; None if they cannot be read.

    Reads the files' headers.
    """
    first: Size | None = None
    for path in found.files[case_id].values():
        if image_ending(path.name) not in PLANAR_ENDINGS:
            continue
        try:
            size = planar_size(path)
        except ImageError as error:
            found.report(error.kind, str(error), path, case_id)
            continue
        first = first or size
        stated = one.size if one is not None and one.size is not None else first
        if size != stated:
            by = "the annotations say" if one is not None and one.size is not None else "its other channel is"
            words = f"is {size[0]} x {size[1]} pixels, not {stated[0]} x {stated[1]} as {by}"
            found.report("image-size", words, path, case_id)
    return first


def _sound_boxes(found: ImageFiles, case_id: str, one: Annotated, size: Size | None, labels: Labels) -> tuple[Box, ...]:
    """The boxes that are inside the image or cut off at its edge, each once; what is wrong with them is reported."""
    kept: dict[Box, Box] = {}  # as written -> as kept
    for box in one.boxes:
        name = box.class_name if is_name(box.class_name) else shown(box.class_name)
        where = f"box of {name} at x {box.x:g}, y {box.y:g}, {box.width:g} x {box.height:g}"
        if box.class_name not in labels:
            words = f"{where}: the class is not in dataset.json ({', '.join(labels)})"
            found.report("class-unknown", words, Path(one.file), case_id)
        if box.width <= 0 or box.height <= 0:
            found.report("box-empty", f"{where} has no area", Path(one.file), case_id)
        elif box in kept:
            found.report("box-twice", f"{where} stands there twice", Path(one.file), case_id)
        elif size is not None:
            inside, beyond = _clipped(box, size)
            edges = f"the image of {size[0]} x {size[1]} pixels"
            if inside is None:
                found.report("box-outside", f"{where} is wholly outside {edges}", Path(one.file), case_id)
                continue
            if beyond > TOLERANCE:
                found.report("box-clipped", f"{where} is {beyond:g} pixels beyond {edges}", Path(one.file), case_id)
            kept[box] = inside
    return tuple(kept.values())


def _clipped(box: Box, size: Size) -> tuple[Box | None, float]:
    """The part of the box inside the image, None where there is none; and how far it stood out, in pixels."""
    left, top = max(box.x, 0.0), max(box.y, 0.0)
    right, bottom = min(box.x + box.width, size[0]), min(box.y + box.height, size[1])
    beyond = max(-box.x, -box.y, box.x + box.width - size[0], box.y + box.height - size[1], 0.0)
    if beyond == 0:
        return box, 0.0
    if right <= left or bottom <= top:
        return None, beyond
    return msgspec.structs.replace(box, x=left, y=top, width=right - left, height=bottom - top), beyond


def _check_classes(found: ImageFiles, images: list[Annotated], labels: Labels) -> None:
    """There are boxes, and of every class; names of classes are safe to show."""
    present = {box.class_name: Path(one.file) for one in images for box in one.boxes}
    if not present:
        found.report("no-boxes", "its annotations hold no boxes", found.folder)
        return
    for name in labels:
        if not is_name(name):  # of the annotations; dataset.json's are checked before
            words = f"a class is named {shown(name)}; expected {SAFE_NAMES}"
            found.report("annotations-field", words, present.get(name, found.folder), remedy="rename the class")
        elif name not in present:
            remedy = "right where other data sets have it; else correct labels or the annotations"
            found.report("class-without-cases", f"no box is of class {name}", found.folder, remedy=remedy)


def _cases(
    found: ImageFiles, listed: dict[str, Annotated], boxes: dict[str, tuple[Box, ...]], rows: dict[str, dict[str, str]]
) -> tuple[Case, ...]:
    """cases.csv goes before what the annotations say of patients and splits."""
    broken = {one.case_id for one in errors_of(found.problems)}
    cases = []
    for case_id, one in sorted(listed.items()):
        if case_id not in broken:
            row, files = rows.get(case_id, {}), found.files[case_id]
            split: Any = row.get("split") or one.split
            cases.append(
                Case(
                    case_id=case_id, images=tuple(str(files[channel]) for channel in sorted(files)),
                    boxes=boxes[case_id], spacing_mm=one.spacing_mm,
                    patient_id=row.get("patient_id") or one.patient_id or case_id, split=split,
                )
            )  # fmt: skip
    return tuple(cases)
