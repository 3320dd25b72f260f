"""Masks that lie in a folder, ours or another program's, as answers to a data set."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from msgspec import structs

from mdkd_auto.core.errors import ImageError, MdkdError
from mdkd_auto.core.records import Case, Dataset
from mdkd_auto.datasets.case_names import visible_files
from mdkd_auto.datasets.case_reading import Array, checked_label, misnamed_segments
from mdkd_auto.datasets.links import dangling
from mdkd_auto.formats.dicom import CONVERT, find_dicom
from mdkd_auto.formats.file_endings import image_ending, is_image
from mdkd_auto.formats.read_write import Image, read_mask, same_geometry
from mdkd_auto.tasks.segmentation.mask_values import DATASET_JSON, Reading, read_labels, reading_of, written_classes
from mdkd_auto.tasks.segmentation.scoring import CaseScores, Summary, read_truth, summary_of
from mdkd_auto.tasks.segmentation.training import score_case
from mdkd_auto.tasks.shared.coverage import PREDICTION, Found, Truth, case_named, no_case, readable, shortened
from mdkd_auto.tasks.shared.prediction import mask_ending
from mdkd_auto.tasks.shared.scored_part import run_scored_in


class Scored(NamedTuple):
    """Mask files, scored."""

    summary: Summary
    notes: tuple[str, ...]  # on values that were not taken as they are
    broken: frozenset[str]  # cases whose label cannot be used


def score_mask_folder(folder: Path, truth: Truth, keep_classes: bool | None) -> Found:
    """Every case of a data set that has a mask in a folder, in the classes that the masks were written in.

    Raises MdkdError where no mask is for a case, or the masks are of other classes than asked for.
    """
    dataset, run = truth.dataset, run_scored_in(folder)
    written = written_classes(folder, dataset.name, run)
    reading = reading_of(dataset, keep_classes, written)
    matched, unmatched, doubtful = match_masks(folder, truth)
    if not matched and not doubtful:
        raise MdkdError(_no_mask(folder, dataset))
    masks = [(case, matched[case.case_id]) for case in dataset.cases if case.case_id in matched]
    summary, notes, unlabelled = score_files(masks, dataset, reading, folder.name)
    broken = {name: truth.broken[name] for name in matched if name in truth.broken}
    summary = structs.replace(summary, failed=summary.failed | doubtful | broken)
    renamed = [path.name for case, path in masks if path.name != f"{case.case_id}{mask_ending(case)}"]
    if renamed:
        expected = f"{{case}}{mask_ending(dataset.cases[0])}"
        notes += (f"{len(renamed)} of {len(masks)} masks are not named {expected}, such as {readable(renamed[0])}",)
    if written is None and run is None and (folder / PREDICTION).is_file():
        notes += (
            f"{PREDICTION} does not say how the masks were written, so their values are read as {DATASET_JSON} "
            "declares them",
        )
    if written is not None and len(reading.classes.channels) > 1 and keep_classes is None:
        notes += (f"each class is scored, as {written.source} says that they were written",)
    return Found(summary, {*matched, *doubtful}, "a mask", unmatched, notes, unlabelled.union(broken), matched)


def match_masks(folder: Path, truth: Truth) -> tuple[dict[str, Path], dict[str, str], dict[str, str]]:
    """Case -> its mask; file -> why it is not scored; case -> why it is unknown which of several files is its mask.

    A file named as mdkd_predict names it goes before one with another ending, and that before one named as an image.
    """
    names = truth.names
    endings = {case.case_id: mask_ending(case) for case in truth.dataset.cases}
    candidates: dict[str, list[tuple[int, str]]] = {}
    unmatched: dict[str, str] = {}
    for name in visible_files(folder):
        case_id = case_named(name, names) if is_image(name) else None
        if case_id is not None:
            exact = name == case_id + endings.get(case_id, "")
            rank = 0 if exact else 1 if len(name) - len(image_ending(name)) == len(case_id) else 2
            candidates.setdefault(case_id, []).append((rank, name))
        elif is_image(name):
            unmatched[name] = no_case(name, truth)
    unmatched |= {path.name: aim for path in sorted(folder.iterdir()) if (aim := dangling(path)) is not None}
    matched, doubtful = {}, {}
    for case_id, files in candidates.items():
        best = min(files)[0]
        chosen = [name for rank, name in files if rank == best]
        if len(chosen) > 1:
            doubtful[case_id] = f"{folder}: {' and '.join(chosen)} may both be its mask; keep the one that is right"
            continue
        matched[case_id] = folder / chosen[0]
        unmatched |= {name: f"{chosen[0]} is scored for {case_id}" for _, name in files if name != chosen[0]}
    return matched, unmatched, doubtful


def score_files(masks: Sequence[tuple[Case, Path]], dataset: Dataset, reading: Reading, part: str) -> Scored:
    """Score mask files; one that is missing, unreadable, off its label's grid or of other values is in ``failed``."""
    scores, failed, known = [], {}, True
    remapped: Counter[str] = Counter()
    held: set[int] = set()
    broken: set[str] = set()
    for case, path in masks:
        broken.add(case.case_id)
        try:
            truth = _checked_truth(case, dataset)
            broken.remove(case.case_id)
            labels, values, said = _labels_of(path, case, truth, reading, dataset)
        except MdkdError as error:
            failed[case.case_id] = str(error)
            continue
        held.update(values)
        remapped.update([said] if said else [])
        known = known and truth.spacing_known
        scores.append(CaseScores(case_id=case.case_id, metrics=score_case(labels, truth, reading.classes)))
    notes = [f"{count} mask{' holds' if count == 1 else 's hold'} {said}" for said, count in remapped.items()]
    cases = [case for case, _ in masks]
    summary = summary_of(scores, cases, dataset.name, part, "mm" if known else "px", failed)
    occurring = [
        one
        for one in reading.classes.channels
        if one.name in summary.mean and summary.mean[one.name].negative_cases < summary.mean[one.name].cases
    ]
    if occurring and held <= {0}:
        notes.append("all masks are empty, and not all labels are; were probabilities rounded down?")
    elif len(occurring) > 1 and held <= {0, 1} and reading.declared_by == DATASET_JSON:
        notes.append("all masks hold only 0 and 1; if all classes were merged into one, leave out --keep-classes")
    return Scored(summary, tuple(notes), frozenset(broken))


def _checked_truth(case: Case, dataset: Dataset) -> Image:
    """The label of a case. Raises MdkdError where its values are not those that dataset.json declares."""
    truth = read_truth(case, dataset)
    label, findings = checked_label(truth.array, Path(str(case.label)), dataset)
    findings += misnamed_segments(truth.header.segments, Path(str(case.label)), dataset)
    if label is None or findings:
        raise ImageError(f"{case.label}: {findings[0].found}", findings[0].kind)
    return replace(truth, array=label)


def _labels_of(
    path: Path, case: Case, truth: Image, reading: Reading, dataset: Dataset
) -> tuple[Array, tuple[int, ...], str]:
    """See :func:`mask_values.read_labels`; the file's name is added to its errors."""
    mask = read_mask(path, spacing_from=case.spacing_from)
    apart = not reading.one_class and reading.declared_by == DATASET_JSON
    if apart and (wrong := misnamed_segments(mask.header.segments, path, dataset)):
        raise ImageError(f"{path}: {wrong[0].found}")
    if (difference := same_geometry(mask, truth)) is not None:
        raise ImageError(f"{path}: does not lie on the grid of its label {case.label}: {difference}")
    try:
        return read_labels(mask.array, truth.array, reading)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None


def _no_mask(folder: Path, dataset: Dataset) -> str:
    """What the folder holds instead."""
    first = dataset.cases[0]
    images = [readable(name) for name in visible_files(folder) if is_image(name)]
    below = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    there = f"its images are {shortened(images)}" if images else "it holds no image"
    folders = f", and its folders {shortened([readable(name) for name in below])}" if below else ""
    dicom = f"; {readable(name)} is DICOM. {CONVERT}" if not images and (name := find_dicom(folder)) else ""
    return (
        f"{folder}: no mask is named as a case of {dataset.name} ({first.case_id}{mask_ending(first)}, ...); "
        f"{there}{folders}{dicom}"
    )
