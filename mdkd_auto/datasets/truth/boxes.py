"""Read the cases of a detection data set: imagesTr with COCO, Pascal VOC or DeepLesion annotations."""

import os
from pathlib import Path
from typing import Any

from mdkd_auto.core.records import Box, Case
from mdkd_auto.datasets.case_names import visible_files
from mdkd_auto.datasets.cases_csv import name_problems, read_case_table, stated_patient
from mdkd_auto.datasets.dataset_json import Description, Labels
from mdkd_auto.datasets.image_files import ImageFiles
from mdkd_auto.datasets.links import linked_cases
from mdkd_auto.datasets.problems import Problem, errors_of
from mdkd_auto.datasets.truth.annotations import Annotated, Annotations
from mdkd_auto.datasets.truth.box_checks import (
    box_classes,
    check_classes,
    has_other_layout,
    labelled_cases,
    sound_boxes,
)
from mdkd_auto.datasets.truth.box_frames import drawn_sizes, read_frames, turn_upright, upright_size
from mdkd_auto.datasets.truth.coco import read_coco
from mdkd_auto.datasets.truth.deep_lesion import read_deep_lesion
from mdkd_auto.datasets.truth.voc import read_voc
from mdkd_auto.formats.file_endings import PLANAR_ENDINGS, image_ending, spellings

COCO, VOC, DEEP_LESION = "annotations.json", "Annotations", "DL_info.csv"
OTHER_JSON = ("dataset.json", "splits_final.json")


def read_boxed(folder: Path, description: Description) -> tuple[tuple[Case, ...], Labels, list[Problem]]:
    """Return the sound cases, the classes, and all problems.

    Classes come from dataset.json or else from the annotations, numbered from 1.
    An image listed without boxes is a negative case with boxes (). An image with an excluded annotation is unlabelled
    and becomes no case.
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
    rows, findings = read_case_table(folder / "cases.csv", set(found.files) | linked_cases(folder))
    names = _names(found)
    annotations = _read_annotations(found, names)
    for finding in [*findings, *(annotations.findings if annotations else [])]:
        found.report_finding(finding, names.get(finding.part, ""))
    if annotations is None:
        return (), description.labels, found.problems + name_problems(folder.name, sorted(found.files))
    labels = box_classes(found, annotations)
    listed = _match(found, annotations.images, names)
    frames = read_frames(found, listed)
    misread = has_other_layout(found, annotations, listed, drawn_sizes(frames, listed))
    listed = turn_upright(found, listed, {} if misread else frames)
    boxes: dict[str, tuple[Box, ...]] = dict.fromkeys(listed, ())
    if not misread:  # otherwise every box is wrong for this reason
        for case_id, one in listed.items():
            size = upright_size(frames, case_id)
            boxes[case_id] = sound_boxes(found, case_id, one, size, labels, annotations.layout)
    check_classes(found, annotations.images, labels)
    labelled = labelled_cases(found, annotations, listed)
    return (
        _cases(found, labelled, boxes, rows),
        labels,
        found.problems + name_problems(folder.name, sorted(found.files)),
    )


def _check_planar(found: ImageFiles) -> None:
    for case_id, files in sorted(found.files.items()):
        for path in files.values():
            if image_ending(path.name) not in PLANAR_ENDINGS:
                found.report("not-2d", "is a volume, or may be one", path, case_id)


def _names(found: ImageFiles) -> dict[str, str]:
    """Map every name annotations may use to its case: file names, with and without channel and ending."""
    names = {case_id: case_id for case_id in found.files}
    stems, files = {}, {}
    for case_id, channels in found.files.items():
        for path in channels.values():
            stem = path.name[: len(path.name) - len(image_ending(path.name))]
            stems[stem] = case_id
            for ending in spellings(path.name[len(stem) :]):
                names[case_id + ending] = files[stem + ending] = case_id
    return stems | names | files


def _read_annotations(found: ImageFiles, names: dict[str, str]) -> Annotations | None:
    """Read the annotations of the only format present; None unless exactly one is."""
    folder = found.folder
    present = [name for name in (COCO, VOC, DEEP_LESION) if (folder / name).exists()]
    if not present:
        words = f"has no annotations: none of {COCO}, {VOC} and {DEEP_LESION}"
        others = [name for name in visible_files(folder) if name.endswith(".json") and name not in OTHER_JSON]
        hint = f"; is {others[0]} meant? COCO's file is named {COCO}" if others else ""
        found.report("annotations-missing", f"{words}{hint}", folder)
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
    """Match annotated images to cases, each image once."""
    listed: dict[str, Annotated] = {}
    folder = found.folder / "imagesTr"
    deeper = {name for place, _, inside in os.walk(folder) if Path(place) != folder for name in inside}
    for one in images:
        case_id = next((names[name] for name in (one.file_name, *one.other_names) if name in names), None)
        for finding in one.findings:
            found.report_finding(finding, case_id or one.file_name)
        if case_id is None:
            where = "only in a subfolder of imagesTr, which is not read" if one.file_name in deeper else "not there"
            found.report("image-absent", f"lists {one.file_name}, which is {where}", Path(one.file), one.file_name)
        elif case_id in listed:
            found.report("image-listed-twice", f"lists {one.file_name} more than once", Path(one.file), case_id)
        else:
            listed[case_id] = one
        namesake = names.get(one.stem)
        if case_id is not None and namesake not in {None, case_id}:
            words = f"has the name of case {namesake}, but says filename {one.file_name}"
            for contradicted in (namesake or "", case_id):
                found.report("annotations-field", words, Path(one.file), contradicted)
    for case_id, files in sorted(found.files.items()):
        if case_id not in listed:
            found.report("image-unlisted", "is not listed in the annotations", next(iter(files.values())), case_id)
    return listed


def _cases(
    found: ImageFiles, listed: dict[str, Annotated], boxes: dict[str, tuple[Box, ...]], rows: dict[str, dict[str, str]]
) -> tuple[Case, ...]:
    """Build the cases; cases.csv takes precedence over patients and splits from annotations."""
    broken = {one.case_id for one in errors_of(found.problems)}
    cases = []
    for case_id, one in sorted(listed.items()):
        if case_id not in broken:
            row, files = rows.get(case_id, {}), found.files[case_id]
            split: Any = row.get("split") or one.split
            patient_id, by = stated_patient(row, case_id, one.patient_id)
            cases.append(
                Case(
                    case_id=case_id,
                    images=tuple(str(files[channel]) for channel in sorted(files)),
                    boxes=boxes[case_id],
                    spacing_mm=one.spacing_mm,
                    patient_id=patient_id,
                    patient_by=by,
                    split=split,
                )
            )
    return tuple(cases)
