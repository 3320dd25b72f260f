"""Every kind of problem with raw data: its severity and its remedy."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import msgspec

from mdkd_auto.core.records import Dataset, Record
from mdkd_auto.core.text import escaped

Severity = Literal["error", "warning"]
CASES_SHOWN = 5  # per kind of warning on the screen; the written report lists all


class Kind(NamedTuple):
    """An error stops the work or, on request, excludes its case; a warning is only reported."""

    severity: Severity
    remedy: str


KINDS: dict[str, Kind] = {
    # the folder and its description
    "folder-name": Kind("error", "rename it to DatasetNNN_Name, like Dataset011_LungTumour"),
    "data-set-is-a-file": Kind("warning", "unpack it if it is an archive of a data set; else remove it"),
    "no-data-sets": Kind("error", "put DatasetNNN_Name folders in nnU-Net's layout there"),
    "folder-missing": Kind("error", "images go to imagesTr, labels to labelsTr"),
    "link-dangling": Kind("error", "fetch its target (git annex get, dvc pull, mount the drive), or remove it"),
    "name-almost": Kind("error", "rename it, saved as the file that is read; or remove it"),
    "number-twice": Kind("error", "give one of them another number"),
    "dataset-json-missing": Kind("error", "every data set needs a dataset.json; see docs/raw_data.md"),
    "dataset-json-syntax": Kind("error", "correct the file; a JSON checker shows the place"),
    "dataset-json-field": Kind("error", "correct the field"),
    "number-of-cases": Kind("warning", "the folder counts; correct numTraining if files are not missing"),
    "cases-csv": Kind("error", "correct or remove the row"),
    "cases-csv-column": Kind("warning", "rename it if it is meant"),
    "patients-alike": Kind("warning", "give one patient one name, and leave the cell empty where it is unknown"),
    "too-few-cases": Kind("error", "add cases of other patients"),
    "splits": Kind("error", "correct cases.csv or splits_final.json"),
    "splits-emptied": Kind(
        "error",
        "put the files of these cases back; or --replan deals the patients out again: runs "
        "trained before are kept, but not used",
    ),
    "splits-changed": Kind(
        "warning", "right where cases were added, removed or given a split; else restore the file or the case"
    ),
    "splits-torn": Kind("error", "--replan deals its patients out again; runs trained before are kept, but not used"),
    "patients-torn": Kind("warning", "the raw folder says so; correct it, or scores flatter the models"),
    "subjects-torn": Kind(
        "warning",
        "if they are one person, say so in column patient_id of cases.csv or by "
        "--patient-pattern, and --replan; else give each case its own patient_id",
    ),
    "patient-unmatched": Kind("error", "widen --patient-pattern, or name its patient in cases.csv"),
    "pattern-unused": Kind("warning", "its patients are told without --patient-pattern; check that this is right"),
    # case files
    "no-cases": Kind("error", "put images named {case}_0000 with this ending there, or correct file_ending"),
    "image-missing": Kind("error", "add the file, or remove the case's other files"),
    "image-extra": Kind("error", "remove the file, or name its channel in dataset.json"),
    "label-missing": Kind("error", "add the label, or remove the case's images"),
    "label-extra": Kind("error", "add the images of this case, or remove the label"),
    "file-name": Kind("error", "name images {case}_0000, one number a channel"),
    "file-unknown": Kind("warning", "ignored"),
    "case-name": Kind("error", "rename the files of the case: letters, digits, '_', '-' and '.' are safe"),
    "case-name-unusual": Kind("warning", "scripts must quote it; letters, digits, '_', '-' and '.' are safe"),
    "case-names-alike": Kind("warning", "some file systems take them for one; rename one of them"),
    "case-twice": Kind("error", "rename or remove one of them"),
    "class-missing": Kind("error", "give its class in column label of cases.csv, or put it into the class's folder"),
    "class-unknown": Kind("error", "correct the class, or declare it in labels of dataset.json"),
    "class-name": Kind("error", "rename the class: letters, digits, spaces, '_' and '-' inside are safe"),
    "class-names-alike": Kind("warning", "if they are one class, give both one name: it would have one output"),
    "class-contradicted": Kind("error", "correct the row, or move the image into the folder of its class"),
    "images-deeper": Kind("error", "put them into the class's folder itself; patients go to cases.csv"),
    "images-beside": Kind("warning", "move the folder into imagesTr if its images are meant, else elsewhere"),
    "splits-by-folders": Kind("warning", "right for splits; name classes that are called so in labels of dataset.json"),
    "split-folder": Kind("error", "give each split the same class folders, or use imagesTr and cases.csv"),
    "class-empty": Kind("warning", "remove the folder if it is not meant to be a class"),
    "class-rare": Kind("warning", "some folds or the test part lack it, and their scores say nothing of it; add cases"),
    "class-without-cases": Kind("warning", "right where other data sets have it; else correct labels or cases.csv"),
    "class-no-object": Kind("error", "remove these boxes; an image without objects is listed without boxes"),
    "category-unused": Kind("warning", "they are not classes; to train one, name it in labels of dataset.json"),
    "one-class": Kind("error", "a classifier needs two classes or more"),
    # boxes
    "annotations-missing": Kind("error", "give boxes as COCO, Pascal VOC or DeepLesion annotations"),
    "annotations-several": Kind("error", "keep the one that is right"),
    "annotations-syntax": Kind("error", "correct the file, or export it anew"),
    "annotations-field": Kind("error", "correct the field"),
    "annotations-crowd": Kind("error", "box each object; set iscrowd to 0 where one brush mask is one object"),
    "annotations-no-size": Kind("warning", "the tool could not open the image; check that the boxes fit it"),
    "annotations-doubtful": Kind("warning", "if they are not to be trusted, remove them and their images"),
    "annotations-elsewhere": Kind("warning", "right for a part of a data set; else add the images"),
    "annotations-other-type": Kind("warning", "right for some of the types; else name them in labels of dataset.json"),
    "annotation-without-image": Kind("error", "name its image, or remove it"),
    "image-absent": Kind("error", "add the image to imagesTr, or remove it from the annotations"),
    "image-unlisted": Kind("error", "whether it shows nothing is unknown: list it, without boxes if so, or remove it"),
    "image-unlabelled": Kind("warning", "it is left out; it may hold objects that its annotations do not name"),
    "image-listed-twice": Kind("error", "list each image once, with all of its boxes"),
    "image-size": Kind("error", "its boxes were drawn on another size: take that image, or correct the annotations"),
    "exif-boxes-turned": Kind("warning", "boxes count as drawn on the stored image; else correct width and height"),
    "exif-boxes-unsure": Kind("warning", "boxes count as drawn on the upright image; else turn them with it"),
    "not-2d": Kind("error", "detection takes 2-D images: save the slices one by one, as PNG"),
    "box-layout": Kind("error", "write the boxes as docs/raw_data.md shows"),
    "box-layout-doubtful": Kind("warning", "look at some boxes"),
    "box-from-zero": Kind("warning", "corners are read as counted from 1; export them that way"),
    "box-number": Kind("error", "correct the box, or remove it"),
    "box-empty": Kind("error", "width and height are above 0; correct the box, or remove it"),
    "box-outside": Kind("error", "correct the box, or remove it"),
    "box-clipped": Kind("warning", "it is cut off at the image's edge; check that it belongs to this image"),
    "box-twice": Kind("warning", "it is kept once"),
    "no-boxes": Kind("error", "a detector needs boxes to learn from"),
    # file contents
    "unreadable": Kind("error", "copy or export it anew"),
    "truncated": Kind("error", "the file breaks off: copy it anew and compare the sizes"),
    "checksum": Kind("error", "its bytes changed after it was written: copy it anew"),
    "not-finite": Kind("error", "replace NaN and infinite voxels, or export the image anew"),
    "absurd-values": Kind("error", "no scanner writes such values: export the image anew"),
    "unusual-values": Kind("warning", "look at the image: a wrong scale or a foreign object?"),
    "exif-turned": Kind("warning", "masks count as drawn on the upright image, as viewers show it; check one"),
    "constant-image": Kind("error", "the image shows nothing: export it anew or remove the case"),
    "shape": Kind("error", "resample the file to the image's grid"),
    "spacing": Kind("error", "correct the header, or resample the file to the image's grid"),
    "spacing-contradicts": Kind("error", "correct the header, or state which is right: spacing_from in dataset.json"),
    "header-contradicts": Kind("error", "correct the header, or export the image anew"),
    "origin": Kind("error", "correct the header, or resample the file to the image's grid"),
    "direction": Kind("error", "correct the header, or resample the file to the image's grid"),
    "label-names": Kind("error", "correct labels of dataset.json, or renumber the file's segments"),
    "label-undeclared": Kind("error", "declare the value in dataset.json, or correct the label"),
    "label-fractional": Kind("error", "a label holds whole class numbers: resample it with nearest neighbour"),
    "label-0-255": Kind("error", "a mask of 0 and 255: replace 255 by the class number 1"),
    "label-empty": Kind("warning", "right for an image without a lesion; else draw the label"),
    "label-full": Kind("warning", "every voxel is labelled: is it the inverse, or a crop?"),
    # comparison of cases
    "orientation": Kind("warning", "read in canonical orientation; check that its axes are really so"),
    "forms-contradict": Kind("warning", "check left and right; spacing_from in dataset.json says which form counts"),
    "sheared": Kind("warning", "volumes are right; distances are measured as if the axes were at right angles"),
    "spacing-stated": Kind("warning", "the images' own spacing counts; correct or remove spacing_mm of dataset.json"),
    "spacing-unusual": Kind("warning", "check the voxel size in the header, and its unit"),
    "mixed-dimensions": Kind("warning", "2-D images and volumes in one data set share only the 2d configuration"),
    "same-image": Kind("error", "one patient twice may be trained and tested on: remove one, or name one patient_id"),
    "same-image-same-patient": Kind("warning", "the image counts twice; remove one"),
    "near-duplicate": Kind("warning", "if they are one picture, remove one or give both one patient_id"),
    "near-duplicate-image": Kind(
        "warning", "look at both: if they are one image, remove one or give both one patient_id in cases.csv"
    ),
    "near-duplicate-train-test": Kind("error", "a test on it would not be fair: remove it, or --allow-duplicates"),
    "same-image-other-dataset": Kind("error", "a source would see the target's test images: remove one of them"),
    "same-patient-other-dataset": Kind("warning", "if it is one person, tests are not independent; else rename one"),
    "refused": Kind("error", "the system does not let this program read it: see its rights, and the disk"),
    "not-checked": Kind("error", "see the message; run the command again"),
}


class Problem(Record, frozen=True, kw_only=True):
    """One problem and its location."""

    kind: str  # key of KINDS
    severity: Severity
    dataset: str
    case_id: str = ""  # or a part of a file that can be excluded on its own; "" for the whole data set
    file: str = ""
    found: str
    remedy: str

    def __str__(self) -> str:
        where = self.file or self.dataset
        return f"{where}: {self.found}; {self.remedy}"


class Finding(NamedTuple):
    """A problem found by code that does not know the data set: kind, file, details."""

    kind: str
    file: str
    found: str
    remedy: str = ""  # "": the kind's remedy
    part: str = ""  # a row or annotation of the file that can be excluded on its own


def problem(kind: str, found: str, *, dataset: str, case_id: str = "", file: object = "", remedy: str = "") -> Problem:
    """Create a problem with the kind's remedy unless another is given. Names that are not UTF-8 are escaped."""
    severity, usual = KINDS[kind]
    return Problem(
        kind=kind,
        severity=severity,
        dataset=escaped(dataset),
        case_id=escaped(case_id),
        file=escaped(str(file)),
        found=escaped(found),
        remedy=escaped(remedy) or usual,
    )


def problem_of(dataset: str, finding: Finding) -> Problem:
    """Assign a finding to a data set."""
    return problem(finding.kind, finding.found, dataset=dataset, file=finding.file, remedy=finding.remedy)


def errors_of(problems: Iterable[Problem]) -> list[Problem]:
    """Filter the errors."""
    return [one for one in problems if one.severity == "error"]


def names_shown(names: Sequence[str]) -> str:
    """Number of names, and the first few."""
    more = ", ..." if len(names) > CASES_SHOWN else ""
    return f"{len(names)} ({', '.join(names[:CASES_SHOWN])}{more})"


def without_broken(datasets: Sequence[Dataset], problems: Iterable[Problem]) -> list[Dataset]:
    """Exclude the cases with errors; a data set with an error of its own is excluded completely."""
    errors = errors_of(problems)
    broken = {(one.dataset, one.case_id) for one in errors}
    kept = []
    for dataset in datasets:
        if (dataset.name, "") in broken:
            continue
        cases = tuple(case for case in dataset.cases if (dataset.name, case.case_id) not in broken)
        if cases or not dataset.cases:  # an empty data set already has an error
            kept.append(msgspec.structs.replace(dataset, cases=cases))
    return kept


def problems_text(problems: Sequence[Problem], full: bool = True) -> str:
    """Format all problems, errors first, by data set and kind. Without ``full``, long lists of warnings are cut."""
    errors, warnings = errors_of(problems), [one for one in problems if one.severity == "warning"]
    lines = [f"{len(errors)} error{_s(errors)}, {len(warnings)} warning{_s(warnings)}"]
    for title, part, limit in (("ERROR", errors, None), ("warning", warnings, None if full else CASES_SHOWN)):
        groups: dict[tuple[str, str, str], list[Problem]] = {}
        for one in part:
            groups.setdefault((one.dataset, one.kind, one.remedy), []).append(one)
        for (dataset, kind, remedy), members in sorted(groups.items()):
            lines.append(f"{title} {kind} in {dataset}: {remedy}")
            lines += [f"    {_line(one)}" for one in members[:limit]]
            if limit is not None and len(members) > limit:
                lines.append(f"    and {len(members) - limit} more")
    return "\n".join(lines) + "\n"


def _line(one: Problem) -> str:
    named = one.case_id in one.file.rsplit("/", 1)[-1] or one.found.startswith(f"{one.case_id}:")
    where = "" if named else f"case {one.case_id}: "
    return f"{where}{one.file}{': ' if one.file else ''}{one.found}"


def _s(items: Sequence[object]) -> str:
    return "" if len(items) == 1 else "s"
