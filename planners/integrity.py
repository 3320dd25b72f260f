"""Find problems with readable images from their fingerprints, per case and between cases."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mdkd_auto.core.records import Case, CaseFingerprint, Dataset, Fingerprint, Splits
from mdkd_auto.datasets.case_reading import LABEL
from mdkd_auto.datasets.dataset_json import likeness_of_name
from mdkd_auto.datasets.likely_patients import likely_subjects
from mdkd_auto.datasets.patients import plain_name
from mdkd_auto.datasets.problems import Problem, names_shown, problem
from mdkd_auto.datasets.splits import torn_patients
from mdkd_auto.datasets.task_data import TASK_DATA
from mdkd_auto.planners.near_duplicates import CANDIDATE_BITS, LEAST_SIMILARITY, near_pairs, similarity

ABSURD_VALUE = 1e8  # far beyond any scanner
UNUSUAL_VALUE = 1e6
UNUSUAL_VALUE_OF = {"CT": 32768.0}  # Hounsfield units fit into 16 bits
HOUNSFIELD_OFFSET = 32768.0  # added in 16-bit PNG and TIFF, which hold no negative numbers (DeepLesion)
LOWEST_HOUNSFIELD = -4096.0  # padding around a round field of view, with a margin
USUAL_SPACING_MM = (0.02, 20.0)
NAMES_SHOWN = 5  # per message
SPACING_TOLERANCE = 0.01  # relative
USUAL_SPACING_FACTOR = 3.0  # times the data set's median, up or down, on any axis


def check_dataset(dataset: Dataset, fingerprint: Fingerprint) -> list[Problem]:
    """Report everything unusual about the readable cases of one data set."""
    cases = {case.case_id: case for case in dataset.cases}
    problems: list[Problem] = []

    def report(kind: str, message: str, seen: CaseFingerprint, channel: int = 0) -> None:
        file = cases[seen.case_id].images[channel]
        problems.append(problem(kind, message, dataset=dataset.name, case_id=seen.case_id, file=file))

    for seen in fingerprint.cases:
        for channel, (low, high) in enumerate(zip(seen.image_minimum, seen.image_maximum, strict=True)):
            offset = HOUNSFIELD_OFFSET if dataset.modality == "CT" and _has_offset(low, high) else 0.0
            largest = max(abs(low - offset), abs(high - offset))
            if low == high:
                report("constant-image", f"every voxel is {low:g}", seen, channel)
            elif largest > ABSURD_VALUE:
                report("absurd-values", f"values from {low:g} to {high:g}", seen, channel)
            elif largest > UNUSUAL_VALUE_OF.get(dataset.modality, UNUSUAL_VALUE):
                report("unusual-values", f"values from {low:g} to {high:g} in {dataset.modality}", seen, channel)
        for kind, message, channel in seen.remarks:
            file = cases[seen.case_id].label if channel == LABEL else cases[seen.case_id].images[channel]
            problems.append(problem(kind, message, dataset=dataset.name, case_id=seen.case_id, file=file))
        if cases[seen.case_id].label is not None and seen.labelled_voxels == 0:
            report("label-empty", "its label is empty", seen)
        if seen.labelled_voxels == np.prod(seen.shape):
            report("label-full", "its label covers every voxel", seen)
    if dataset.modality == "CT":
        for seen, message in _odd_offsets(fingerprint.cases):
            report("unusual-values", message, seen)
    for seen, message in _odd_orientations(fingerprint.cases):
        report("orientation", message, seen)
    for seen, message in _odd_spacings(fingerprint.cases):
        report("spacing-unusual", message, seen)
    others = _other_spacings(dataset, fingerprint.cases)
    if others and dataset.spacing_mm is not None:
        first = others[0]
        stated, own = (" x ".join(f"{size:.3g}" for size in sizes) for sizes in (dataset.spacing_mm, first.spacing_mm))
        message = (
            f"spacing_mm is {stated} mm (z, y, x), but {len(others)} of {len(fingerprint.cases)} images have a "
            f"spacing of their own, {first.case_id} {own} mm"
        )
        file = f"{dataset.folder}/dataset.json"
        problems.append(problem("spacing-stated", message, dataset=dataset.name, file=file))
    turned = [seen.case_id for seen in fingerprint.cases if seen.exif]
    if turned:
        message = f"EXIF turns images upright: {names_shown(turned)} of {len(fingerprint.cases)}"
        remedy = "" if TASK_DATA[dataset.task].masks else "right where viewers show them upright; look at one"
        problems.append(problem("exif-turned", message, dataset=dataset.name, file=dataset.folder, remedy=remedy))
    flat = [seen for seen in fingerprint.cases if seen.shape[0] == 1]
    if flat and len(flat) < len(fingerprint.cases):
        message = f"{len(flat)} of {len(fingerprint.cases)} cases are single slices"
        problems.append(problem("mixed-dimensions", message, dataset=dataset.name, file=dataset.folder))
    for seen, first in _same_images(fingerprint.cases):
        patients = {cases[seen.case_id].patient_id, cases[first.case_id].patient_id}
        kind = "same-image" if len(patients) > 1 else "same-image-same-patient"
        report(kind, f"holds the same voxels as case {first.case_id}", seen)
    return problems


def _has_offset(low: float, high: float) -> bool:
    """Whether values are Hounsfield units plus 32768. They are used unchanged: normalisation removes the mean."""
    return low >= HOUNSFIELD_OFFSET + LOWEST_HOUNSFIELD and high < 2 * HOUNSFIELD_OFFSET


def _odd_offsets(cases: Sequence[CaseFingerprint]) -> list[tuple[CaseFingerprint, str]]:
    """Find CT images with the offset if most of the data set lack it, or the reverse."""
    shifted = [_has_offset(seen.image_minimum[0], seen.image_maximum[0]) for seen in cases]
    usual = 2 * sum(shifted) > len(cases)
    messages = ("no offset of 32768 as most of the images have", "an offset of 32768 as most of the images have not")
    return [
        (
            seen,
            f"values from {seen.image_minimum[0]:g} to {seen.image_maximum[0]:g}, with {messages[0 if usual else 1]}",
        )
        for seen, own in zip(cases, shifted, strict=True)
        if own != usual
    ]


def check_group(datasets: Sequence[Dataset], fingerprints: Mapping[str, Fingerprint]) -> list[Problem]:
    """Report images and patients shared by several data sets of a group, which makes sources and tests dependent.

    Also reports classes whose names are almost equal: classes share an output only if their names are equal.
    """
    problems = []
    seen_images: dict[str, tuple[str, str]] = {}
    seen_patients: dict[str, str] = {}
    seen_classes: dict[str, tuple[str, str]] = {}
    for dataset in datasets:
        cases = {case.case_id: case for case in dataset.cases}
        for case in fingerprints[dataset.name].cases:
            other, name = seen_images.setdefault(case.voxel_hash, (dataset.name, case.case_id))
            if other != dataset.name:
                problems.append(
                    problem(
                        "same-image-other-dataset",
                        f"holds the same voxels as case {name} of {other}",
                        dataset=dataset.name,
                        case_id=case.case_id,
                        file=cases[case.case_id].images[0],
                    )
                )
        for patient in _named_patients(dataset.cases):
            other = seen_patients.setdefault(patient, dataset.name)
            if other != dataset.name:
                message = f"patient_id {patient!r} of cases.csv is also in {other}"
                file = f"{dataset.folder}/cases.csv"
                problems.append(problem("same-patient-other-dataset", message, dataset=dataset.name, file=file))
        for label in dataset.labels if any(case.class_name is not None for case in dataset.cases) else ():
            other, name = seen_classes.setdefault(likeness_of_name(label), (dataset.name, label))
            if name != label:
                message = f"class {label!r} and class {name!r} of {other} differ by case or spaces alone"
                problems.append(problem("class-names-alike", message, dataset=dataset.name, file=dataset.folder))
    return problems


def check_classes(dataset: Dataset, splits: Splits) -> list[Problem]:
    """Report classes of a classification data set without cases, overall or in a part of the splits."""
    problems = []
    of_case = {case.case_id: case.class_name for case in dataset.cases}
    parts = {"the test part": splits.test} | {
        f"the validation part of fold {number}": fold.val for number, fold in enumerate(splits.folds)
    }
    for name in dataset.labels:
        count = sum(found == name for found in of_case.values())
        if count == 0:
            found, kind = f"class {name!r} has no case", "class-without-cases"
            problems.append(problem(kind, found, dataset=dataset.name, file=dataset.folder))
            continue
        lacking = [part for part, cases in parts.items() if cases and name not in {of_case.get(case) for case in cases}]
        if lacking:
            found = f"class {name!r} has {count} cases; {', '.join(lacking)} lacks it"
            problems.append(problem("class-rare", found, dataset=dataset.name, file=dataset.folder))
    return problems


def check_patients(dataset: Dataset, splits: Splits) -> list[Problem]:
    """Report patients separated by stated splits, and separated cases whose names suggest one subject."""
    problems = []
    if torn := torn_patients(dataset, splits):
        patients = len({case.patient_id for case in dataset.cases})
        message = f"{len(torn)} of {patients} patients have cases in several of test, validation and training: "
        message += _first_names(list(torn))
        problems.append(problem("patients-torn", message, dataset=dataset.name, file=dataset.folder))
    unknown = {case.case_id: plain_name(case, dataset.folder) for case in dataset.cases if not case.patient_by}
    subjects = likely_subjects(unknown.values())
    subject_of_name = {name: subject for subject, names in subjects.items() for name in names}
    subject_of = {case_id: subject_of_name[name] for case_id, name in unknown.items() if name in subject_of_name}
    if torn := torn_patients(dataset, splits, subject_of):
        names = subjects[next(iter(torn))]
        message = (
            f"{len(torn)} of {len(subjects)} subjects, going by names like {_first_names(names[:2])}, have cases in "
        )
        message += "several of test, validation and training"
        problems.append(problem("subjects-torn", message, dataset=dataset.name, file=dataset.folder))
    return problems


def check_likeness(
    datasets: Sequence[Dataset],
    fingerprints: Mapping[str, Fingerprint],
    splits: Mapping[str, Splits],
    allowed: bool = False,
) -> list[Problem]:
    """Report near-duplicate images: an error if one is tested on and the other trained on, unless ``allowed``.

    Without a test part, tables score the validation cases. The error concerns the training image, so that excluding it
    keeps the test part complete.
    """
    pictures = [
        (dataset, case, seen.picture_hash)
        for dataset in datasets
        for case, seen in _with_fingerprints(dataset, fingerprints[dataset.name])
    ]
    problems = []
    for first, second, bits in near_pairs([text for _, _, text in pictures]):
        a, b = pictures[first], pictures[second]
        (dataset, case), (other, twin), unfair = _trained_first(a[:2], b[:2], splits)
        if dataset is other and case.patient_id == twin.patient_id:
            continue
        message = f"looks the same as {_named_from(dataset, other, twin)} ({bits} of 256 bits differ)"
        kind = "near-duplicate"
        if unfair and not allowed:
            message, kind = f"{message}{unfair}", "near-duplicate-train-test"
        problems.append(problem(kind, message, dataset=dataset.name, case_id=case.case_id, file=case.images[0]))
    return problems


def check_thumbnails(
    datasets: Sequence[Dataset],
    fingerprints: Mapping[str, Fingerprint],
    splits: Mapping[str, Splits],
    thumbnail_of: Callable[[Dataset, Case], NDArray[np.uint8]],
) -> list[Problem]:
    """Report near-duplicate slices and volumes of different patients, once each; identical voxels are found elsewhere.

    ``thumbnail_of`` is called only for cases with similar hashes.
    """
    cases = [
        (dataset, case, seen)
        for dataset in datasets
        for case, seen in _with_fingerprints(dataset, fingerprints[dataset.name])
    ]
    problems: dict[tuple[str, str], Problem] = {}
    for first, second, _ in near_pairs([seen.thumbnail_hash for _, _, seen in cases], CANDIDATE_BITS):
        a, b = cases[first], cases[second]
        (dataset, case), (other, twin), unfair = _trained_first(a[:2], b[:2], splits)
        same_patient = dataset is other and case.patient_id == twin.patient_id
        key = dataset.name, case.case_id
        if same_patient or key in problems or a[2].voxel_hash == b[2].voxel_hash:
            continue
        alike = similarity(thumbnail_of(dataset, case), thumbnail_of(other, twin))
        if alike >= LEAST_SIMILARITY:
            message = f"looks the same as {_named_from(dataset, other, twin)} (similarity {alike:.2f}){unfair}"
            file = case.images[0]
            problems[key] = problem("near-duplicate-image", message, dataset=key[0], case_id=key[1], file=file)
    return list(problems.values())


def _trained_first(
    a: tuple[Dataset, Case], b: tuple[Dataset, Case], splits: Mapping[str, Splits]
) -> tuple[tuple[Dataset, Case], tuple[Dataset, Case], str]:
    """Order two cases so that the training case is first, and say how the other is scored; "" if that is no leak."""
    of_a, of_b = ((splits[dataset.name], case.case_id) for dataset, case in (a, b))
    unfair = [_scored_and_trained(*of_a, *of_b), _scored_and_trained(*of_b, *of_a)]  # the first of a pair is scored
    trained, other = (a, b) if unfair == [False, True] else (b, a)
    scored = "tested on" if splits[other[0].name].test else "validated on, as there is no test part"
    return trained, other, f", which is {scored}" if any(unfair) else ""


def _named_from(dataset: Dataset, other: Dataset, twin: Case) -> str:
    """Name a case from the viewpoint of ``dataset``."""
    return f"case {twin.case_id}" if dataset is other else f"case {twin.case_id} of {other.name}"


def _scored_and_trained(splits: Splits, case: str, others: Splits, other: str) -> bool:
    """Whether a table scores ``case`` with a model trained on ``other``."""
    if splits.test:
        return case in splits.test and other not in others.test
    numbers = range(max(len(splits.folds), len(others.folds)))
    folds = (
        (splits.folds[min(number, len(splits.folds) - 1)], others.folds[min(number, len(others.folds) - 1)])
        for number in numbers
    )
    return any(case in own.val and other in theirs.train for own, theirs in folds)


def _with_fingerprints(dataset: Dataset, fingerprint: Fingerprint) -> list[tuple[Case, CaseFingerprint]]:
    cases = {case.case_id: case for case in dataset.cases}
    return [(cases[seen.case_id], seen) for seen in fingerprint.cases if seen.case_id in cases]


def _odd_orientations(cases: Sequence[CaseFingerprint]) -> Iterable[tuple[CaseFingerprint, str]]:
    codes = Counter(case.orientation for case in cases if case.orientation)
    if len(codes) < 2:
        return
    usual, count = codes.most_common(1)[0]
    for case in cases:
        if case.orientation not in ("", usual):
            yield case, f"its axes point to {case.orientation}, those of {count} other cases to {usual}"


def _other_spacings(dataset: Dataset, cases: Sequence[CaseFingerprint]) -> list[CaseFingerprint]:
    """Find cases whose own spacing, from file or table, differs from dataset.json."""
    if dataset.spacing_mm is None:
        return []
    differing = []
    for case in cases:
        axes = slice(1 if case.shape[0] == 1 else 0, None)  # a slice has no spacing along z
        if not np.allclose(case.spacing_mm[axes], dataset.spacing_mm[axes], SPACING_TOLERANCE, 0):
            differing.append(case)
    return differing


def _odd_spacings(cases: Sequence[CaseFingerprint]) -> Iterable[tuple[CaseFingerprint, str]]:
    known = [case for case in cases if case.spacing_known]
    if not known:
        return
    median = np.median([case.spacing_mm for case in known], axis=0)
    low, high = USUAL_SPACING_MM
    for case in known:
        spacing = np.array(case.spacing_mm)[1 if case.shape[0] == 1 else 0 :]
        ratio = spacing / median[-spacing.size :]
        shown = " x ".join(f"{size:.3g}" for size in case.spacing_mm)
        if spacing.min() < low or spacing.max() > high:
            yield case, f"its voxels are {shown} mm"
        elif ratio.max() > USUAL_SPACING_FACTOR or ratio.min() < 1 / USUAL_SPACING_FACTOR:
            usual = " x ".join(f"{size:.3g}" for size in median)
            yield case, f"its voxels are {shown} mm, the data set's median {usual} mm"


def _same_images(cases: Sequence[CaseFingerprint]) -> Iterable[tuple[CaseFingerprint, CaseFingerprint]]:
    """Pair each repeated image with its first occurrence; constant images are reported elsewhere."""
    first: dict[str, CaseFingerprint] = {}
    for case in cases:
        earlier = first.setdefault(case.voxel_hash, case)
        if earlier is not case and case.image_minimum != case.image_maximum:
            yield case, earlier


def _first_names(names: Sequence[str]) -> str:
    """Format the first names."""
    return ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")


def _named_patients(cases: Sequence[Case]) -> list[str]:
    """Patients named in cases.csv; case names are not used: sub-01 exists in every data set."""
    stated = (case for case in cases if case.patient_by not in ("pattern", "name"))
    return sorted({case.patient_id for case in stated if case.patient_id != case.case_id})
