"""Read the cases of a segmentation data set: imagesTr and labelsTr, or the files listed in dataset.json."""

import os
from pathlib import Path
from typing import Any, TypeVar

from mdkd_auto.core.records import Case
from mdkd_auto.core.text import is_utf8
from mdkd_auto.datasets.case_names import NOT_UTF8, split_name, visible_files
from mdkd_auto.datasets.cases_csv import name_problems, read_case_table, stated_patient
from mdkd_auto.datasets.dataset_json import Description, Labels
from mdkd_auto.datasets.links import dangling, linked_cases
from mdkd_auto.datasets.problems import Problem, errors_of, problem, problem_of
from mdkd_auto.formats.companion_files import Companions
from mdkd_auto.formats.dicom import CONVERT, find_dicom
from mdkd_auto.formats.file_endings import ends_in, output_ending

SLICER = ".seg"  # between name and ending in segmentations saved by 3-D Slicer
Key = TypeVar("Key", int, str)
Files = dict[str, tuple[tuple[str, ...], str]]  # case -> its images, one per channel, and its label


def read_segmented(folder: Path, description: Description) -> tuple[tuple[Case, ...], Labels, list[Problem]]:
    """Return the sound cases, the classes, and the problems of the others."""
    files, problems = (_listed_files if description.entries else _scanned_files)(folder, description)
    broken = {error.case_id for error in errors_of(problems)}
    rows, findings = read_case_table(folder / "cases.csv", set(files) | broken | linked_cases(folder))
    problems += [problem_of(folder.name, finding) for finding in findings]
    cases = []
    for case_id, (images, label) in sorted(files.items()):
        if case_id not in broken:
            row = rows.get(case_id, {})
            patient_id, by = stated_patient(row, case_id)
            split: Any = row.get("split", "")
            cases.append(
                Case(case_id=case_id, images=images, label=label, patient_id=patient_id, patient_by=by, split=split)
            )
    if not files and not errors_of(problems):
        place = folder / "imagesTr"
        message = f"holds no files ending in {description.file_ending}, the file_ending of dataset.json"
        dicom = find_dicom(place)
        message, remedy = (message, "") if dicom is None else (f"{message}, but DICOM ({dicom})", CONVERT)
        problems.append(problem("no-cases", message, dataset=folder.name, file=place, remedy=remedy))
    number = description.number_of_cases
    if files and number is not None and number != len(files):
        message = f"says numTraining {number}, the folder holds {len(files)} cases"
        problems.append(problem("number-of-cases", message, dataset=folder.name, file=folder / "dataset.json"))
    return tuple(cases), description.labels, problems + name_problems(folder.name, sorted(files))


def _scanned_files(folder: Path, description: Description) -> tuple[Files, list[Problem]]:
    """Find the files of imagesTr and labelsTr."""
    missing = [folder_name for folder_name in ("imagesTr", "labelsTr") if not (folder / folder_name).is_dir()]
    if missing:
        return {}, [
            problem("folder-missing", f"has no folder {folder_name}", dataset=folder.name, file=folder)
            for folder_name in missing
        ]
    scan = _Scan(folder, description)
    scan.find_images()
    scan.find_labels()
    scan.compare()
    return scan.files(), scan.problems


class _Scan:
    """Images by case and channel, labels by case, and problems with their names. Endings ignore case."""

    def __init__(self, folder: Path, description: Description) -> None:
        self.name, self.description, self.ending = folder.name, description, description.file_ending
        self.images_folder, self.labels_folder = folder / "imagesTr", folder / "labelsTr"
        self.images: dict[str, dict[int, Path]] = {}
        self.labels: dict[str, Path] = {}
        self.problems: list[Problem] = []

    def report(self, kind: str, file: Path, found: str, case_id: str = "", remedy: str = "") -> None:
        self.problems.append(problem(kind, found, dataset=self.name, case_id=case_id, file=file, remedy=remedy))

    def find_images(self) -> None:
        names = visible_files(self.images_folder)
        companions = Companions(self.images_folder, names)
        for name in names:
            file, named = self.images_folder / name, split_name(name, self.ending)
            if not ends_in(name, self.ending):
                self._report_unread(file, companions)
            elif named is None or not is_utf8(name):
                case_id = name[: len(name) - len(self.ending)] if named is None else named[0]
                wrong = f"not named {{case}}_0000{self.ending}" if is_utf8(name) else f"its name {NOT_UTF8}"
                self.report("file-name" if is_utf8(name) else "case-name", file, wrong, case_id)
            else:
                self._add(self.images.setdefault(named[0], {}), named[1], file, named[0])

    def find_labels(self) -> None:
        """Masks of JPEG images may be PNG, those of .mhd images .mha, those of .nrrd images may end in .seg.nrrd."""
        names = visible_files(self.labels_folder)
        companions = Companions(self.labels_folder, names)
        usual = output_ending(self.ending)
        for ending in dict.fromkeys((usual, self.ending)):
            labels: dict[str, Path] = {}
            for name in [name for name in names if ends_in(name, ending)]:
                case_id, file = name[: len(name) - len(ending)], self.labels_folder / name
                if not is_utf8(name):
                    self.report("case-name", file, f"its name {NOT_UTF8}", case_id)
                elif case_id in self.labels:
                    self.report("file-unknown", file, f"{self.labels[case_id].name} is read in its place")
                else:
                    self._add(labels, case_id, file, case_id)
            self.labels |= labels
        for name in [name for name in self.labels if name.lower().endswith(SLICER) and name not in self.images]:
            if self.ending == ".nrrd" and name[: -len(SLICER)] not in self.labels:
                self.labels[name[: -len(SLICER)]] = self.labels.pop(name)
        for name in names:
            if not ends_in(name, usual) and not ends_in(name, self.ending):
                self._report_unread(self.labels_folder / name, companions)

    def compare(self) -> None:
        """Check that every case has its channels and a label, and nothing else."""
        channels = self.description.channel_names
        for case_id in sorted(self.images.keys() | self.labels.keys()):
            have = self.images.get(case_id, {})
            if not have:
                self.report("label-extra", self.labels[case_id], f"no image {case_id}_0000{self.ending}", case_id)
                continue
            for channel in sorted(set(have) ^ set(range(len(channels)))):
                if channel < len(channels):
                    message = f"missing (channel {channel}, {channels[channel]})"
                    self.report("image-missing", self._image(case_id, channel), message, case_id)
                else:
                    message = f"one channel too many; dataset.json names {len(channels)}"
                    self.report("image-extra", have[channel], message, case_id)
            if case_id not in self.labels:
                self.report("label-missing", self._label(case_id), "missing", case_id)

    def files(self) -> Files:
        channels = range(len(self.description.channel_names))
        return {
            case_id: (tuple(str(self._image(case_id, channel)) for channel in channels), str(self._label(case_id)))
            for case_id in self.images
        }

    def _image(self, case_id: str, channel: int) -> Path:
        """Return the file, or its expected path."""
        return self.images[case_id].get(channel, self.images_folder / f"{case_id}_{channel:04d}{self.ending}")

    def _label(self, case_id: str) -> Path:
        return self.labels.get(case_id, self.labels_folder / f"{case_id}{self.ending}")

    def _add(self, files: dict[Key, Path], key: Key, file: Path, case_id: str) -> None:
        if key in files:
            self.report("case-twice", file, f"is the same case and channel as {files[key].name}", case_id)
        else:
            files[key] = file

    def _report_unread(self, file: Path, companions: Companions) -> None:
        if (unread := companions.unread(file.name, self.ending)) is not None:
            self.report("file-unknown", file, unread.found, remedy=unread.remedy)


def _listed_files(folder: Path, description: Description) -> tuple[Files, list[Problem]]:
    """Return the files of the ``dataset`` entries of dataset.json, relative to its folder."""
    channels = len(description.channel_names)
    files: Files = {}
    problems = []
    for case_id, (images, label) in description.entries.items():
        paths = [os.path.normpath(folder / name) for name in (*images, label)]
        files[case_id] = (tuple(paths[:-1]), paths[-1])
        if len(images) != channels:
            kind = "image-missing" if len(images) < channels else "image-extra"
            message = f"field 'dataset' lists {len(images)} images for {channels} channels"
            problems.append(problem(kind, message, dataset=folder.name, case_id=case_id, file=folder / "dataset.json"))
        for path in paths:
            if not os.path.isfile(path):
                kind = "label-missing" if path == paths[-1] else "image-missing"
                aim = dangling(Path(path))
                kind, message = (kind, "does not exist") if aim is None else ("link-dangling", aim)
                message = f"{message}; field 'dataset' of dataset.json names it"
                problems.append(problem(kind, message, dataset=folder.name, case_id=case_id, file=path))
    return files, problems
