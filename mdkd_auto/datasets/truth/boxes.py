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
    image_files = ImageFiles(folder, description)
    images = folder / "imagesTr"
    if images.is_dir():
        image_files.add_folder(images)
        image_files.check_channels()
        image_files.check_number()
    else:
        image_files.report("folder-missing", "has no folder imagesTr", folder, remedy="images go to imagesTr")
    _check_planar(image_files)
    rows, findings = read_case_table(folder / "cases.csv", set(image_files.files) | linked_cases(folder))
    names = _names(image_files)
    annotations = _read_annotations(image_files, names)
    for finding in [*findings, *(annotations.findings if annotations else [])]:
        image_files.report_finding(finding, names.get(finding.part, ""))
    if annotations is None:
        return (), description.labels, image_files.problems + name_problems(folder.name, sorted(image_files.files))
    labels = box_classes(image_files, annotations)
    listed = _match(image_files, annotations.images, names)
    frames = read_frames(image_files, listed)
    misread = has_other_layout(image_files, annotations, listed, drawn_sizes(frames, listed))
    listed = turn_upright(image_files, listed, {} if misread else frames)
    boxes: dict[str, tuple[Box, ...]] = dict.fromkeys(listed, ())
    if not misread:  # otherwise every box is wrong for this reason
        for case_id, annotated in listed.items():
            size = upright_size(frames, case_id)
            boxes[case_id] = sound_boxes(image_files, case_id, annotated, size, labels, annotations.layout)
    check_classes(image_files, annotations.images, labels)
    labelled = labelled_cases(image_files, annotations, listed)
    return (
        _cases(image_files, labelled, boxes, rows),
        labels,
        image_files.problems + name_problems(folder.name, sorted(image_files.files)),
    )


def _check_planar(image_files: ImageFiles) -> None:
    for case_id, files in sorted(image_files.files.items()):
        for path in files.values():
            if image_ending(path.name) not in PLANAR_ENDINGS:
                image_files.report("not-2d", "is a volume, or may be one", path, case_id)


def _names(image_files: ImageFiles) -> dict[str, str]:
    """Map every name annotations may use to its case: file names, with and without channel and ending."""
    names = {case_id: case_id for case_id in image_files.files}
    stems, files = {}, {}
    for case_id, channels in image_files.files.items():
        for path in channels.values():
            stem = path.name[: len(path.name) - len(image_ending(path.name))]
            stems[stem] = case_id
            for ending in spellings(path.name[len(stem) :]):
                names[case_id + ending] = files[stem + ending] = case_id
    return stems | names | files


def _read_annotations(image_files: ImageFiles, names: dict[str, str]) -> Annotations | None:
    """Read the annotations of the only format present; None unless exactly one is."""
    folder = image_files.folder
    present = [name for name in (COCO, VOC, DEEP_LESION) if (folder / name).exists()]
    if not present:
        message = f"has no annotations: none of {COCO}, {VOC} and {DEEP_LESION}"
        others = [name for name in visible_files(folder) if name.endswith(".json") and name not in OTHER_JSON]
        hint = f"; is {others[0]} meant? COCO's file is named {COCO}" if others else ""
        image_files.report("annotations-missing", f"{message}{hint}", folder)
        return None
    if len(present) > 1:
        image_files.report("annotations-several", f"has annotations more than once: {', '.join(present)}", folder)
        return None
    path = folder / present[0]
    if path.is_dir() != (present[0] == VOC):
        message = "is a folder; expected a file" if path.is_dir() else "is a file; expected a folder of .xml files"
        image_files.report("annotations-syntax", message, path)
        return None
    if present[0] == COCO:
        return read_coco(path)
    if present[0] == VOC:
        return read_voc(path)
    return read_deep_lesion(path, names, image_files.description.labels)


def _match(image_files: ImageFiles, images: list[Annotated], names: dict[str, str]) -> dict[str, Annotated]:
    """Match annotated images to cases, each image once."""
    listed: dict[str, Annotated] = {}
    folder = image_files.folder / "imagesTr"
    deeper = {name for place, _, inside in os.walk(folder) if Path(place) != folder for name in inside}
    for annotated in images:
        case_id = next((names[name] for name in (annotated.file_name, *annotated.other_names) if name in names), None)
        for finding in annotated.findings:
            image_files.report_finding(finding, case_id or annotated.file_name)
        if case_id is None:
            where = (
                "only in a subfolder of imagesTr, which is not read" if annotated.file_name in deeper else "not there"
            )
            image_files.report(
                "image-absent",
                f"lists {annotated.file_name}, which is {where}",
                Path(annotated.file),
                annotated.file_name,
            )
        elif case_id in listed:
            image_files.report(
                "image-listed-twice", f"lists {annotated.file_name} more than once", Path(annotated.file), case_id
            )
        else:
            listed[case_id] = annotated
        namesake = names.get(annotated.stem)
        if case_id is not None and namesake not in {None, case_id}:
            message = f"has the name of case {namesake}, but says filename {annotated.file_name}"
            for contradicted in (namesake or "", case_id):
                image_files.report("annotations-field", message, Path(annotated.file), contradicted)
    for case_id, files in sorted(image_files.files.items()):
        if case_id not in listed:
            image_files.report(
                "image-unlisted", "is not listed in the annotations", next(iter(files.values())), case_id
            )
    return listed


def _cases(
    image_files: ImageFiles,
    listed: dict[str, Annotated],
    boxes: dict[str, tuple[Box, ...]],
    rows: dict[str, dict[str, str]],
) -> tuple[Case, ...]:
    """Build the cases; cases.csv takes precedence over patients and splits from annotations."""
    broken = {error.case_id for error in errors_of(image_files.problems)}
    cases = []
    for case_id, one in sorted(listed.items()):
        if case_id not in broken:
            row, files = rows.get(case_id, {}), image_files.files[case_id]
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
