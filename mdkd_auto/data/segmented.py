"""The cases of a segmentation data set: imagesTr and labelsTr, or the files that dataset.json lists."""

import os
from pathlib import Path
from typing import Any

from mdkd_auto.data.case_table import name_problems, read_case_table, stated_patient
from mdkd_auto.data.cases import split_name, visible_files
from mdkd_auto.data.description import Description, Labels
from mdkd_auto.data.endings import output_ending
from mdkd_auto.data.links import dangling
from mdkd_auto.data.problems import Problem, errors_of, problem, problem_of
from mdkd_auto.records import Case

SLICER = ".seg"  # between name and ending of what 3-D Slicer saves as a segmentation
Files = dict[str, tuple[tuple[str, ...], str]]  # case -> its images, one a channel, and its label


def read_segmented(folder: Path, description: Description) -> tuple[tuple[Case, ...], Labels, list[Problem]]:
    """The cases whose files are as they should be, the classes, and what is wrong with the others."""
    files, problems = (_listed_files if description.entries else _scanned_files)(folder, description)
    broken = {one.case_id for one in errors_of(problems)}
    rows, findings = read_case_table(folder / "cases.csv", set(files) | broken)
    problems += [problem_of(folder.name, finding) for finding in findings]
    cases = []
    for case_id, (images, label) in sorted(files.items()):
        if case_id not in broken:
            row = rows.get(case_id, {})
            patient_id, by = stated_patient(row, case_id)
            split: Any = row.get("split", "")
            cases.append(Case(case_id=case_id, images=images, label=label, patient_id=patient_id, patient_by=by,
                              split=split))  # fmt: skip
    if not files and not errors_of(problems):
        found = f"holds no files ending in {description.file_ending}, the file_ending of dataset.json"
        problems.append(problem("no-cases", found, dataset=folder.name, file=folder / "imagesTr"))
    number = description.number_of_cases
    if number is not None and number != len(files):
        found = f"says numTraining {number}, the folder holds {len(files)} cases"
        problems.append(problem("number-of-cases", found, dataset=folder.name, file=folder / "dataset.json"))
    return tuple(cases), description.labels, problems + name_problems(folder.name, sorted(files))


def _scanned_files(folder: Path, description: Description) -> tuple[Files, list[Problem]]:
    """The files of imagesTr and labelsTr."""
    ending, channels = description.file_ending, len(description.channel_names)
    images, labels_folder = folder / "imagesTr", folder / "labelsTr"
    missing = [part for part in (images, labels_folder) if not part.is_dir()]
    if missing:
        return {}, [
            problem("folder-missing", f"has no folder {part.name}", dataset=folder.name, file=folder)
            for part in missing
        ]
    problems: list[Problem] = []

    def report(kind: str, file: Path, found: str, case_id: str = "") -> None:
        problems.append(problem(kind, found, dataset=folder.name, case_id=case_id, file=file))

    found: dict[str, set[int]] = {}
    for name in visible_files(images):
        named = split_name(name, ending)
        if named is not None:
            found.setdefault(named[0], set()).add(named[1])
        elif name.endswith(ending):
            report("file-name", images / name, f"not named {{case}}_0000{ending}", name[: len(name) - len(ending)])
        else:
            report("file-unknown", images / name, f"does not end in {ending}")
    labels = _labels(labels_folder, ending, set(found))
    for name in sorted(set(visible_files(labels_folder)) - set(labels.values())):
        report("file-unknown", labels_folder / name, f"does not end in {ending}")
    for case_id in sorted(found.keys() | labels.keys()):
        have = found.get(case_id, set())
        if not have:
            report("label-extra", labels_folder / labels[case_id], f"no image {case_id}_0000{ending}", case_id)
            continue
        for channel in sorted(have ^ set(range(channels))):
            file = images / f"{case_id}_{channel:04d}{ending}"
            if channel < channels:
                name = description.channel_names[channel]
                report("image-missing", file, f"missing (channel {channel}, {name})", case_id)
            else:
                report("image-extra", file, f"one channel too many; dataset.json names {channels}", case_id)
        if case_id not in labels:
            report("label-missing", labels_folder / f"{case_id}{ending}", "missing", case_id)
    files = {
        case_id: (
            tuple(str(images / f"{case_id}_{channel:04d}{ending}") for channel in range(channels)),
            str(labels_folder / labels.get(case_id, f"{case_id}{ending}")),
        )
        for case_id in found
    }
    return files, problems


def _labels(folder: Path, ending: str, cases: set[str]) -> dict[str, str]:
    """Case -> name of its label file.

    Labels of JPEG images may be PNG, those of .mhd images .mha, and those of .nrrd images may end in .seg.nrrd.
    """
    names = visible_files(folder)
    labels = {
        name[: len(name) - len(allowed)]: name
        for allowed in dict.fromkeys((ending, output_ending(ending)))
        for name in names
        if name.endswith(allowed)
    }
    for name in [name for name in labels if name.endswith(SLICER) and ending == ".nrrd" and name not in cases]:
        if name.removesuffix(SLICER) not in labels:
            labels[name.removesuffix(SLICER)] = labels.pop(name)
    return labels


def _listed_files(folder: Path, description: Description) -> tuple[Files, list[Problem]]:
    """The files of the ``dataset`` entries of dataset.json; relative to its folder."""
    channels = len(description.channel_names)
    files: Files = {}
    problems = []
    for case_id, (images, label) in description.entries.items():
        paths = [os.path.normpath(folder / name) for name in (*images, label)]
        files[case_id] = (tuple(paths[:-1]), paths[-1])
        if len(images) != channels:
            kind = "image-missing" if len(images) < channels else "image-extra"
            found = f"field 'dataset' lists {len(images)} images for {channels} channels"
            problems.append(
                problem(kind, found, dataset=folder.name, case_id=case_id, file=folder / "dataset.json")
            )
        for path in paths:
            if not os.path.isfile(path):
                kind = "label-missing" if path == paths[-1] else "image-missing"
                aim = dangling(Path(path))
                kind, found = (kind, "does not exist") if aim is None else ("link-dangling", aim)
                found = f"{found}; field 'dataset' of dataset.json names it"
                problems.append(problem(kind, found, dataset=folder.name, case_id=case_id, file=path))
    return files, problems
