"""Check the boxes of a detection data set: layout, position, classes, exclusions."""

from pathlib import Path

import msgspec

from mdkd_auto.core.records import Box
from mdkd_auto.core.text import shown
from mdkd_auto.datasets.dataset_json import SAFE_NAMES, Labels, is_name, likeness_of_name
from mdkd_auto.datasets.image_files import ImageFiles
from mdkd_auto.datasets.problems import Finding, errors_of
from mdkd_auto.datasets.truth.annotations import Annotated, Annotations
from mdkd_auto.datasets.truth.box_layouts import TOLERANCE, Layout, other_layouts, suspect_places
from mdkd_auto.datasets.truth.placeholder_classes import is_no_object
from mdkd_auto.formats.exif import Size

NAMES_SHOWN = 10  # per message
LEAST_INSIDE = 0.5  # fraction of a box inside the image; below it, another layout is likelier than a truncated object


def box_classes(image_files: ImageFiles, annotations: Annotations) -> Labels:
    """Return the classes of dataset.json, or else of the annotations. Reports classes that are not objects."""
    stated = image_files.description.labels
    for name in filter(is_no_object, annotations.classes):
        message = f"annotations are of class {_safe(name)}, which names no object"
        image_files.report("class-no-object", message, image_files.folder)
    unused = [_safe(name) for name in annotations.unused if name not in stated]
    if unused and annotations.classes:  # without boxes, every category is unused
        more = f" and {len(unused) - NAMES_SHOWN} more" if len(unused) > NAMES_SHOWN else ""
        message = f"categories without an annotation: {', '.join(unused[:NAMES_SHOWN])}{more}"
        image_files.report("category-unused", message, image_files.folder)
    objects = [name for name in annotations.classes if not is_no_object(name)]
    return stated or {name: (value,) for value, name in enumerate(objects, start=1)}


def _safe(name: str) -> str:
    return name if is_name(name) else shown(name)


def has_other_layout(
    image_files: ImageFiles, annotations: Annotations, listed: dict[str, Annotated], sizes: dict[str, Size | None]
) -> bool:
    """Whether the boxes certainly use another layout than the format's. Reports this, or a doubt."""
    boxes: list[Box] = []
    limits: list[Size] = []
    for case_id, annotated in listed.items():
        size = sizes[case_id]
        if size is not None and annotated.size in {None, size}:
            objects = [box for box in annotated.boxes if not is_no_object(box.class_name)]
            boxes += objects
            limits += [size] * len(objects)
    suspicion = annotations.suspicion
    if suspicion is None or not suspicion.certain:
        suspicion = suspect_places(boxes, limits, annotations.layout) or suspicion
    if suspicion is None:
        return False
    image_files.report(suspicion.kind, suspicion.found, image_files.folder, remedy=suspicion.remedy)
    return suspicion.certain


def sound_boxes(
    image_files: ImageFiles, case_id: str, annotated: Annotated, size: Size | None, labels: Labels, layout: Layout
) -> tuple[Box, ...]:
    """Return boxes inside the image or clipped at its edge, without duplicates; reports the others."""
    kept: dict[Box, Box] = {}  # as written -> as kept
    for box in annotated.boxes:
        if is_no_object(box.class_name):
            continue  # an error of the whole data set
        where = f"box of {_safe(box.class_name)} at x {box.x:g}, y {box.y:g}, {box.width:g} x {box.height:g}"
        if box.class_name not in labels:
            image_files.report(
                "class-unknown", f"{where}: {_unknown(box.class_name, labels)}", Path(annotated.file), case_id
            )
        if box.width <= 0 or box.height <= 0:
            negative = box.width < 0 or box.height < 0
            message = "has a negative size: its corners are in the wrong order" if negative else "has no area"
            image_files.report("box-empty", f"{where} {message}", Path(annotated.file), case_id)
        elif box in kept:
            image_files.report("box-twice", f"{where} stands there twice", Path(annotated.file), case_id)
        elif size is not None:
            inside, wrong = _place(box, size, layout)
            if wrong is not None:
                image_files.report(wrong.kind, f"{where} {wrong.found}", Path(annotated.file), case_id, wrong.remedy)
            if inside is not None:
                kept[box] = inside
    return tuple(kept.values())


def _place(box: Box, size: Size, layout: Layout) -> tuple[Box | None, Finding | None]:
    """Return a box clipped to its image, or None if it needs correction; and the problem with its position."""
    inside, beyond = _clipped(box, size)
    if beyond <= TOLERANCE and inside is not None:
        return inside, None
    edges = f"the image of {size[0]} x {size[1]} pixels"
    share = 0.0 if inside is None else inside.width * inside.height / (box.width * box.height)
    likely = other_layouts(box, size, layout) if share < LEAST_INSIDE else ""
    remedy = f"write {layout.name}; the numbers may be {likely}" if likely else ""
    if inside is None:
        return None, Finding("box-outside", "", f"is wholly outside {edges}", remedy)
    if likely:
        return None, Finding("box-layout", "", f"is more than half outside {edges}, and inside as {likely}", remedy)
    return inside, Finding("box-clipped", "", f"is {beyond:g} pixels beyond {edges}")


def _unknown(name: str, labels: Labels) -> str:
    alike = [label for label in labels if likeness_of_name(label) == likeness_of_name(name)]
    hint = f"; {name!r} differs from {alike[0]!r} by case or spaces alone" if alike else ""
    return f"the class is not in dataset.json ({', '.join(labels)}){hint}"


def _clipped(box: Box, size: Size) -> tuple[Box | None, float]:
    """Return the part of a box inside the image, None if empty; and the overhang in pixels."""
    left, top = max(box.x, 0.0), max(box.y, 0.0)
    right, bottom = min(box.x + box.width, size[0]), min(box.y + box.height, size[1])
    beyond = max(-box.x, -box.y, box.x + box.width - size[0], box.y + box.height - size[1], 0.0)
    if beyond == 0:
        return box, 0.0
    if right <= left or bottom <= top:
        return None, beyond
    return msgspec.structs.replace(box, x=left, y=top, width=right - left, height=bottom - top), beyond


def check_classes(image_files: ImageFiles, images: list[Annotated], labels: Labels) -> None:
    """Check that there are boxes of every class, and that class names are safe to display."""
    present = {
        box.class_name: Path(annotated.file)
        for annotated in images
        if not annotated.left_out
        for box in annotated.boxes
    }
    if not present:
        image_files.report("no-boxes", "its annotations hold no boxes", image_files.folder)
        return
    for name in labels:
        if not is_name(name):  # from the annotations; dataset.json's are checked earlier
            message = f"a class is named {shown(name)}; expected {SAFE_NAMES}"
            image_files.report(
                "annotations-field", message, present.get(name, image_files.folder), remedy="rename the class"
            )
        elif name not in present:
            remedy = "right where other data sets have it; else correct labels or the annotations"
            image_files.report("class-without-cases", f"no box is of class {name}", image_files.folder, remedy=remedy)
    first_of: dict[str, str] = {}
    for name in labels:
        twin = first_of.setdefault(likeness_of_name(name), name)
        if twin != name:
            message = f"class {name!r} and class {twin!r} differ by case or spaces alone"
            image_files.report("class-names-alike", message, image_files.folder)


def labelled_cases(
    image_files: ImageFiles, annotations: Annotations, listed: dict[str, Annotated]
) -> dict[str, Annotated]:
    """Return the cases whose annotations are all known. One of an unknown image may belong to any without boxes."""
    broken = {error.case_id for error in errors_of(image_files.problems)}
    labelled = {}
    unplaced = f"has no box, and annotations that name no image may be of this one: {annotations.unplaced}"
    for case_id, one in listed.items():
        why = one.left_out or (unplaced if annotations.unplaced and not one.boxes else "")
        if not why:
            labelled[case_id] = one
        elif case_id not in broken:
            image_files.report("image-unlabelled", why, next(iter(image_files.files[case_id].values())), case_id)
    return labelled
